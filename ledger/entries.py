"""Writing entries: the drain's one transaction. Staged, checked, inserted sorted; then everything that they move."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import psycopg
from sqlalchemy import Connection, delete, exists, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, IntegrityError

from ledger import acts_of_entries, gifts_booked, grants, holds, movements, notices, repeats
from ledger.instants import to_timestamp
from ledger.staging import staging
from ledger.tables import entries
from quota.journal import Entry, Place

Unacceptable = (psycopg.DataError, psycopg.IntegrityError, DataError, IntegrityError, OverflowError)
"""What writing raises when one of the entries cannot be kept: no partition for its instant, a number out of range."""

# A bank statement's rule, line by line: the balance before (of the line above, or of the ledger) plus the change is
# the balance after. Late entries state none, and those that the ledger has already were checked when they came first.
# Each balance is looked up by itself: of a staging table without statistics Postgres expects so much that it would read
# all the balances that there are, for every batch.
# A reconciliation's `correct` follows from the ledger alone, whatever the line above stated, and changes nothing
# (decision 013). A person's is held to the rule, as every other line.
_wrong_arithmetic = text(
    """
    WITH statement AS (
        SELECT s.shard, s.epoch, s.n, s.change, s.used_after, s.is_late,
               s.is_restated,
               CASE WHEN s.is_restated THEN coalesce(b.used, 0) + CAST(sum(s.change) OVER account AS bigint)
                    ELSE coalesce(lag(s.used_after) OVER account, b.used, 0) END AS used_before
        FROM (
            SELECT *, coalesce(kind = 'correct' AND detail LIKE 'was:%', false) AS is_restated FROM staging
        ) s LEFT JOIN LATERAL (
            SELECT * FROM balances WHERE (tenant, subject, metric, period_kind, period_start)
                                       = (s.tenant, s.subject, s.metric, s.period_kind, s.period_start) LIMIT 1
        ) b ON true
        WHERE b.n IS NULL OR (s.epoch, s.n) > (b.epoch, b.n)
        WINDOW account AS (
            PARTITION BY s.tenant, s.subject, s.metric, s.period_kind, s.period_start ORDER BY s.epoch, s.n
        )
    )
    SELECT shard, epoch, n, used_before, change, used_after FROM statement
    WHERE (used_before + change <> used_after AND NOT is_late) OR (is_restated AND change <> 0)
    ORDER BY shard, epoch, n LIMIT 100
    """
)

_names = [column.name for column in entries.columns]
_fresh = (
    insert(entries)
    .from_select(
        _names,
        select(*(staging.c[name] for name in _names)).order_by(staging.c.shard, staging.c.epoch, staging.c.n),
    )
    .on_conflict_do_nothing()
    .returning(entries.c.shard, entries.c.epoch, entries.c.n, entries.c.occurred_at)
    .cte("fresh")
)
# Only what is new moves anything: an entry that came a second time is taken out of the staging table again.
_insert_and_keep_the_fresh = delete(staging).where(
    ~exists().where(*(staging.c[column.name] == column for column in _fresh.columns))
)


_known = text(
    """
    SELECT wanted.place FROM unnest(
        CAST(:shards AS integer[]), CAST(:epochs AS bigint[]), CAST(:ns AS bigint[]), CAST(:instants AS timestamptz[])
    ) WITH ORDINALITY AS wanted (shard, epoch, n, occurred_at, place)
    JOIN entries e USING (shard, epoch, n, occurred_at)
    """
)


class Placed(Protocol):
    """What stands at a place: an entry, or what is known of one."""

    @property
    def shard(self) -> int: ...
    @property
    def place(self) -> Place: ...
    @property
    def occurred_at_ms(self) -> int: ...


E = TypeVar("E", bound=Placed)


def unknown(connection: Connection, batch: Sequence[E]) -> list[E]:
    """Those of the entries that the ledger has not got."""
    wanted = {
        "shards": [entry.shard for entry in batch],
        "epochs": [entry.place.epoch for entry in batch],
        "ns": [entry.place.n for entry in batch],
        "instants": [to_timestamp(entry.occurred_at_ms) for entry in batch],
    }
    known = {row.place - 1 for row in connection.execute(_known, wanted)}
    return [entry for place, entry in enumerate(batch) if place not in known]


def wrong_arithmetic(connection: Connection) -> Iterator[dict[str, int]]:
    """Staged entries that do not follow from the one before: shard, epoch, n, used_before, change, used_after."""
    for row in connection.execute(_wrong_arithmetic).mappings():
        yield dict(row)


def book(connection: Connection, batch: Sequence[Entry], key_retention_s: int) -> int:
    """Moves the staged batch into the ledger with all that follows from it; how many entries were new.

    Most batches are plain: what nothing in the batch could move is not asked for.
    """
    known = connection.execute(_insert_and_keep_the_fresh).rowcount
    movements.move_balances(connection)
    if any(entry.cap_windows for entry in batch):
        movements.move_cap_balances(connection)
    if any(entry.parts for entry in batch):
        movements.move_grant_balances(connection)
    if any(entry.kind in holds.KINDS for entry in batch):
        holds.book_staged(connection)
    if any(entry.kind in grants.KINDS for entry in batch):
        grants.note_staged(connection)
    if any(entry.detail is not None and entry.detail.startswith(notices.DETAIL_PREFIX) for entry in batch):
        notices.note_staged(connection)
    if any(entry.kind in acts_of_entries.KINDS for entry in batch):
        acts_of_entries.note_staged(connection)
    if any(entry.kind == "gift" for entry in batch):
        gifts_booked.book_staged(connection)
    if any(entry.about.idempotency_key is not None for entry in batch):
        repeats.find_staged(connection, key_retention_s)
    return len(batch) - known
