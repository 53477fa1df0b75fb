"""Where a batch of entries waits inside the drain's transaction. All that it moves is read from here, in statements
that take the whole batch at once.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec
from psycopg import sql
from sqlalchemy import Column, Connection, MetaData, Select, Table, Text, delete, insert, text

from ledger.instants import to_timestamp
from ledger.tables import entries
from quota.formats import joined
from quota.journal import Entry

# One a connection; emptied by every commit. Not LIKE entries, because a late entry's balance is found out here only.
_make_staging = text(
    """
    CREATE TEMPORARY TABLE IF NOT EXISTS staging ON COMMIT DELETE ROWS
    AS SELECT *, CAST(NULL AS text) AS window_words, CAST(NULL AS text) AS origin FROM entries WITH NO DATA
    """
)

staging = Table(
    "staging",
    MetaData(),
    *(Column(column.name, column.type) for column in entries.columns),
    Column("window_words", Text),
    Column("origin", Text),
)

_copy_statement = sql.SQL("COPY staging ({}) FROM STDIN").format(
    sql.SQL(", ").join(sql.Identifier(column.name) for column in staging.columns)
)

ROWS_A_WRITE = 500
_KINDS_WITH_WORDS = frozenset(("hold", "close"))


def row_of(entry: Entry) -> str:
    """An entry as COPY reads it, a line. Made where the entry is read, which may be while Postgres works on others."""
    about, account, window = entry.about, entry.account, entry.window
    period = window.period
    words = (
        str(entry.shard),
        str(entry.place.epoch),
        str(entry.place.n),
        str(to_timestamp(entry.occurred_at_ms)),
        _text(account.tenant),
        _text(account.subject),
        _text(account.metric),
        entry.kind,
        str(entry.amount),
        str(entry.change),
        _NULL if entry.used_after is None else str(entry.used_after),
        _text(window.terms.plan),
        period.kind.value,
        _bound(period.start_ms),
        _bound(period.end_ms),
        str(entry.receipt_first_n),
        str(entry.receipt_count),
        _text(about.request_id),
        _text(about.idempotency_key),
        _text(about.operation),
        _text(about.reason),
        _NULL if about.metadata is None else _text(msgspec.json.encode(about.metadata).decode()),
        _text(entry.detail),
        joined(entry.parts) or _NULL,
        joined(f"{kind}:{start_ms}" for kind, start_ms in entry.cap_windows) or _NULL,
        _text(about.attempt),
        _text(about.route),
        _text(about.actor),
        "t" if entry.used_after is None else "f",
        _text(str(window)) if entry.kind in _KINDS_WITH_WORDS else _NULL,
        _text(about.origin),
    )
    return "\t".join(words) + "\n"


_NULL = r"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _text(text: str | None) -> str:
    if text is None:
        return _NULL
    # Printable characters stand for themselves, but for the one that escapes the others.
    return text if text.isprintable() and "\\" not in text else text.translate(_ESCAPES)


@lru_cache(maxsize=4096)  # few, of many entries
def _bound(unix_ms: int | None) -> str:
    return _NULL if unix_ms is None else str(to_timestamp(unix_ms))


def stage(connection: Connection, batch: Sequence[Entry], rows: Iterable[str] | None = None) -> None:
    """Copies entries into this connection's staging table, and works out the balance after each late one. Whoever has
    made the entries' rows before gives them with it."""
    connection.execute(_make_staging)
    cursor = connection.connection.cursor()
    waiting = map(row_of, batch) if rows is None else iter(rows)
    with cursor.copy(_copy_statement) as copy:
        while some := "".join(islice(waiting, ROWS_A_WRITE)):
            copy.write(some)
    if any(entry.used_after is None for entry in batch):
        connection.execute(_balance_late_entries)


def stage_again(connection: Connection, chosen: Select[Any]) -> None:
    """Stages entries that the ledger has, with all their columns, for what should have followed from them."""
    connection.execute(_make_staging)
    connection.execute(insert(staging).from_select([column.name for column in entries.columns], chosen))


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
