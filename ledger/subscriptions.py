"""Subscriptions: which plan a subject is on, and which it will be on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import Connection, func, null, text
from sqlalchemy.dialects.postgresql import insert

from ledger import acts
from ledger.accounts import array_text
from ledger.acts import By
from ledger.announcements import announce
from ledger.instants import from_timestamp, to_timestamp
from ledger.tables import subscriptions
from quota.entitlement import Scheduled, Subscription
from quota.errors import NotFound

_of_subjects = text(
    """
    SELECT s.tenant, s.subject, s.plan, s.status, s.anchor, s.add_ons, s.scheduled, s.scheduled_at
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[])) AS wanted (tenant, subject)
    JOIN subscriptions s USING (tenant, subject)
    """
)


_of_subjects_locked = text(_of_subjects.text + "FOR UPDATE OF s")


def of_subjects(connection: Connection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Subscription]:
    """The subscriptions of (tenant, subject) pairs; a subject without one is left out."""
    tenants, subjects = array_text([tenant for tenant, _ in wanted]), array_text([subject for _, subject in wanted])
    rows = connection.execute(_of_subjects, {"tenants": tenants, "subjects": subjects}).all()
    return {(row.tenant, row.subject): _subscription(row) for row in rows}


def _subscription(row: Any) -> Subscription:
    scheduled = None
    if row.scheduled is not None:
        words = row.scheduled
        following = Subscription(words["plan"], words["status"], words["anchor_ms"], words["add_ons"])
        scheduled = Scheduled(following, from_timestamp(row.scheduled_at))
    anchor_ms = None if row.anchor is None else from_timestamp(row.anchor)
    return Subscription(row.plan, row.status, anchor_ms, row.add_ons, scheduled)


def of_subject(connection: Connection, tenant: str, subject: str) -> Subscription | None:
    """The subject's subscription, None if there is none."""
    return of_subjects(connection, [(tenant, subject)]).get((tenant, subject))


def put(connection: Connection, tenant: str, subject: str, subscription: Subscription, by: By) -> int:
    """Writes the subscription with what is scheduled of it, and nothing else is any more; the id of the announcement
    to be told to Redis."""
    before = of_subject_locked(connection, tenant, subject)
    values = _columns(subscription) | {
        "changed_at": func.now(),
        "changed_by": by.actor,
        **_scheduled(subscription.scheduled, by),
    }
    connection.execute(
        insert(subscriptions)
        .values(tenant=tenant, subject=subject, **values)
        .on_conflict_do_update(constraint="a_subject_has_one_subscription", set_=values)
    )
    acts.note(
        connection,
        tenant,
        by,
        "subscription.written",
        subject=subject,
        object=subscription.plan,
        before=None if before is None else before.to_document(),
        after=subscription.to_document(),
    )
    return announce(connection, tenant, subject)


def of_subject_locked(connection: Connection, tenant: str, subject: str) -> Subscription | None:
    """The subject's subscription, which nobody else changes until the transaction ends."""
    row = connection.execute(_of_subjects_locked, {"tenants": [tenant], "subjects": [subject]}).one_or_none()
    return None if row is None else _subscription(row)


_schedule = text(
    """
    UPDATE subscriptions
    SET plan = :plan, status = :status, anchor = :anchor, add_ons = CAST(:add_ons AS jsonb),
        scheduled = CAST(:scheduled AS jsonb), scheduled_at = :at
    WHERE tenant = :tenant AND subject = :subject
    """
)


def schedule(
    connection: Connection,
    tenant: str,
    subject: str,
    following: Subscription,
    *,
    end_of: Callable[[Subscription], int],
    now_ms: int,
    by: By,
) -> tuple[Subscription, int]:
    """Notes what the subject's subscription changes into at the instant that `end_of` tells of it; the subscription,
    and the id of the announcement that Redis must hear of. NotFound if there is none; whatever `end_of` raises."""
    before = of_subject_locked(connection, tenant, subject)
    if before is None:
        raise NotFound(f"{subject} has no subscription that could change at a period's end", subject=subject)
    running = replace(before.at(now_ms), scheduled=None)
    at_ms = end_of(running)
    words = _words(following) | {"changed_by": by.actor}
    changes = _columns(running) | {
        "add_ons": msgspec.json.encode(running.add_ons).decode(),
        "scheduled": msgspec.json.encode(words).decode(),
        "at": to_timestamp(at_ms),
    }
    connection.execute(_schedule, {"tenant": tenant, "subject": subject} | changes)
    after = replace(running, scheduled=Scheduled(following, at_ms))
    acts.note(
        connection,
        tenant,
        by,
        "subscription.scheduled",
        subject=subject,
        object=following.plan,
        before=before.to_document(),
        after=after.to_document(),
    )
    return after, announce(connection, tenant, subject)


def _columns(subscription: Subscription) -> dict[str, Any]:
    return {
        "plan": subscription.plan,
        "status": subscription.status,
        "anchor": None if subscription.anchor_ms is None else to_timestamp(subscription.anchor_ms),
        "add_ons": dict(subscription.add_ons),
    }


def _scheduled(scheduled: Scheduled | None, by: By) -> dict[str, Any]:
    if scheduled is None:
        return {"scheduled": null(), "scheduled_at": None}
    words = _words(scheduled.subscription) | {"changed_by": by.actor}
    return {"scheduled": words, "scheduled_at": to_timestamp(scheduled.at_ms)}


def _words(subscription: Subscription) -> dict[str, Any]:
    names = ("plan", "status", "anchor_ms")
    return {name: getattr(subscription, name) for name in names} | {"add_ons": dict(subscription.add_ons)}


# Whoever reads a subscription takes what is due for done, so this is only tidying, and tells nobody.
_change = text(
    """
    WITH due AS (
        SELECT tenant, subject FROM subscriptions WHERE scheduled_at <= :now
        ORDER BY scheduled_at, tenant, subject LIMIT :most FOR UPDATE SKIP LOCKED
    )
    UPDATE subscriptions s
    SET plan = s.scheduled ->> 'plan', status = s.scheduled ->> 'status', add_ons = s.scheduled -> 'add_ons',
        anchor = timestamptz 'epoch' + CAST(s.scheduled ->> 'anchor_ms' AS bigint) * interval '1 millisecond',
        changed_at = s.scheduled_at, changed_by = s.scheduled ->> 'changed_by', scheduled = NULL, scheduled_at = NULL
    FROM due WHERE (s.tenant, s.subject) = (due.tenant, due.subject)
    """
)


def change_due(connection: Connection, now_ms: int, most: int) -> int:
    """Writes down of some subscriptions that what was scheduled has come to hold; how many."""
    return connection.execute(_change, {"now": to_timestamp(now_ms), "most": most}).rowcount
