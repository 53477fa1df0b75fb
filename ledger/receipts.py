"""What a receipt names: the entries that took units, where those were counted, and what was given back of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from ledger.instants import from_timestamp
from ledger.repeats import TakeBack
from quota.formats import CORRECTED, NONE, Terms, Window
from quota.journal import Place
from quota.keys import AccountName
from quota.periods import Period, PeriodKind


@dataclass(frozen=True, slots=True)
class Taken:
    """One entry of a receipt. `parts` and `caps` are texts as in the journal.

    `late` and `sealed` are the words of a window: of the one that it was booked into after that was over, and of the
    one in which its units were sealed later: CORRECTED, if a person put units back there, so that the balance may not
    bear that they go back once more. `refunded` is what the ledger knows to have been given back.
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
# The acts lead to corrections, of which an account has few, and not its entries, of which it may have very many.
_find = text(
    """
    SELECT e.n, e.subject, e.metric, e.kind, e.amount, e.parts, e.caps, e.is_late,
           e.period_kind, e.period_start, e.period_end, e.plan,
           seal.period_kind AS seal_kind, seal.period_start AS seal_start, seal.period_end AS seal_end,
           seal.plan AS seal_plan, seal.is_corrected, given.amount AS refunded
    FROM entries e
    LEFT JOIN LATERAL (
        SELECT c.period_kind, c.period_start, c.period_end, c.plan, EXISTS (
            SELECT FROM acts a
            JOIN entries k ON k.occurred_at = a.at AND k.tenant = a.tenant AND k.subject = a.subject
                          AND k.metric = a.object AND k.kind = 'correct' AND k.detail IS NULL AND k.change < 0
            WHERE a.tenant = c.tenant AND a.subject = c.subject AND a.object = c.metric AND a.act = 'counter.corrected'
              AND (k.epoch, k.n) < (c.epoch, c.n) AND (before.n IS NULL OR (k.epoch, k.n) > (before.epoch, before.n))
        ) AS is_corrected
        FROM entries c
        LEFT JOIN LATERAL (
            SELECT b.epoch, b.n FROM entries b
            WHERE b.tenant = c.tenant AND b.subject = c.subject AND b.metric = c.metric
              AND b.kind = 'close' AND b.change = 0 AND (b.epoch, b.n) < (c.epoch, c.n)
            ORDER BY b.epoch DESC, b.n DESC LIMIT 1
        ) AS before ON true
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
            _sealed_in(row),
            int(row.refunded),
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class GivenAgain:
    """Units that a refund gave back, with an instant and the window in which they had been counted."""

    account: AccountName
    amount: int
    at_ms: int
    window: Window


# The instant of the taking leads to the very caps; where that was late, or the window began since, the window's start.
_given_by = text(
    """
    SELECT r.subject, r.metric, r.amount, r.period_kind, r.period_start, r.period_end, r.plan,
           CASE WHEN r.is_late THEN r.period_start ELSE greatest(taken.occurred_at, r.period_start) END AS at
    FROM entries r
    LEFT JOIN entries taken ON taken.tenant = r.tenant AND taken.shard = r.shard
                           AND taken.epoch = CAST(split_part(r.detail, '-', 1) AS bigint)
                           AND taken.n = CAST(split_part(r.detail, '-', 2) AS bigint)
    WHERE r.tenant = :tenant AND r.shard = :shard AND r.epoch = :epoch AND r.n >= :first_n AND r.n < :first_n + :count
      AND r.receipt_first_n = :first_n AND r.receipt_count = :count AND r.kind = 'refund'
    ORDER BY r.n
    """
)


def given_by(connection: Connection, refund: TakeBack) -> list[GivenAgain]:
    """What the entries of a refund gave back."""
    wanted = {name: getattr(refund, name) for name in ("tenant", "shard", "epoch", "first_n", "count")}
    return [
        GivenAgain(
            AccountName(refund.tenant, row.subject, row.metric),
            row.amount,
            from_timestamp(row.at),
            _window(row.period_kind, row.period_start, row.period_end, row.plan),
        )
        for row in connection.execute(_given_by, wanted)
    ]


_corrected_by = text(
    """
    SELECT change FROM entries
    WHERE (tenant, shard, epoch, n) = (:tenant, :shard, :epoch, :first_n) AND kind = 'correct' LIMIT 1
    """
)


def corrected_by(connection: Connection, correction: TakeBack) -> int | None:
    """By how much a person's correction moved its counter; None: the ledger has not got it."""
    wanted = {name: getattr(correction, name) for name in ("tenant", "shard", "epoch", "first_n")}
    found: int | None = connection.execute(_corrected_by, wanted).scalar_one_or_none()
    return found


def _sealed_in(row: Any) -> str | None:
    if row.seal_kind is None:
        return None
    return CORRECTED if row.is_corrected else _words(row.seal_kind, row.seal_start, row.seal_end, row.seal_plan)


def _words(kind: str, start: Any, end: Any, plan: str | None) -> str:
    return str(_window(kind, start, end, plan))


def _window(kind: str, start: Any, end: Any, plan: str | None) -> Window:
    """Without anchor and warning levels, which the ledger does not keep and nobody needs of one that is over."""
    period_kind = PeriodKind(kind)
    end_ms = None if end is None else from_timestamp(end)
    return Window(Period(period_kind, from_timestamp(start), end_ms), Terms(plan, period_kind, None, ()))
