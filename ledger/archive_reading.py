"""Reading a ledger together with its archived months.

Each new connection copies them into a temporary table, and gets views of its own named `entries`, `carried` and
`archives`: they are found before the tables of these names, so every statement that goes through the ledger reads both
parts, and knows no difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Engine, event

from ledger import archive_files
from ledger.archive_files import COLUMNS, Manifest, blocks, csv_file, name_of
from ledger.store import ALL_TENANTS, connect, transaction
from quota.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ReadMonths:
    """The archived months of a folder that are read: the newest ones of the ledger, without a hole. Before `first`, it
    goes by what is carried."""

    folder: Path
    manifests: tuple[Manifest, ...]

    @property
    def months(self) -> list[date]:
        return [archive_files.month_of(each.month) for each in self.manifests]


def months_to_read(engine: Engine, folder: Path) -> ReadMonths:
    """Those of the folder's months that the ledger knows to be archived. InvalidRequest if one is missing, or is not
    what the ledger noted of it; all files are read through and their sums compared."""
    with transaction(engine, ALL_TENANTS) as connection:
        noted = connection.exec_driver_sql("SELECT month, entries, sha256 FROM archives ORDER BY month").all()
    there = set(archive_files.months_in(folder))
    wanted = [row for row in noted if row.month in there]
    if not wanted:
        raise InvalidRequest(f"{folder} has no month that was archived from this ledger")
    holes = [row.month for row in noted if row.month > wanted[0].month and row.month not in there]
    if holes:
        raise InvalidRequest(f"{folder} lacks {', '.join(map(name_of, holes))}, archived as well")
    manifests = []
    for row in wanted:
        manifest = archive_files.read_back(folder, row.month)
        if (manifest.sha256, manifest.entries) != (row.sha256, row.entries):
            raise InvalidRequest(f"what {folder} has of {name_of(row.month)} is not what was archived from this ledger")
        manifests.append(manifest)
    return ReadMonths(folder, tuple(manifests))


def connect_with(url: str, read: ReadMonths) -> Engine:
    """An engine whose connections read the archived months as well. One connection: each has its own copy."""
    engine = connect(url, pool_size=1)

    @event.listens_for(engine, "connect")
    def prepare(connection: "psycopg.Connection[Any]", _record: object) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true)")
            _copy(cursor, read)
            _views(cursor, read.months)

    return engine


# Row-level security, as on the table whose place it takes: what is asked for in a tenant's scope is only that tenant's.
# It is enabled when the rows are in it, because COPY writes to no table under it.
_TABLE = """
CREATE TEMPORARY TABLE archived_entries AS SELECT * FROM public.entries WITH NO DATA;
ALTER TABLE pg_temp.archived_entries FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON pg_temp.archived_entries
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""

_WHOLE = """
CREATE UNIQUE INDEX ON pg_temp.archived_entries (shard, epoch, n, occurred_at);
CREATE INDEX ON pg_temp.archived_entries (tenant, subject, metric, epoch, n);
CREATE INDEX ON pg_temp.archived_entries (tenant, occurred_at, shard, epoch, n);
ANALYZE pg_temp.archived_entries;
ALTER TABLE pg_temp.archived_entries ENABLE ROW LEVEL SECURITY;
"""

_copy_statement = sql.SQL("COPY pg_temp.archived_entries ({columns}) FROM STDIN WITH (FORMAT csv, HEADER true)")


def _copy(cursor: "psycopg.Cursor[Any]", read: ReadMonths) -> None:
    cursor.execute(_TABLE)
    for month, manifest in zip(read.months, read.manifests, strict=True):
        columns = sql.SQL(", ").join(map(sql.Identifier, manifest.columns))
        digest = sha256()
        with cursor.copy(_copy_statement.format(columns=columns)) as copy:
            for block in blocks(csv_file(read.folder, month)):
                digest.update(block)
                copy.write(block)
        if (cursor.rowcount, digest.hexdigest()) != (manifest.entries, manifest.sha256):
            raise InvalidRequest(f"what {read.folder} has of {name_of(month)} has changed while it was read")
    cursor.execute(_WHOLE)


_entries_view = sql.SQL(
    "CREATE TEMPORARY VIEW entries AS SELECT {columns} FROM public.entries "
    "UNION ALL SELECT {columns} FROM pg_temp.archived_entries"
)
_carried_view = sql.SQL("CREATE TEMPORARY VIEW carried AS SELECT * FROM public.carried WHERE month < {first}")
_archives_view = sql.SQL("CREATE TEMPORARY VIEW archives AS SELECT * FROM public.archives WHERE month < {first}")


def _views(cursor: "psycopg.Cursor[Any]", months: Sequence[date]) -> None:
    cursor.execute(_entries_view.format(columns=sql.SQL(", ").join(map(sql.Identifier, COLUMNS))))
    first = sql.Literal(months[0])
    cursor.execute(_carried_view.format(first=first))
    cursor.execute(_archives_view.format(first=first))
