"""What Postgres says of accounts: balances of running periods and capped windows, and seals."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from ledger.instants import from_timestamp, to_timestamp
from quota.journal import Place
from quota.keys import AccountName
from quota.periods import DAY_MS, Period, PeriodKind

_KINDS = {kind.value: kind for kind in PeriodKind}
LONGEST_CAP_MS = 400 * DAY_MS
"""Longer than a year, the longest window that a cap can have: one that began earlier is over."""


@dataclass(frozen=True, slots=True)
class Balance:
    """One account's balance in one period, up to and with the entry at `place`."""

    period: Period
    plan: str | None
    used: int
    place: Place


def names_of(accounts: Sequence[AccountName]) -> dict[str, str]:
    """Accounts as the parameters of a statement: tenants, subjects and metrics, side by side, each an array as Postgres
    writes it. psycopg would write lists one text at a time, which is most of what asking for many accounts costs."""
    return {
        "tenants": array_text([account.tenant for account in accounts]),
        "subjects": array_text([account.subject for account in accounts]),
        "metrics": array_text([account.metric for account in accounts]),
    }


def array_text(texts: Sequence[str]) -> str:
    """`{"a","b"}`, for a CAST to text[]."""
    if not texts:
        return "{}"
    body = '","'.join(texts)
    if "\\" in body or body.count('"') != 2 * (len(texts) - 1):
        escaped = (each.replace("\\", "\\\\").replace('"', '\\"') for each in texts)
        body = '","'.join(escaped)
    return f'{{"{body}"}}'


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
    found: dict[AccountName, list[Balance]] = defaultdict(list)
    periods: dict[tuple[str, datetime, datetime | None], Period] = {}  # few, of many accounts
    rows = connection.execute(_running, names_of(accounts) | {"now": to_timestamp(now_ms)}).all()
    # Unpacked, because reading a row by its columns' names is most of what a page of accounts costs.
    for tenant, subject, metric, kind, start, end, plan, used, epoch, n in rows:
        period = periods.get((kind, start, end))
        if period is None:
            end_ms = None if end is None else from_timestamp(end)
            period = periods[kind, start, end] = Period(_KINDS[kind], from_timestamp(start), end_ms)
        found[AccountName(tenant, subject, metric)].append(Balance(period, plan, used, Place(epoch, n)))
    return found


_pages = text(
    """
    SELECT DISTINCT tenant, subject, metric FROM balances
    WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
      AND (period_end IS NULL OR period_end > :now)
      AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
      AND (CAST(:subject AS text) IS NULL OR subject = :subject)
      AND (CAST(:shards AS integer[]) IS NULL OR shard = ANY (CAST(:shards AS integer[])))
    ORDER BY tenant, subject, metric LIMIT :most
    """
)


def running(
    connection: Connection,
    after: AccountName,
    most: int,
    now_ms: int,
    *,
    tenant: str | None = None,
    subject: str | None = None,
    among: Collection[int] | None = None,
) -> list[AccountName]:
    """The next accounts by name that have a balance of a period which has not ended: of all, or of a tenant, a subject,
    some shards."""
    wanted = {
        "after_tenant": after.tenant,
        "after_subject": after.subject,
        "after_metric": after.metric,
        "now": to_timestamp(now_ms),
        "tenant": tenant,
        "subject": subject,
        "shards": None if among is None else sorted(among),
        "most": most,
    }
    return [AccountName(*names) for names in connection.execute(_pages, wanted).all()]


_estimated = text("SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = to_regclass('balances')")


def estimated(connection: Connection) -> int:
    """About how many balances there are, as of the last look of Postgres at its table."""
    return int(connection.execute(_estimated).scalar_one())


# Redis was lost after the period's end and before anybody rolled it. Its balance is still to be sealed.
_unsealed = text(
    """
    SELECT b.tenant, b.subject, b.metric, b.period_kind, b.period_start, b.period_end, b.plan, b.used, b.epoch, b.n
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
         AS wanted (tenant, subject, metric)
    CROSS JOIN LATERAL (
        SELECT * FROM balances c
        WHERE (c.tenant, c.subject, c.metric) = (wanted.tenant, wanted.subject, wanted.metric)
          AND c.period_end <= :now AND NOT c.is_sealed
        ORDER BY c.period_end DESC LIMIT 1
    ) AS b
    WHERE NOT EXISTS (
        SELECT FROM entries e
        WHERE (e.tenant, e.subject, e.metric) = (b.tenant, b.subject, b.metric)
          AND e.kind = 'close' AND e.change = 0 AND (e.period_kind, e.period_start) = (b.period_kind, b.period_start)
    )
    """
)


def unsealed_balances(
    connection: Connection, accounts: Sequence[AccountName], now_ms: int
) -> dict[AccountName, Balance]:
    """Of each account the balance of its newest period that has ended at `now_ms`, if nothing has sealed it."""
    found = {}
    for row in connection.execute(_unsealed, names_of(accounts) | {"now": to_timestamp(now_ms)}):
        period = Period(PeriodKind(row.period_kind), from_timestamp(row.period_start), from_timestamp(row.period_end))
        account = AccountName(row.tenant, row.subject, row.metric)
        found[account] = Balance(period, row.plan, row.used, Place(row.epoch, row.n))
    return found


_cap_spent = text(
    """
    SELECT c.tenant, c.subject, c.metric, c.period_kind, c.period_start, c.used
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
         AS wanted (tenant, subject, metric)
    JOIN cap_balances c USING (tenant, subject, metric)
    WHERE c.period_start > :earliest
    """
)


def cap_spent(
    connection: Connection, accounts: Sequence[AccountName], now_ms: int
) -> dict[AccountName, dict[tuple[str, int], int]]:
    """What each account used in capped windows that may run at `now_ms`: kind and start_ms -> units. Holds are not in
    it."""
    rows = connection.execute(_cap_spent, names_of(accounts) | {"earliest": to_timestamp(now_ms - LONGEST_CAP_MS)})
    found: dict[AccountName, dict[tuple[str, int], int]] = defaultdict(dict)
    for row in rows:
        window = (row.period_kind, from_timestamp(row.period_start))
        found[AccountName(row.tenant, row.subject, row.metric)][window] = row.used
    return found


_seals = text(
    """
    SELECT wanted.tenant, wanted.subject, wanted.metric, seal.epoch, seal.n
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
         AS wanted (tenant, subject, metric)
    CROSS JOIN LATERAL (
        SELECT e.epoch, e.n FROM entries e
        WHERE e.tenant = wanted.tenant AND e.subject = wanted.subject AND e.metric = wanted.metric
          AND e.kind = 'close' AND e.change = 0
        ORDER BY e.epoch DESC, e.n DESC LIMIT 1
    ) AS seal
    """
)


def seals(connection: Connection, accounts: Sequence[AccountName]) -> dict[AccountName, Place]:
    """The place of the last entry that sealed a period, of those accounts that have one."""
    rows = connection.execute(_seals, names_of(accounts))
    return {AccountName(row.tenant, row.subject, row.metric): Place(row.epoch, row.n) for row in rows}
