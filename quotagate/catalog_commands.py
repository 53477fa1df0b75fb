"""`quotagate catalog …`: plans, metrics and operations as one document that is kept beside the code."""

import os
import sys
from pathlib import Path

import click

from quotagate.plain_commands import EXIT_FOUND, data_option, plainly

tenant_option = click.option("--tenant", default="default", show_default=True, help="Whose it is.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
file_argument = click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))


@click.group()
def catalog() -> None:
    """Plans, metrics and operations, as one document."""


@catalog.command("apply")
@file_argument
@tenant_option
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask; needed where there is no terminal.")
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@click.option("--reason", help="Why, for the history and the audit log.")
@data_option
@json_option
@plainly
def apply_catalog(
    *, file: Path, tenant: str, is_agreed: bool, dry_run: bool, reason: str | None, data: Path, as_json: bool
) -> None:
    """Show what FILE (TOML or JSON) changes and for how many subjects, ask, and apply it.

    Exit status: 0 applied, or nothing differs; 2 nothing was applied.
    """
    from quotagate.catalog_running import run_catalog_apply

    run_catalog_apply(
        os.environ, data, file, tenant, is_agreed=is_agreed, dry_run=dry_run, reason=reason, as_json=as_json
    )


@catalog.command("diff")
@file_argument
@tenant_option
@data_option
@json_option
@plainly
def diff_catalog(file: Path, tenant: str, data: Path, as_json: bool) -> None:
    """Show what FILE would change, for how many subjects, and who would be over a limit.

    Exit status: 0 nothing differs, 1 something does, 2 it could not be compared.
    """
    from quotagate.catalog_running import run_catalog_diff

    sys.exit(EXIT_FOUND if run_catalog_diff(os.environ, data, file, tenant, as_json=as_json) else 0)


@catalog.command("show")
@tenant_option
@click.option("--version", type=click.IntRange(1, 10**18), help="This version.  [default: the one that holds now]")
@click.option("--at", metavar="INSTANT", help="The one that held then, such as 2026-11-01T00:00:00Z.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["toml", "json"]),
    default="toml",
    show_default=True,
    help="How it is written.",
)
@data_option
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@plainly
def show_catalog(tenant: str, version: int | None, at: str | None, form: str, data: Path) -> None:
    """Print a catalog, to be edited and applied again."""
    from quotagate.catalog_running import run_catalog_show

    if version is not None and at is not None:
        raise click.UsageError("name a --version or an instant with --at, not both")
    run_catalog_show(os.environ, data, tenant, version=version, at=at, form=form)


@catalog.command("history")
@tenant_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The newest so many.")
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON documents, one a line.")
@plainly
def catalog_history(tenant: str, limit: int, data: Path, as_json: bool) -> None:
    """Show every version: when it was applied, by whom, why, and how much it changed."""
    from quotagate.catalog_running import run_catalog_history

    run_catalog_history(os.environ, data, tenant, limit, as_json=as_json)
