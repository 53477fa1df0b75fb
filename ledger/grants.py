"""Grants: bonus units. Postgres gives them out; the drain writes down what Redis has heard of and used of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, text, update

from ledger import acts
from ledger.accounts import names_of
from ledger.acts import By
from ledger.announcements import announce, announce_all
from ledger.instants import from_timestamp, to_timestamp
from ledger.tables import grants
from quota.errors import IdempotencyKeyReused, TooMany
from quota.identifiers import MAX_AMOUNT
from quota.journal import About, encode_about
from quota.keys import AccountName
from quota.periods import LATEST_MS, to_rfc3339

KINDS = frozenset(("grant", "gift", "expire"))
"""The entries which say that Redis has heard of a grant, or has seen its end."""

MAX_LIVE_GRANTS = 64
"""Of one account: all of them are in its hash, and every decision reads them."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant of one account. `left` was never used (holds are still in it); `taken` was used in a running period, by
    its kind and start_ms: one that has not ended, or that nothing has sealed. `journalled`: Redis has heard of it;
    `is_over`: and has seen its end. `kind` and `about` are those of its entry."""

    id: int
    priority: int
    expires_ms: int | None
    left: int
    taken: Mapping[tuple[str, int], int] = field(default_factory=dict)
    journalled: bool = False
    is_over: bool = False
    kind: str = field(default="grant", compare=False)
    about: bytes = field(default=b"", compare=False)


# The ids of one account are given out in the order of the commits, so that whoever has seen one has seen all before it.
_one_at_a_time = text(
    """
    SELECT pg_advisory_xact_lock(
        hashtextextended(:metric, hashtextextended(:subject, hashtextextended(:tenant, 7261002)))
    )
    """
)

_count_live = text(
    """
    SELECT count(*) FROM grants g
    WHERE (g.tenant, g.subject, g.metric) = (:tenant, :subject, :metric)
      AND (g.expires_at IS NULL OR g.expires_at > now())
      AND g.amount > coalesce((SELECT sum(u.used) FROM grant_balances u WHERE u.grant_id = g.id), 0)
    """
)


def live_grants(connection: Connection, account: Mapping[str, str]) -> int:
    """How many grants an account (tenant, subject, metric) has that are neither used up nor expired."""
    return int(connection.execute(_count_live, account).scalar_one())


def add(
    connection: Connection,
    tenant: str,
    subject: str,
    metric: str,
    *,
    amount: int,
    priority: int,
    expires_ms: int | None,
    by: By,
    idempotency_key: str | None = None,
) -> tuple[int, int | None]:
    """Gives units; the grant's id, and that of the announcement that Redis must hear of: None when the key has given
    this grant before.

    TooMany when the account has MAX_LIVE_GRANTS already; IdempotencyKeyReused when the key has given another grant.
    """
    account = {"tenant": tenant, "subject": subject, "metric": metric}
    expires_at = None if expires_ms is None else to_timestamp(expires_ms)
    terms = {"metric": metric, "amount": amount, "priority": priority, "expires_at": expires_at, "reason": by.reason}
    if idempotency_key is not None:
        # No metric's name has a space in it.
        connection.execute(_one_at_a_time, account | {"metric": f"key {idempotency_key}"})
        same_key = (grants.c.tenant == tenant, grants.c.subject == subject, grants.c.idempotency_key == idempotency_key)
        given = connection.execute(select(grants).where(*same_key)).mappings().one_or_none()
        if given is not None:
            if any(given[name] != value for name, value in terms.items()):
                raise IdempotencyKeyReused("this idempotency key has given another grant; use a new key for a new one")
            return int(given["id"]), None
    connection.execute(_one_at_a_time, account)
    if live_grants(connection, account) >= MAX_LIVE_GRANTS:
        raise TooMany(
            f"{subject} has {MAX_LIVE_GRANTS} grants of {metric} that are neither used up nor expired: no more fit in"
        )
    values = (
        account
        | terms
        | {
            "created_by": by.actor,
            "request_id": by.request_id,
            "idempotency_key": idempotency_key,
        }
    )
    grant_id = connection.execute(insert(grants).values(values).returning(grants.c.id)).scalar_one()
    after = terms | {"id": str(grant_id), "expires_at": None if expires_ms is None else to_rfc3339(expires_ms)}
    acts.note(connection, tenant, by, "grant.given", subject=subject, object=metric, after=after)
    return int(grant_id), announce(connection, tenant, subject)


class RolledOver(NamedTuple):
    """What was left of an account's period, until the end of the next."""

    account: AccountName
    period_start_ms: int
    units: int
    until_ms: int


_all_one_at_a_time = text(
    """
    SELECT pg_advisory_xact_lock(
        hashtextextended(metric, hashtextextended(subject, hashtextextended(tenant, 7261002)))
    ) FROM (
        SELECT DISTINCT * FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
                               AS wanted (tenant, subject, metric)
        ORDER BY tenant, subject, metric
    ) AS wanted
    """
)


def lock_accounts(connection: Connection, accounts: Sequence[AccountName]) -> None:
    """Until the commit nobody else gives these accounts a grant."""
    connection.execute(_all_one_at_a_time, names_of(accounts))


def rolled_over(detail: str | None, account: AccountName, start_ms: int, drifted: int) -> RolledOver | None:
    """What goes on of a period into the next: what the entry that closed it says (`lua/rules/buckets.lua`), and what
    its counter had `drifted` from what the ledger knows to have been used. ValueError when it is damaged."""
    if detail is None or not detail.startswith("rollover:"):
        return None
    _, left, most, until_ms, *unseen = detail.split(":")
    numbers = [int(word) for word in (left, most, until_ms)]
    if max(map(abs, numbers)) > MAX_AMOUNT or numbers[2] > LATEST_MS:
        raise ValueError(f"{detail} is out of range")
    units = min(numbers[1], numbers[0] + (0 if unseen else drifted))
    return RolledOver(account, start_ms, units, numbers[2]) if units > 0 else None


def roll_over(connection: Connection, wanted: Sequence[RolledOver]) -> list[tuple[int, int]]:
    """Gives what is left of periods; of each the grant's id, and that of the announcement that Redis must hear of.

    However many grants an account has: one of these a period is given at most, and it ends with the next.
    """
    if not wanted:
        return []
    lock_accounts(connection, [each.account for each in wanted])
    values = [
        {
            "tenant": each.account.tenant,
            "subject": each.account.subject,
            "metric": each.account.metric,
            "amount": each.units,
            "priority": 0,
            "expires_at": to_timestamp(each.until_ms),
            "reason": f"rolled over from the period of {to_rfc3339(each.period_start_ms)}",
            "created_by": "reset",
        }
        for each in wanted
    ]
    query = insert(grants).returning(grants.c.id, sort_by_parameter_order=True)
    ids = connection.execute(query, values).scalars().all()
    told = announce_all(connection, [(each.account.tenant, each.account.subject) for each in wanted])
    return list(zip(ids, told, strict=True))


_due = text(
    """
    SELECT id, tenant, subject, metric, journalled FROM grants
    WHERE NOT is_swept AND expires_at IS NOT NULL AND expires_at <= :now ORDER BY expires_at, id LIMIT :most
    """
)


def expired(connection: Connection, now_ms: int, most: int) -> dict[int, AccountName | None]:
    """Grants that have expired at `now_ms` and that no reset has seen to, the first to expire first: the account that
    must let go of each, None where Redis never heard of it."""
    rows = connection.execute(_due, {"now": to_timestamp(now_ms), "most": most})
    return {row.id: AccountName(row.tenant, row.subject, row.metric) if row.journalled else None for row in rows}


def note_swept(connection: Connection, ids: Sequence[int]) -> None:
    """Notes that their accounts have let go of them."""
    connection.execute(update(grants).where(grants.c.id.in_(ids)).values(is_swept=True))


# Units that were given away are gone, and no period's (ledger/movements.py).
# The units of an expired grant whose end was not journalled are in a balance still: the script that finds it takes them
# out.
_of_accounts = text(
    """
    SELECT g.id, g.tenant, g.subject, g.metric, g.amount, g.priority, g.expires_at, g.journalled, g.expiry_journalled,
           g.kind, g.reason, g.created_by, g.request_id, u.period_kind, u.period_start, u.used,
           u.period_kind <> 'gift' AND (b.period_end IS NULL OR b.period_end > :now OR NOT EXISTS (
               SELECT FROM entries e
               WHERE (e.tenant, e.subject, e.metric) = (b.tenant, b.subject, b.metric)
                 AND e.kind = 'close' AND e.change = 0
                 AND (e.period_kind, e.period_start) = (b.period_kind, b.period_start)
           )) AS is_running,
           coalesce(g.expires_at <= :now, false) AS is_past
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
         AS wanted (tenant, subject, metric)
    JOIN grants g USING (tenant, subject, metric)
    LEFT JOIN grant_balances u ON u.grant_id = g.id
    LEFT JOIN balances b ON (b.tenant, b.subject, b.metric, b.period_kind, b.period_start)
                          = (g.tenant, g.subject, g.metric, u.period_kind, u.period_start)
    WHERE g.expires_at IS NULL OR g.expires_at > :now OR (g.journalled AND NOT g.expiry_journalled)
    ORDER BY g.priority, g.expires_at NULLS LAST, g.id, u.period_start, u.period_kind
    """
)


def of_accounts(
    connection: Connection, accounts: Sequence[AccountName], now_ms: int
) -> dict[AccountName, list[Granted]]:
    """The grants of each account that have something left or were used in a running period, in the order of their use.

    Of those that have expired at `now_ms`, only the ones of which the ledger has no `expire` entry and that were used
    in a running period: their units are in its balance still.
    """
    rows_of: dict[int, list[Any]] = {}
    for row in connection.execute(_of_accounts, names_of(accounts) | {"now": to_timestamp(now_ms)}):
        rows_of.setdefault(row.id, []).append(row)
    found: dict[AccountName, list[Granted]] = defaultdict(list)
    for grant_id, rows in rows_of.items():
        first = rows[0]
        used = {(row.period_kind, row.period_start): row.used for row in rows if row.used}
        taken = {
            (row.period_kind, from_timestamp(row.period_start)): int(row.used)
            for row in rows
            if row.used and row.is_running
        }
        left = first.amount - int(sum(used.values()))
        if taken or (left and not first.is_past):
            expires_ms = None if first.expires_at is None else from_timestamp(first.expires_at)
            told = first.journalled, first.expiry_journalled
            about = About(reason=first.reason, actor=first.created_by, request_id=first.request_id)
            words = first.kind, encode_about(about)
            granted = Granted(grant_id, first.priority, expires_ms, left, taken, *told, *words)
            found[AccountName(first.tenant, first.subject, first.metric)].append(granted)
    return found


_note = text(
    """
    WITH told AS (
        SELECT g.id, bool_or(s.kind IN ('grant', 'gift')) AS is_known, bool_or(s.kind = 'expire') AS is_over
        FROM staging s
        JOIN grants g ON g.id = CAST(split_part(s.detail, ':', 2) AS bigint)
                     AND (g.tenant, g.subject, g.metric) = (s.tenant, s.subject, s.metric)
        WHERE s.kind IN ('grant', 'gift', 'expire') AND s.detail LIKE 'grant:%'
        GROUP BY g.id
    ), locked AS (
        SELECT id FROM grants WHERE id IN (SELECT id FROM told) ORDER BY id FOR UPDATE
    )
    UPDATE grants SET journalled = grants.journalled OR told.is_known,
                      expiry_journalled = grants.expiry_journalled OR told.is_over
    FROM told JOIN locked USING (id)
    WHERE grants.id = told.id
    """
)


def note_staged(connection: Connection) -> None:
    """Notes of which grants the staged entries say that Redis has heard, and of which it has seen the end."""
    connection.execute(_note)
