"""Changes of terms that take effect at an instant: scheduled plans, statuses that lapse, overrides that end.

Whoever reads the terms takes what is due for done, at the very instant. Here it is written down, once, with an act and
with notices: by the reset job, or by whoever changes the subject's terms before it comes.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, null, text, update

from ledger import acts, catalogs, notices, overrides
from ledger.acts import By
from ledger.instants import to_timestamp
from ledger.notices import Told
from ledger.subscription_rows import columns_of, locked_rows, subscription_of
from ledger.subscription_tables import subscriptions
from quota.catalog import Catalog
from quota.entitlement import STATUSES_THAT_END, Subscription, changed_metrics, plan_in_force
from quota.keys import AccountName
from quota.periods import to_rfc3339

MAX_STEPS = 3
"""A status lapses, another subscription takes its place, and its status lapses, too: more cannot be due."""


class Changed(NamedTuple):
    """How many subjects' terms were written down as changed, whether more may be due, and the accounts that are to hear
    of it."""

    subjects: int
    is_more: bool
    accounts: list[AccountName]


_scheduled = text(
    """
    SELECT tenant, subject FROM subscriptions WHERE scheduled_at <= :now
    ORDER BY scheduled_at, tenant, subject LIMIT :most
    """
)

# A status that does not end may have the end of another, left there by a gateway of the version before.
_lapsing = text(
    """
    SELECT tenant, subject FROM subscriptions
    WHERE status_until <= :now AND status_until IS NOT NULL AND NOT has_lapsed AND status = ANY(:ending)
    ORDER BY status_until, tenant, subject LIMIT :most
    """
)

_ending = text(
    """
    SELECT tenant, subject FROM overrides WHERE expires_at <= :now
    ORDER BY expires_at, tenant, subject, metric LIMIT :most
    """
)


def change_due(connection: Connection, now_ms: int, most: int) -> Changed:
    """Writes down of some subjects that what was to take effect has; at most so many of each kind of change."""
    words = {"now": to_timestamp(now_ms), "most": most, "ending": list(STATUSES_THAT_END)}
    pages = [connection.execute(query, words).all() for query in (_scheduled, _lapsing, _ending)]
    found = sorted({(row.tenant, row.subject) for page in pages for row in page})
    if not found:
        return Changed(0, False, [])
    notices.lock_all(connection, found)
    # A subject of which too many notices wait is left for later: the drain is away.
    ready = [each for each in found if notices.crowded(connection, *each) is None]
    changed, accounts = _settle(connection, ready, now_ms)
    # A page of which nothing changes would be found again and again.
    is_more = len(changed) == len(found) and any(len(page) == most for page in pages)
    return Changed(len(changed), is_more, accounts)


def settle(connection: Connection, subjects: Collection[tuple[str, str]], now_ms: int) -> list[AccountName]:
    """The same of these (tenant, subject) pairs, which the caller has locked (`ledger/notices.py`); the accounts that
    are to hear of it."""
    return _settle(connection, subjects, now_ms)[1]


def _settle(
    connection: Connection, subjects: Collection[tuple[str, str]], now_ms: int
) -> tuple[set[tuple[str, str]], list[AccountName]]:
    """Which of the subjects changed, too."""
    known: dict[str, Catalog] = {}

    def catalog_of(tenant: str) -> Catalog:
        if tenant not in known:
            known[tenant] = catalogs.newest(connection, tenant)[1]
        return known[tenant]

    changed: set[tuple[str, str]] = set()
    accounts: list[AccountName] = []
    for row in locked_rows(connection, list(subjects)):
        for each in _steps(subscription_of(row), row, now_ms):
            accounts += _write(connection, row, each, catalog_of(row.tenant))
            changed.add((row.tenant, row.subject))
    for tenant, subject in subjects:
        ended = overrides.end(connection, tenant, subject, now_ms)
        accounts += ended
        changed |= {(tenant, subject)} if ended else set()
    return changed, accounts


class _Step(NamedTuple):
    act: str
    before: Subscription
    after: Subscription
    by: By


def _steps(found: Subscription, row: Any, now_ms: int) -> Iterable[_Step]:
    """What has become of a subscription, one thing after the other. Pure."""
    by = By(row.changed_by, reason=None)
    standing = replace(found, has_lapsed=row.has_lapsed)
    for _ in range(MAX_STEPS):
        scheduled = standing.scheduled
        lapses_ms = None if standing.has_lapsed else standing.status_until_ms
        if lapses_ms is not None and lapses_ms <= min(now_ms, scheduled.at_ms if scheduled else now_ms):
            why = f"{standing.status} until {to_rfc3339(lapses_ms)}"
            after = replace(standing, has_lapsed=True)
            yield _Step("subscription.lapsed", standing, after, replace(by, reason=why))
        elif scheduled is not None and scheduled.at_ms <= now_ms:
            words = row.scheduled
            names = ("origin", "request_id", "reason")
            by = By(words.get("changed_by") or row.changed_by, *(words.get(name) for name in names))
            after = scheduled.subscription
            yield _Step("subscription.changed", standing, after, by)
        else:
            return
        standing = after


def _write(connection: Connection, row: Any, step: _Step, catalog: Catalog) -> list[AccountName]:
    after, is_change = step.after, step.act == "subscription.changed"
    values = columns_of(after)
    if is_change:
        values |= {
            "changed_at": row.scheduled_at,
            "changed_by": step.by.actor,
            "scheduled": null(),
            "scheduled_at": None,
        }
    where = (subscriptions.c.tenant == row.tenant, subscriptions.c.subject == row.subject)
    connection.execute(update(subscriptions).where(*where).values(values))
    told = told_of(catalog, step.before, after)
    act_id = acts.note(
        connection,
        row.tenant,
        step.by,
        step.act,
        subject=row.subject,
        object=after.plan,
        before=_document(catalog, step.before),
        after=_document(catalog, after),
    )
    notices.add(connection, row.tenant, row.subject, told, act_id=act_id, by=step.by)
    return [AccountName(row.tenant, row.subject, each.metric) for each in told]


def told_of(catalog: Catalog, before: Subscription | None, after: Subscription) -> list[Told]:
    """What accounts are told of a subscription that takes another's place. Pure."""
    word = "lapsed" if after.has_lapsed else after.status
    return [Told(metric, "open", 0, word) for metric in changed_metrics(catalog, before, after)]


def _document(catalog: Catalog, subscription: Subscription) -> dict[str, Any]:
    return subscription.to_document() | {"plan_in_force": plan_in_force(catalog, subscription)}
