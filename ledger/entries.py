"""Writing entries: the drain's one transaction. COPY into a staging table, check, insert sorted, add up balances."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, IntegrityError

from ledger.instants import to_timestamp
from ledger.tables import entries
from quota.journal import Entry

_copy_statement = sql.SQL("COPY staging ({}) FROM STDIN").format(
    sql.SQL(", ").join(sql.Identifier(column.name) for column in entries.columns)
)

Unacceptable = (psycopg.DataError, psycopg.IntegrityError, DataError, IntegrityError, OverflowError)
"""What writing raises when one of the entries cannot be kept: no partition for its instant, a number out of range."""

# One a connection; emptied by every commit.
_make_staging = text("CREATE TEMPORARY TABLE IF NOT EXISTS staging (LIKE entries) ON COMMIT DELETE ROWS")

# A bank statement's rule, line by line: the balance before (of the line above, or of the ledger) plus the change is
# the balance after.
_wrong_arithmetic = text(
    """
    WITH statement AS (
        SELECT s.shard, s.epoch, s.n, s.change, s.used_after,
               coalesce(lag(s.used_after) OVER account, b.used, 0) AS used_before
        FROM staging s
        LEFT JOIN balances b USING (tenant, subject, metric, period_kind, period_start)
        WINDOW account AS (
            PARTITION BY s.tenant, s.subject, s.metric, s.period_kind, s.period_start ORDER BY s.epoch, s.n
        )
    )
    SELECT shard, epoch, n, used_before, change, used_after FROM statement
    WHERE used_before + change <> used_after
    ORDER BY shard, epoch, n LIMIT 100
    """
)

# Only what is new moves a balance: an entry that comes a second time is not returned by the insert.
# Everything is sorted by key, because unordered upserts of two writers deadlock.
_insert = text(
    """
    WITH fresh AS (
        INSERT INTO entries SELECT * FROM staging ORDER BY shard, epoch, n
        ON CONFLICT DO NOTHING
        RETURNING tenant, subject, metric, period_kind, period_start, period_end, plan, change, shard, epoch, n
    ), moved AS (
        SELECT tenant, subject, metric, period_kind, period_start, max(period_end) AS period_end, sum(change) AS change,
               count(*) AS lines
        FROM fresh GROUP BY tenant, subject, metric, period_kind, period_start
    ), last_of AS (
        SELECT DISTINCT ON (tenant, subject, metric, period_kind, period_start)
               tenant, subject, metric, period_kind, period_start, plan, shard, epoch, n
        FROM fresh ORDER BY tenant, subject, metric, period_kind, period_start, epoch DESC, n DESC
    ), balanced AS (
        INSERT INTO balances AS b
            (tenant, subject, metric, period_kind, period_start, period_end, plan, used, shard, epoch, n)
        SELECT m.tenant, m.subject, m.metric, m.period_kind, m.period_start, m.period_end, l.plan, m.change,
               l.shard, l.epoch, l.n
        FROM moved m JOIN last_of l USING (tenant, subject, metric, period_kind, period_start)
        ORDER BY m.tenant, m.subject, m.metric, m.period_kind, m.period_start
        ON CONFLICT ON CONSTRAINT an_account_has_one_balance_a_period DO UPDATE
        SET used = b.used + excluded.used, plan = excluded.plan, epoch = excluded.epoch, n = excluded.n
    )
    SELECT coalesce(sum(lines), 0) FROM moved
    """
)


def _row(entry: Entry) -> tuple[Any, ...]:
    about, terms = entry.about, entry.terms
    return (
        entry.shard,
        entry.place.epoch,
        entry.place.n,
        to_timestamp(entry.occurred_at_ms),
        about.tenant,
        about.subject,
        about.metric,
        entry.kind,
        entry.amount,
        entry.change,
        entry.used_after,
        terms.plan,
        terms.kind.value,
        to_timestamp(entry.period_start_ms),
        None if entry.period_end_ms is None else to_timestamp(entry.period_end_ms),
        entry.receipt_first_n,
        entry.receipt_count,
        about.request_id,
        about.idempotency_key,
        about.operation,
        about.reason,
        None if about.metadata is None else msgspec.json.encode(about.metadata).decode(),
    )


def stage(connection: Connection, batch: Sequence[Entry]) -> None:
    """Copies entries into this connection's staging table."""
    connection.execute(_make_staging)
    cursor = connection.connection.cursor()
    with cursor.copy(_copy_statement) as copy:
        for entry in batch:
            copy.write_row(_row(entry))


def wrong_arithmetic(connection: Connection) -> Iterator[dict[str, int]]:
    """Staged entries that do not follow from the one before: shard, epoch, n, used_before, change, used_after."""
    for row in connection.execute(_wrong_arithmetic).mappings():
        yield dict(row)


def insert_staged(connection: Connection) -> int:
    """Moves what is staged into the ledger and adds up the balances; how many entries were new."""
    return int(connection.execute(_insert).scalar_one())
