"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

import os
from pathlib import Path

import click

from quotagate.audit_command import audit
from quotagate.catalog_commands import catalog
from quotagate.completion import completion
from quotagate.counter_commands import rebuild, reconcile
from quotagate.grouped_help import GroupedCommands
from quotagate.key_commands import key, tenant
from quotagate.ledger_commands import ledger
from quotagate.looking_commands import doctor, incidents
from quotagate.plain_commands import data_option, plainly
from quotagate.process_commands import gateway, migrate, scheduler, up, worker


@click.group(cls=GroupedCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="quotagate")
def main() -> None:
    """A Redis-first quota gateway with a Postgres ledger."""


for command in (up, gateway, worker, scheduler, migrate):
    main.add_command(command)
for command in (doctor, incidents):
    main.add_command(command)
main.add_command(tenant)
main.add_command(key)
main.add_command(catalog)
main.add_command(audit)


@main.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on; 0 = any free one.  [default: 8080]")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".data"),
    show_default=True,
    help="Folder for everything that is kept.",
)
@click.option("--catalog", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="TOML or JSON to apply.")
@plainly
def up(host: str | None, port: int | None, data: Path, catalog: Path | None) -> None:
    """Start everything on this machine, and stay until Ctrl-C."""
    from quotagate.up import Up

    sys.exit(Up(os.environ, host=host, port=port, data=data, catalog=catalog).run())


@main.command()
@click.option("--fd", type=int, hidden=True, help="A listening socket that the parent has opened.")
@plainly
def gateway(fd: int | None) -> None:
    """Serve HTTP."""
    from quotagate.parts import run_gateway

    sys.exit(run_gateway(os.environ, fd))


@main.command()
@click.option("--role", type=click.Choice(["drain", "jobs"]), help="Serve one role only.  [default: both]")
@plainly
def worker(role: str | None) -> None:
    """Move the journal into the ledger, and run the other jobs."""
    from quotagate.parts import run_worker

    sys.exit(run_worker(os.environ, role))


@main.command()
@plainly
def scheduler() -> None:
    """Start jobs when they are due."""
    from quotagate.parts import run_scheduler

    sys.exit(run_scheduler(os.environ))


@main.command()
@plainly
def migrate() -> None:
    """Bring the database to this version's schema, and make the application's login."""
    from quotagate.parts import run_migrate

    run_migrate(os.environ)
    click.echo("The database is at this version's schema.")


@main.command()
@data_option
@click.option(
    "--incidents-h",
    type=click.IntRange(0, 8_760),
    default=24,
    show_default=True,
    help="Tell of the incidents of so many hours; 0 = of none.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@plainly
def doctor(data: Path, incidents_h: int, as_json: bool) -> None:
    """Say what is unsafe or broken in this deployment, and what to do about it.

    Exit status: 0 nothing is, 1 something is, 2 it could not be looked at.
    """
    from quotagate.doctor import run_doctor

    sys.exit(EXIT_FOUND if run_doctor(os.environ, data, incidents_h=incidents_h, as_json=as_json) else 0)


@main.command()
@data_option
@click.option("--hours", type=click.IntRange(1, 87_600), default=24, show_default=True, help="How far back.")
@click.option("--kind", help="Only of this kind: lost, rewound, lost_entries, gap, fork, seal, clock …")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON documents, one a line.")
@plainly
def incidents(data: Path, hours: int, kind: str | None, limit: int, as_json: bool) -> None:
    """Tell what ought not to have been: what was lost, whose, how much, from when to when; and what to do.

    Exit status: 0 there was nothing, 1 there was something, 2 it could not be looked at.
    """
    from quotagate.incidents import run_incidents

    found = run_incidents(os.environ, data, hours=hours, kind=kind, limit=limit, as_json=as_json)
    sys.exit(EXIT_FOUND if found else 0)


@main.command()
@data_option
@click.option("--no-correct", "corrections", flag_value="none", help="Tell what differs and change nothing.")
@click.option("--correct-all", "corrections", flag_value="all", help="Correct everything, however much it is.")
@click.option("--history", type=click.IntRange(1, 1000), help="Compare nothing, and print the last runs, so many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@plainly
def reconcile(data: Path, corrections: str | None, history: int | None, as_json: bool) -> None:
    """Compare every counter with the ledger, and correct what differs.

    Corrects nothing when more than QUOTAGATE_MAX_CORRECTIONS accounts or QUOTAGATE_MAX_DRIFT_PCT percent of them drift,
    or half of a shard in one direction: then something else is wrong.

    Exit status: 0 nothing differs, 1 something differed (corrected or not), 2 it could not be done.
    """
    from quotagate.operator import run_history, run_reconcile

    if history is not None:
        run_history(os.environ, data, history, as_json=as_json)
        return
    found = run_reconcile(os.environ, data, corrections=corrections or "guarded", as_json=as_json)
    sys.exit(EXIT_FOUND if found else 0)


@main.command()
@data_option
@click.option("--tenant", help="Only this tenant's accounts.")
@click.option("--subject", help="Only this subject's; needs --tenant.")
@click.option("--shard", type=click.IntRange(0), help="Only those of this shard.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@plainly
def rebuild(data: Path, tenant: str | None, subject: str | None, shard: int | None, as_json: bool) -> None:
    """Bring accounts that Redis has not got in again from the ledger; exit 1 if some could not be."""
    from quotagate.rebuilding import run_rebuild

    sys.exit(0 if run_rebuild(os.environ, data, tenant, subject, shard, as_json=as_json) else EXIT_FOUND)
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
def apply_catalog(file: Path, tenant: str, dry_run: bool, data: Path, as_json: bool) -> None:
    """Compare FILE (TOML or JSON) with the catalog that holds now, and apply it."""
    from quotagate.operator import run_catalog_apply
    run_catalog_apply(os.environ, data, file, tenant, dry_run=dry_run, as_json=as_json)
@catalog.command("show")
@click.option("--tenant", default="default", show_default=True, help="Whose it is.")
def show_catalog(tenant: str, data: Path) -> None:
    """Print the catalog that holds now, as JSON."""
    from quotagate.operator import run_catalog_show
    run_catalog_show(os.environ, data, tenant)
