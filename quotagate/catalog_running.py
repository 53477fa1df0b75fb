"""What `quotagate catalog …` does. What is shown is what is applied: if another version came between, nothing is."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection

from ledger import catalog_effects, catalogs
from ledger.catalog_effects import Counted
from ledger.store import connect, transaction
from quota.catalog import Catalog, Change, difference, to_document
from quota.errors import Unsafe
from quota.identifiers import checked_identifier
from quota.periods import from_rfc3339
from quotagate import catalog_printing
from quotagate.catalog_file import read_catalog
from quotagate.operator import by_operator, stores
from quotagate.patience import saying_what_takes_long
from quotagate.plain_commands import counted


@dataclass(frozen=True, slots=True)
class Compared:
    """A catalog from a file, against the version that holds."""

    catalog: Catalog
    version: int
    changes: list[Change]
    effects: list[Counted]

    def to_document(self) -> dict[str, Any]:
        """As PUT /v1/catalog?dry_run=true answers."""
        return {
            "version": self.version,
            "applied": False,
            "changes": [str(change) for change in self.changes],
            "effects": [each.to_document() for each in self.effects],
            "catalog": to_document(self.catalog),
        }

    def show(self) -> None:
        if not self.changes:
            click.echo(f"Nothing differs from version {self.version}.")
            return
        catalog_printing.print_effects(self.effects)
        click.echo(catalog_printing.summary_line(self.effects, self.version))


def run_catalog_diff(environment: Mapping[str, str], data: Path, file: Path, tenant: str, *, as_json: bool) -> bool:
    """Prints what the file would change; whether it would change anything."""
    compared = _compared(environment, data, file, tenant)
    if as_json:
        click.echo(json.dumps(compared.to_document()))
    else:
        compared.show()
    return bool(compared.changes)


def run_catalog_apply(
    environment: Mapping[str, str],
    data: Path,
    file: Path,
    tenant: str,
    *,
    is_agreed: bool,
    dry_run: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Shows what the file changes, asks, and applies it."""
    compared = _compared(environment, data, file, tenant)
    if not as_json:
        compared.show()
    if dry_run or not compared.changes:
        if as_json:
            click.echo(json.dumps(compared.to_document()))
        elif compared.changes:
            click.echo("Nothing was applied (dry run).")
        return
    if not is_agreed:
        _ask()
    result = asyncio.run(_apply(environment, data, tenant, compared, reason))
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"{counted(len(result['changes']), 'change')} applied: version {result['version']}.")


def _ask() -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Unsafe("nobody is there to be asked, nothing was applied: say --yes to apply without asking")
    if not click.confirm("Apply?", err=True):
        raise Unsafe("nothing was applied")


async def _apply(
    environment: Mapping[str, str], data: Path, tenant: str, compared: Compared, reason: str | None
) -> dict[str, Any]:
    from gateway.app import Gateway
    from gateway.catalog import apply_catalog

    gateway = Gateway(stores(environment, data, "redis_url", "database_url"))
    try:
        with saying_what_takes_long("opening the stores …"):
            parts = await gateway.open()
        return await apply_catalog(
            gateway.store,
            parts.admission,
            tenant,
            compared.catalog,
            by_operator(reason),
            dry_run=False,
            based_on=compared.version,
        )
    finally:
        await gateway.close()


def _compared(environment: Mapping[str, str], data: Path, file: Path, tenant: str) -> Compared:
    catalog = read_catalog(file)
    words = "counting for how many subjects something changes …"
    with saying_what_takes_long(words), _ledger(environment, data, tenant) as connection:
        version, current = catalogs.newest(connection, tenant)
        effects = catalog_effects.counted(connection, tenant, current, catalog, int(time.time() * 1000))
    return Compared(catalog, version, difference(current, catalog), effects)


def run_catalog_show(
    environment: Mapping[str, str], data: Path, tenant: str, *, version: int | None, at: str | None, form: str
) -> None:
    """Prints a version of the catalog, the newest if none is named."""
    from quota.catalog_toml import to_toml

    at_ms = None if at is None else from_rfc3339(at)
    with _ledger(environment, data, tenant) as connection:
        if version is None and at_ms is None:
            _, catalog = catalogs.newest(connection, tenant)
        else:
            _, catalog = catalogs.kept(connection, tenant, version=version, at_ms=at_ms)
    click.echo(to_toml(catalog) if form == "toml" else json.dumps(to_document(catalog), indent=2), nl=form != "toml")


def run_catalog_history(environment: Mapping[str, str], data: Path, tenant: str, limit: int, *, as_json: bool) -> None:
    """Prints versions, the newest first."""
    with _ledger(environment, data, tenant) as connection:
        found = catalogs.history(connection, tenant, limit)
    if as_json:
        for each in found:
            click.echo(json.dumps(each.to_document()))
    elif found:
        catalog_printing.print_versions(found)
    if len(found) == limit:
        click.echo(f"The newest {limit:,} are shown; --limit shows more.", err=True)
    elif not found:
        click.echo("There is no catalog yet: `quotagate catalog apply FILE` makes the first version.", err=True)


@contextmanager
def _ledger(environment: Mapping[str, str], data: Path, tenant: str) -> Iterator[Connection]:
    checked_identifier(tenant, "tenant")
    engine = connect(stores(environment, data, "database_url").database_url, pool_size=1)
    try:
        with transaction(engine, tenant) as connection:
            yield connection
    finally:
        engine.dispose()
