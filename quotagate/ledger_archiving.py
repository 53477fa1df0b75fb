"""Runs `quotagate ledger archive`: month by month, with a bar that shows how far it is."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ledger import archive, schema
from ledger.archive_files import month_of, name_of
from ledger.archive_readiness import months_to_archive
from ledger.store import ALL_TENANTS, connect, transaction
from quota.errors import InvalidRequest, Unsafe
from quotagate.operator import by_operator, stores


def run_archive(
    environment: Mapping[str, str], data: Path, *, before: str, out: Path, drop: bool, is_quiet: bool
) -> dict[str, Any]:
    """Archives every month before `before` that is still in the ledger, oldest first, and says what it did. It stops at
    the first month that cannot be archived, with those before it done."""
    first_left = month_of(before)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"cannot make {out}: {error.strerror}") from error
    owner = connect(stores(environment, data, "owner_database_url").owner_database_url, pool_size=2)
    archived, dropped, by = [], [], by_operator()
    try:
        with archive.alone(owner), _report(is_quiet) as report:
            with transaction(owner, ALL_TENANTS) as connection:
                if other := schema.other_revision(connection):
                    raise Unsafe(other)
                months = months_to_archive(connection, first_left)
            for month in months:
                archive.export(owner, month, out, report)
                manifest = archive.take_out(owner, month, out, by, report)
                archived.append({"month": manifest.month, "entries": manifest.entries, "sha256": manifest.sha256})
                if drop:
                    archive.drop(owner, month, out, by)
                    dropped.append(name_of(month))
            if drop:
                with transaction(owner, ALL_TENANTS) as connection:
                    left = [month for month in archive.left_tables(connection) if month < first_left]
                for month in left:
                    archive.drop(owner, month, out, by)
                    dropped.append(name_of(month))
    finally:
        owner.dispose()
    return {"archived": archived, "dropped": sorted(dropped)}


@contextmanager
def _report(is_quiet: bool) -> Iterator[archive.Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    is_shown = not is_quiet and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not is_shown) as progress:
        tasks: dict[tuple[str, date], Any] = {}

        def report(what: str, month: date, done: int, total: int) -> None:
            if (what, month) not in tasks:
                tasks[what, month] = progress.add_task(f"{what} {name_of(month)}", total=total)
            progress.update(tasks[what, month], completed=done)

        yield report
