"""Subscriptions: which plan a subject is on, and which it will be on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import Connection, func, null, text
from sqlalchemy.dialects.postgresql import insert

from ledger import acts, catalogs, notices
from ledger.acts import By
from ledger.announcements import announce
from ledger.due_changes import change_due, settle, told_of
from ledger.instants import from_timestamp, to_timestamp
from ledger.subscription_rows import columns_of, of_subject, of_subjects, words_of
from ledger.subscription_tables import subscriptions
from quota.entitlement import Scheduled, Subscription, with_grace
from quota.errors import NotFound

__all__ = ["change_due", "of_subject", "of_subject_locked", "of_subjects", "put", "schedule", "write"]


def put(connection: Connection, tenant: str, subject: str, subscription: Subscription, by: By, *, now_ms: int) -> int:
    """Writes the subscription with what is scheduled of it, and nothing else is any more; the id of the announcement
    to be told to Redis. `now_ms` is Redis's clock."""
    return write(connection, tenant, subject, subscription, by, now_ms=now_ms)[1]


def write(
    connection: Connection,
    tenant: str,
    subject: str,
    subscription: Subscription,
    by: By,
    *,
    now_ms: int | None = None,
    has_grace: bool = True,
) -> tuple[Subscription, int]:
    """The same; the subscription as it was written, and the announcement's id.

    `now_ms` is Redis's clock, Postgres's if left out. `has_grace`: a past_due that has no end gets the catalog's.
    TooMany when too many changes of the subject's terms have not reached the ledger yet.
    """
    now_ms = _now_ms(connection) if now_ms is None else now_ms
    before = _alone(connection, tenant, subject, now_ms)
    _, catalog = catalogs.newest(connection, tenant)
    if has_grace:
        subscription = with_grace(catalog, before, subscription, now_ms)
    subscription = subscription.at(now_ms)
    values = columns_of(subscription) | {
        "changed_at": func.now(),
        "changed_by": by.actor,
        **_scheduled(subscription.scheduled, by),
    }
    connection.execute(
        insert(subscriptions)
        .values(tenant=tenant, subject=subject, **values)
        .on_conflict_do_update(constraint="a_subject_has_one_subscription", set_=values)
    )
    act_id = acts.note(
        connection,
        tenant,
        by,
        "subscription.written",
        subject=subject,
        object=subscription.plan,
        before=None if before is None else before.to_document(),
        after=subscription.to_document(),
    )
    notices.add(connection, tenant, subject, told_of(catalog, before, subscription), act_id=act_id, by=by)
    return subscription, announce(connection, tenant, subject)


def of_subject_locked(connection: Connection, tenant: str, subject: str) -> Subscription | None:
    """The subject's subscription, which nobody else changes until the transaction ends."""
    notices.lock(connection, tenant, subject)
    return of_subject(connection, tenant, subject)


def _alone(connection: Connection, tenant: str, subject: str, now_ms: int) -> Subscription | None:
    """The subject's subscription of now, which nobody else changes until the transaction ends. What was due before is
    written down first."""
    notices.room(connection, tenant, subject)
    settle(connection, [(tenant, subject)], now_ms)
    found = of_subject(connection, tenant, subject)
    return None if found is None else found.at(now_ms)


_clock = text("SELECT now()")


def _now_ms(connection: Connection) -> int:
    return from_timestamp(connection.execute(_clock).scalar_one())


_schedule = text(
    """
    UPDATE subscriptions SET scheduled = CAST(:scheduled AS jsonb), scheduled_at = :at
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
    has_grace: bool = True,
) -> tuple[Subscription, int]:
    """Notes what the subject's subscription changes into at the instant that `end_of` tells of it; the subscription,
    and the id of the announcement that Redis must hear of. NotFound if there is none; whatever `end_of` raises."""
    before = _alone(connection, tenant, subject, now_ms)
    if before is None:
        raise NotFound(f"{subject} has no subscription that could change at a period's end", subject=subject)
    running = replace(before, scheduled=None)
    at_ms = end_of(running)
    if has_grace:
        _, catalog = catalogs.newest(connection, tenant)
        following = with_grace(catalog, running, following, at_ms)
    where = {"tenant": tenant, "subject": subject, "at": to_timestamp(at_ms)}
    connection.execute(_schedule, where | {"scheduled": msgspec.json.encode(_words(following, by)).decode()})
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


def _scheduled(scheduled: Scheduled | None, by: By) -> dict[str, Any]:
    if scheduled is None:
        return {"scheduled": null(), "scheduled_at": None}
    return {"scheduled": _words(scheduled.subscription, by), "scheduled_at": to_timestamp(scheduled.at_ms)}


def _words(subscription: Subscription, by: By) -> dict[str, Any]:
    who = {"changed_by": by.actor, "origin": by.origin, "request_id": by.request_id, "reason": by.reason}
    return words_of(subscription) | who
