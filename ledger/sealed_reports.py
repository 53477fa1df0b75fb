"""Reports of sealed periods: what the ledger's tables say of them, and what was booked into them later."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, or_, select, text, tuple_

from ledger.instants import from_timestamp, to_timestamp
from ledger.reports import SHOWN, Piece, Wanted
from ledger.tables import entries


class SealPlace(NamedTuple):
    """Where a sealed period stands in the list."""

    subject: str
    metric: str
    kind: str
    start_ms: int


MAX_ADJUSTMENTS = 100
"""Of one sealed period, how many are listed with it; all of them are counted, and are among the subject's entries."""


@dataclass(frozen=True, slots=True)
class SealedPeriod:
    """A row of the table, and the entries that were booked into it later."""

    row: Any
    adjustments: Sequence[Any]


# A level has no period that ends, and is never sealed. Whatever is booked into a period after it was sealed is late.
_sealed = text(
    """
    WITH listed AS (
        SELECT * FROM sealed_periods s
        WHERE s.tenant = :tenant AND (CAST(:metric AS text) IS NULL OR s.metric = :metric)
          AND (CAST(:from AS timestamptz) IS NULL OR s.period_start >= :from)
          AND (CAST(:to AS timestamptz) IS NULL OR s.period_start < :to)
          AND (CAST(:after_subject AS text) IS NULL OR
               (s.subject, s.metric, s.period_kind, s.period_start)
                   > (:after_subject, :after_metric, :after_kind, :after_start))
        ORDER BY s.subject, s.metric, s.period_kind, s.period_start LIMIT :most
    )
    SELECT listed.*, late.entries AS late_entries, late.change AS late_change
    FROM listed CROSS JOIN LATERAL (
        SELECT count(*) AS entries, coalesce(sum(e.change), 0) AS change FROM entries e
        WHERE (e.tenant, e.subject, e.metric) = (listed.tenant, listed.subject, listed.metric)
          AND e.is_late AND ((e.epoch, e.n) > (listed.epoch, listed.n) OR e.occurred_at > listed.closed_at)
          AND (e.period_kind, e.period_start) = (listed.period_kind, listed.period_start)
    ) AS late
    ORDER BY listed.subject, listed.metric, listed.period_kind, listed.period_start
    """
)


def sealed_periods_after(
    connection: Connection, wanted: Wanted, after: SealPlace | None, most: int
) -> Piece[SealPlace]:
    """Periods that began in the wanted time and are sealed, by subject and metric, as in the table; and how many
    `late_entries` were booked into each afterwards, with their `late_change`, and the first of them: `adjustments`."""
    words = {
        "tenant": wanted.tenant,
        "metric": wanted.metric,
        "from": None if wanted.from_ms is None else to_timestamp(wanted.from_ms),
        "to": None if wanted.to_ms is None else to_timestamp(wanted.to_ms),
        "after_subject": after and after.subject,
        "after_metric": after and after.metric,
        "after_kind": after and after.kind,
        "after_start": after and to_timestamp(after.start_ms),
        "most": most,
    }
    rows = connection.execute(_sealed, words).all()
    listed = [SealedPeriod(row, _adjustments_of(connection, row)) for row in rows]
    return Piece(listed, place_of_seal(listed[-1]) if len(rows) == most else None)


def _adjustments_of(connection: Connection, sealed: Any) -> Sequence[Any]:
    if not sealed.late_entries:
        return []
    account = [entries.c[name] == getattr(sealed, name) for name in ("tenant", "subject", "metric")]
    period = [entries.c[name] == getattr(sealed, name) for name in ("period_kind", "period_start")]
    order = (entries.c.epoch, entries.c.n)
    # Places that Redis gave out twice may come before that of the close.
    is_later = or_(tuple_(*order) > (sealed.epoch, sealed.n), entries.c.occurred_at > sealed.closed_at)
    query = select(*SHOWN).where(*account, *period, entries.c.is_late, is_later)
    return connection.execute(query.order_by(*order).limit(MAX_ADJUSTMENTS)).all()


def place_of_seal(sealed: SealedPeriod) -> SealPlace:
    row = sealed.row
    return SealPlace(row.subject, row.metric, row.period_kind, from_timestamp(row.period_start))
