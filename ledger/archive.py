"""Archiving: an old month's entries are written to a file, compared with it, and only then taken out of the ledger.

Nothing is archived by itself: it is the owner's act, and the application's role cannot do it. What the entries of the
month add up to stays behind in `carried`, in the very transaction that takes them out, so that whoever adds up what is
left begins with it. Each step may be cut off anywhere and done again (decision 016).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from alembic.runtime.migration import MigrationContext
from psycopg import sql
from sqlalchemy import Connection, Engine, insert, text

from ledger import acts, archive_files, chain, shards
from ledger.acts import By
from ledger.archive_carrying import carry
from ledger.archive_files import Manifest, bounds, name_of
from ledger.archive_readiness import refuse_unready
from ledger.archive_tables import archives
from ledger.store import ALL_TENANTS, transaction
from quota.errors import Conflict, InvalidRequest, LedgerUnavailable, Unsafe

LOCK_TIMEOUT_MS = 1_000
"""Whoever reads entries meanwhile waits no longer than this."""
LOCK_TRIES = 30
PAUSE_S = 0.5
"""Between two tries, so that those who waited have their turn."""

Report = Callable[[str, date, int, int], None]
"""Is told what is being done to a month, and how many of its entries are done."""


def _partition(month: date) -> str:
    return f"entries_{month:%Y_%m}"


def _detached(month: date) -> str:
    return f"archived_{month:%Y_%m}"


@contextmanager
def alone(owner: Engine) -> Iterator[None]:
    """Conflict while somebody else archives this ledger; Unsafe if this login does not own it."""
    with transaction(owner, ALL_TENANTS) as connection:
        row = connection.execute(_may_archive).one()
        if not row.owns:
            raise Unsafe(
                f"the role {row.role} does not own the ledger's entries: archiving is the owner's act, so name the "
                "login that migrates with QUOTAGATE_OWNER_DATABASE_URL"
            )
        if not row.is_alone:
            raise Conflict("somebody else archives this ledger at the moment")
        yield


_may_archive = text(
    """
    SELECT current_user AS role, pg_has_role(current_user, c.relowner, 'MEMBER') AS owns,
           pg_try_advisory_xact_lock(7261004) AS is_alone
    FROM pg_class c WHERE c.oid = CAST('public.entries' AS regclass)
    """
)


def export(owner: Engine, month: date, folder: Path, report: Report) -> None:
    """Writes the month's files, unless they are there; what is there is compared by `take_out`."""
    if archive_files.manifest_file(folder, month).exists():
        return
    frozen = owner.execution_options(isolation_level="REPEATABLE READ")
    with transaction(frozen, ALL_TENANTS) as connection:
        connection.execute(_plainly)
        refuse_unready(connection, month)
        counted = connection.execute(_counted, bounds(month)).one()
        cursor = _cursor(connection)
        done = archive_files.write_csv(cursor, folder, month, lambda n: report("export", month, n, counted.entries))
        manifest = Manifest(
            store=shards.store_id(connection),
            month=name_of(month),
            entries=done.entries,
            sha256=done.sha256,
            file_sha256=archive_files.sha256_of(archive_files.csv_file(folder, month)),
            columns=archive_files.COLUMNS,
            first_at=counted.first_at,
            last_at=counted.last_at,
            revision=str(MigrationContext.configure(connection).get_current_revision()),
            places=_places(connection, month),
        )
        archive_files.write_manifest(folder, month, manifest)


_plainly = text(
    "SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true), "
    "set_config('IntervalStyle', 'iso_8601', true)"
)

_counted = text(
    """
    SELECT count(*) AS entries, min(occurred_at) AS first_at, max(occurred_at) AS last_at FROM entries
    WHERE occurred_at >= :since AND occurred_at < :till
    """
)

# Neighbours have the same difference between n and their number. A fork's entries are left out: they have places of
# others, and their links know their instants.
_ranges = text(
    """
    SELECT shard, epoch, min(n) AS first_n, max(n) AS last_n FROM (
        SELECT e.shard, e.epoch, e.n,
               e.n - row_number() OVER (PARTITION BY e.shard, e.epoch ORDER BY e.n) AS run
        FROM entries e
        WHERE e.occurred_at >= :since AND e.occurred_at < :till AND NOT EXISTS (
            SELECT FROM unnest(CAST(:shards AS integer[]), CAST(:epochs AS bigint[]), CAST(:ns AS bigint[]),
                               CAST(:instants AS bigint[])) AS forked (shard, epoch, n, at_us)
            WHERE (forked.shard, forked.epoch, forked.n) = (e.shard, e.epoch, e.n)
              AND forked.at_us = CAST(extract(epoch FROM e.occurred_at) * 1000000 AS bigint)
        )
    ) AS numbered
    GROUP BY shard, epoch, run ORDER BY shard, epoch, first_n
    """
)


def _places(connection: Connection, month: date) -> dict[str, list[tuple[int, int, int]]]:
    forked = [
        (shard, *instant) for shard in shards.offsets(connection) for instant in sorted(chain.forked(connection, shard))
    ]
    names = ("shards", "epochs", "ns", "instants")
    arrays = {name: [each[number] for each in forked] for number, name in enumerate(names)}
    found: dict[str, list[tuple[int, int, int]]] = {}
    for row in connection.execute(_ranges, bounds(month) | arrays):
        found.setdefault(str(row.shard), []).append((row.epoch, row.first_n, row.last_n))
    return found


def take_out(owner: Engine, month: date, folder: Path, by: By, report: Report) -> Manifest:
    """Compares the month's file, entry by entry, with what the ledger has, and takes the month out of it: all in one
    transaction, in which nobody can add to the month. InvalidRequest or Conflict, and nothing is changed."""
    manifest = archive_files.read_back(folder, month)
    with transaction(owner, ALL_TENANTS) as connection:
        connection.execute(_plainly)
        if manifest.store != shards.store_id(connection):
            raise InvalidRequest(f"what {folder} has of {name_of(month)} is an archive of another ledger")
        cursor = _cursor(connection)
        cursor.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE MODE").format(sql.Identifier(_partition(month))))
        refuse_unready(connection, month)
        there = archive_files.copied(
            cursor, month, lambda _: None, lambda n: report("compare", month, n, manifest.entries)
        )
        if (there.entries, there.sha256) != (manifest.entries, manifest.sha256):
            raise Conflict(
                f"what {folder} has of {name_of(month)} ({manifest.entries:,} entries) differs from what the ledger "
                f"has ({there.entries:,}): look into it, and archive to another folder"
            )
        if manifest.places != _places(connection, month):
            raise Conflict(f"what {folder} has of {name_of(month)} names other places than the ledger has")
        carry(connection, month, bounds(month))
        connection.execute(
            insert(archives).values(
                month=month,
                entries=manifest.entries,
                sha256=manifest.sha256,
                places=msgspec.to_builtins(manifest.places),
                archived_by=text("session_user"),
            )
        )
        told = {"entries": manifest.entries, "sha256": manifest.sha256, "folder": str(folder)}
        acts.note(connection, ALL_TENANTS, by, "month.archived", object=manifest.month, after=told)
        _detach(cursor, month)
    return manifest


def _detach(cursor: "psycopg.Cursor[Any]", month: date) -> None:
    """Last of all, because nobody can read entries from here to the commit. Not CONCURRENTLY, which is no part of a
    transaction: the entries would be away, and not carried."""
    names = {"partition": sql.Identifier(_partition(month)), "detached": sql.Identifier(_detached(month))}
    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_TIMEOUT_MS}ms"])
    for _ in range(LOCK_TRIES):
        try:
            with cursor.connection.transaction():
                cursor.execute(sql.SQL("ALTER TABLE public.entries DETACH PARTITION {partition}").format(**names))
                break
        except psycopg.errors.LockNotAvailable:
            time.sleep(PAUSE_S)
    else:
        raise LedgerUnavailable(
            f"{name_of(month)} could not be detached: others read entries without a pause; nothing was changed"
        )
    cursor.execute(sql.SQL("ALTER TABLE {partition} RENAME TO {detached}").format(**names))
    cursor.execute(sql.SQL("REVOKE ALL ON TABLE {detached} FROM PUBLIC, quotagate_app").format(**names))


def left_tables(connection: Connection) -> list[date]:
    """The archived months whose detached tables are still there."""
    months = connection.execute(text("SELECT month FROM archives ORDER BY month")).scalars()
    there = text("SELECT to_regclass(:name) IS NOT NULL")
    return [month for month in months if connection.execute(there, {"name": f"public.{_detached(month)}"}).scalar_one()]


def drop(owner: Engine, month: date, folder: Path, by: By) -> None:
    """Drops a month's detached table, if the folder has what the ledger noted of it."""
    manifest = archive_files.read_back(folder, month)
    with transaction(owner, ALL_TENANTS) as connection:
        noted = connection.execute(text("SELECT sha256 FROM archives WHERE month = :month"), {"month": month})
        if noted.scalar_one_or_none() != manifest.sha256:
            raise Conflict(f"what {folder} has of {name_of(month)} is not what was archived: its table was not dropped")
        statement = sql.SQL("DROP TABLE IF EXISTS public.{}").format(sql.Identifier(_detached(month)))
        _cursor(connection).execute(statement)
        acts.note(connection, ALL_TENANTS, by, "month.dropped", object=name_of(month))


def _cursor(connection: Connection) -> "psycopg.Cursor[Any]":
    """Psycopg's own, in the same transaction."""
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, psycopg.Connection)
    return driver.cursor()
