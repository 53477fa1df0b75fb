"""What Postgres says of accounts: the balance in each running period, and the balance at one entry."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from ledger.instants import from_timestamp, to_timestamp
from quota.journal import Counter, Place
from quota.keys import AccountName
from quota.periods import Period, PeriodKind


@dataclass(frozen=True, slots=True)
class Balance:
    """One account's balance in one period, up to and with the entry at `place`."""

    period: Period
    plan: str | None
    used: int
    place: Place


_running = text(
    """
    SELECT b.tenant, b.subject, b.metric, b.period_kind, b.period_start, b.period_end, b.plan, b.used, b.epoch, b.n
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
         AS wanted (tenant, subject, metric)
    JOIN balances b USING (tenant, subject, metric)
    WHERE b.period_end IS NULL OR b.period_end > :now
    ORDER BY b.epoch DESC, b.n DESC
    """
)


def running_balances(
    connection: Connection, accounts: Sequence[AccountName], now_ms: int
) -> dict[AccountName, list[Balance]]:
    """The balances of periods that have not ended at `now_ms`, the one that moved last first."""
    rows = connection.execute(
        _running,
        {
            "tenants": [account.tenant for account in accounts],
            "subjects": [account.subject for account in accounts],
            "metrics": [account.metric for account in accounts],
            "now": to_timestamp(now_ms),
        },
    )
    found: dict[AccountName, list[Balance]] = defaultdict(list)
    for row in rows:
        end_ms = None if row.period_end is None else from_timestamp(row.period_end)
        period = Period(PeriodKind(row.period_kind), from_timestamp(row.period_start), end_ms)
        account = AccountName(row.tenant, row.subject, row.metric)
        found[account].append(Balance(period, row.plan, row.used, Place(row.epoch, row.n)))
    return found


# From the balance as it is now, the changes after the wanted entry are taken off again: few, while traffic goes on.
_at_entry = text(
    """
    SELECT wanted.place, coalesce(b.used, 0) - coalesce((
        SELECT sum(e.change) FROM entries e
        WHERE (e.tenant, e.subject, e.metric) = (wanted.tenant, wanted.subject, wanted.metric)
          AND (e.epoch, e.n) > (wanted.epoch, wanted.n)
          AND (e.period_kind, e.period_start) = (wanted.kind, wanted.start)
    ), 0) AS used
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]), CAST(:kinds AS text[]),
                CAST(:starts AS timestamptz[]), CAST(:epochs AS bigint[]), CAST(:ns AS bigint[]))
         WITH ORDINALITY AS wanted (tenant, subject, metric, kind, start, epoch, n, place)
    LEFT JOIN balances b ON (b.tenant, b.subject, b.metric, b.period_kind, b.period_start)
                          = (wanted.tenant, wanted.subject, wanted.metric, wanted.kind, wanted.start)
    ORDER BY wanted.place
    """
)


def used_at(connection: Connection, counters: Sequence[Counter]) -> list[int]:
    """What the ledger says was used in each counter's period, up to and with the counter's own last entry.

    The ledger must hold that entry already. A counter without one was provisioned when the ledger knew nothing of its
    period, and was not moved since.
    """
    before_all = Place(0, 0)
    places = [counter.entry or before_all for counter in counters]
    rows = connection.execute(
        _at_entry,
        {
            "tenants": [counter.account.tenant for counter in counters],
            "subjects": [counter.account.subject for counter in counters],
            "metrics": [counter.account.metric for counter in counters],
            "kinds": [counter.period_kind for counter in counters],
            "starts": [to_timestamp(counter.period_start_ms) for counter in counters],
            "epochs": [place.epoch for place in places],
            "ns": [place.n for place in places],
        },
    )
    return [int(row.used) for row in rows]
