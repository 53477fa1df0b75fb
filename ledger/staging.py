"""Where a batch of entries waits inside the drain's transaction. All that it moves is read from here, in statements
that take the whole batch at once.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from psycopg import sql
from sqlalchemy import Column, Connection, MetaData, Table, Text, delete, text

from ledger.instants import to_timestamp
from ledger.tables import entries
from quota.formats import joined
from quota.journal import Entry

# One a connection; emptied by every commit. Not LIKE entries, because a late entry's balance is found out here only.
_make_staging = text(
    """
    CREATE TEMPORARY TABLE IF NOT EXISTS staging ON COMMIT DELETE ROWS
    AS SELECT *, CAST(NULL AS text) AS window_words FROM entries WITH NO DATA
    """
)

staging = Table(
    "staging",
    MetaData(),
    *(Column(column.name, column.type) for column in entries.columns),
    Column("window_words", Text),
)

_copy_statement = sql.SQL("COPY staging ({}) FROM STDIN").format(
    sql.SQL(", ").join(sql.Identifier(column.name) for column in staging.columns)
)

_KINDS_WITH_WORDS = frozenset(("hold", "close"))


Row = tuple[Any, ...]
"""An entry as the staging table has it."""


def row_of(entry: Entry) -> Row:
    about, account, window = entry.about, entry.account, entry.window
    period = window.period
    return (
        entry.shard,
        entry.place.epoch,
        entry.place.n,
        to_timestamp(entry.occurred_at_ms),
        account.tenant,
        account.subject,
        account.metric,
        entry.kind,
        entry.amount,
        entry.change,
        entry.used_after,
        window.terms.plan,
        period.kind.value,
        to_timestamp(period.start_ms),
        None if period.end_ms is None else to_timestamp(period.end_ms),
        entry.receipt_first_n,
        entry.receipt_count,
        about.request_id,
        about.idempotency_key,
        about.operation,
        about.reason,
        None if about.metadata is None else msgspec.json.encode(about.metadata).decode(),
        entry.detail,
        joined(entry.parts) or None,
        joined(f"{kind}:{start_ms}" for kind, start_ms in entry.cap_windows) or None,
        about.attempt,
        about.route,
        about.actor,
        entry.used_after is None,
        str(window) if entry.kind in _KINDS_WITH_WORDS else None,
    )


def stage(connection: Connection, batch: Sequence[Entry], rows: Iterable[Row] | None = None) -> None:
    """Copies entries into this connection's staging table, and works out the balance after each late one. Whoever has
    made the entries' rows before gives them with it."""
    connection.execute(_make_staging)
    cursor = connection.connection.cursor()
    with cursor.copy(_copy_statement) as copy:
        for row in map(row_of, batch) if rows is None else rows:
            copy.write_row(row)
    if any(entry.used_after is None for entry in batch):
        connection.execute(_balance_late_entries)


def unstage(connection: Connection) -> None:
    """Empties the staging table for another batch in the same transaction."""
    connection.execute(delete(staging))


# Redis does not know the balance of a period that is over; the ledger does, and every entry before is in it or in the
# batch. The place does not tell which: of a fork the ledger has passed the places, and not got the entries. What it has
# got is not staged, and would not be kept.
_balance_late_entries = text(
    """
    UPDATE staging SET used_after = statement.used_after
    FROM (
        SELECT s.shard, s.epoch, s.n, s.occurred_at, coalesce(b.used, 0) + sum(s.change) OVER account AS used_after
        FROM staging s
        LEFT JOIN LATERAL (
            SELECT * FROM balances WHERE (tenant, subject, metric, period_kind, period_start)
                                       = (s.tenant, s.subject, s.metric, s.period_kind, s.period_start) LIMIT 1
        ) b ON true
        WINDOW account AS (
            PARTITION BY s.tenant, s.subject, s.metric, s.period_kind, s.period_start ORDER BY s.epoch, s.n
        )
    ) AS statement
    WHERE staging.used_after IS NULL
      AND (staging.shard, staging.epoch, staging.n, staging.occurred_at)
        = (statement.shard, statement.epoch, statement.n, statement.occurred_at)
    """
)
