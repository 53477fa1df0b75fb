"""What a receipt names: the entries that took units, where those were counted, and what was given back of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from ledger.instants import from_timestamp
from quota.formats import NONE, Terms, Window
from quota.journal import Place
from quota.keys import AccountName
from quota.periods import Period, PeriodKind


@dataclass(frozen=True, slots=True)
class Taken:
    """One entry of a receipt. `parts` and `caps` are texts as in the journal.

    `late` and `sealed` are the words of a window: of the one that it was booked into after that was over, and of the
    one in which its units were sealed later. `refunded` is what the ledger knows to have been given back.
    """

    place: Place
    account: AccountName
    kind: str
    amount: int
    parts: str
    caps: str
    late: str | None
    sealed: str | None
    refunded: int


# The first close after an entry that leaves the balance where it is sealed its units, whatever windows they went by.
_find = text(
    """
    SELECT e.n, e.subject, e.metric, e.kind, e.amount, e.parts, e.caps, e.is_late,
           e.period_kind, e.period_start, e.period_end, e.plan,
           seal.period_kind AS seal_kind, seal.period_start AS seal_start, seal.period_end AS seal_end,
           seal.plan AS seal_plan, given.amount AS refunded
    FROM entries e
    LEFT JOIN LATERAL (
        SELECT c.period_kind, c.period_start, c.period_end, c.plan FROM entries c
        WHERE c.tenant = e.tenant AND c.subject = e.subject AND c.metric = e.metric
          AND c.kind = 'close' AND c.change = 0 AND (c.epoch, c.n) > (e.epoch, e.n)
        ORDER BY c.epoch, c.n LIMIT 1
    ) AS seal ON true
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(r.amount), 0) AS amount FROM entries r
        WHERE r.kind = 'refund' AND r.shard = e.shard AND r.detail = concat(e.epoch, '-', e.n) AND r.tenant = e.tenant
    ) AS given
    WHERE e.tenant = :tenant AND e.shard = :shard AND e.epoch = :epoch AND e.n >= :first_n AND e.n < :first_n + :count
      AND e.receipt_first_n = :first_n AND e.receipt_count = :count AND e.kind IN ('consume', 'commit')
    ORDER BY e.n
    """
)


def find(  # noqa: PLR0917 - the words of a receipt, in its order
    connection: Connection, tenant: str, shard: int, epoch: int, first_n: int, count: int
) -> list[Taken]:
    """The entries that a receipt names; [] unless the ledger has all of them, as one receipt of this tenant."""
    wanted = {"tenant": tenant, "shard": shard, "epoch": epoch, "first_n": first_n, "count": count}
    rows: Sequence[Any] = connection.execute(_find, wanted).all()
    if [row.n for row in rows] != list(range(first_n, first_n + len(rows))) or len(rows) != count:
        return []
    return [
        Taken(
            Place(epoch, row.n),
            AccountName(tenant, row.subject, row.metric),
            row.kind,
            row.amount,
            row.parts or NONE,
            row.caps or NONE,
            _words(row.period_kind, row.period_start, row.period_end, row.plan) if row.is_late else None,
            None if row.seal_kind is None else _words(row.seal_kind, row.seal_start, row.seal_end, row.seal_plan),
            int(row.refunded),
        )
        for row in rows
    ]


def _words(kind: str, start: Any, end: Any, plan: str | None) -> str:
    """Of a window; without anchor and warning levels, which the ledger does not keep and nobody needs of one that is
    over."""
    period_kind = PeriodKind(kind)
    end_ms = None if end is None else from_timestamp(end)
    period = Period(period_kind, from_timestamp(start), end_ms)
    return str(Window(period, Terms(plan, period_kind, None, ())))
