"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

import os
from pathlib import Path

import click

from quotagate.completion import completion
from quotagate.counter_commands import rebuild, reconcile
from quotagate.grouped_help import GroupedCommands
from quotagate.key_commands import key, tenant
from quotagate.ledger_commands import ledger
from quotagate.looking_commands import doctor, incidents, top
from quotagate.plain_commands import data_option, plainly
from quotagate.process_commands import gateway, migrate, scheduler, up, worker
from quotagate.subject_commands import subject


@click.group(cls=GroupedCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="quotagate")
def main() -> None:
    """A Redis-first quota gateway with a Postgres ledger."""


for command in (up, gateway, worker, scheduler, migrate):
    main.add_command(command)
for command in (doctor, top, incidents):
    main.add_command(command)
main.add_command(subject)
main.add_command(tenant)
main.add_command(key)
main.add_command(ledger)
main.add_command(reconcile)
main.add_command(rebuild)
main.add_command(completion)


@main.group()
def catalog() -> None:
    """Plans, metrics and operations, as one document."""


@catalog.command("apply")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--tenant", default="default", show_default=True, help="Whose it is.")
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@plainly
def apply_catalog(file: Path, tenant: str, dry_run: bool, data: Path, as_json: bool) -> None:
    """Compare FILE (TOML or JSON) with the catalog that holds now, and apply it."""
    from quotagate.operator import run_catalog_apply

    run_catalog_apply(os.environ, data, file, tenant, dry_run=dry_run, as_json=as_json)


@catalog.command("show")
@click.option("--tenant", default="default", show_default=True, help="Whose it is.")
@data_option
@plainly
def show_catalog(tenant: str, data: Path) -> None:
    """Print the catalog that holds now, as JSON."""
    from quotagate.operator import run_catalog_show

    run_catalog_show(os.environ, data, tenant)
