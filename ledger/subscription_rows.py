"""Subscriptions as rows: read, locked, and what is written of them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from ledger.accounts import array_text
from ledger.instants import from_timestamp, to_timestamp
from quota.entitlement import STATUSES_THAT_END, Scheduled, Subscription

_of_subjects = text(
    """
    SELECT s.tenant, s.subject, s.plan, s.status, s.anchor, s.add_ons, s.scheduled, s.scheduled_at, s.status_until,
           s.has_lapsed, s.changed_by
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[])) AS wanted (tenant, subject)
    JOIN subscriptions s USING (tenant, subject)
    """
)


def of_subjects(connection: Connection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Subscription]:
    """The subscriptions of (tenant, subject) pairs; a subject without one is left out."""
    rows = connection.execute(_of_subjects, _pairs(wanted)).all()
    return {(row.tenant, row.subject): subscription_of(row) for row in rows}


def of_subject(connection: Connection, tenant: str, subject: str) -> Subscription | None:
    """The subject's subscription, None if there is none."""
    return of_subjects(connection, [(tenant, subject)]).get((tenant, subject))


_locked = text(_of_subjects.text.rstrip() + " ORDER BY s.tenant, s.subject FOR UPDATE OF s")


def locked_rows(connection: Connection, wanted: Sequence[tuple[str, str]]) -> list[Any]:
    """The rows of (tenant, subject) pairs, which nobody else changes until the transaction ends."""
    return list(connection.execute(_locked, _pairs(wanted)))


def _pairs(wanted: Sequence[tuple[str, str]]) -> dict[str, str]:
    tenants, subjects = array_text([tenant for tenant, _ in wanted]), array_text([subject for _, subject in wanted])
    return {"tenants": tenants, "subjects": subjects}


def subscription_of(row: Any) -> Subscription:
    """What a row says."""
    scheduled = None
    if row.scheduled is not None:
        words = row.scheduled
        following = Subscription(
            words["plan"],
            words["status"],
            words["anchor_ms"],
            words["add_ons"],
            status_until_ms=words.get("status_until_ms"),
        )
        scheduled = Scheduled(following, from_timestamp(row.scheduled_at))
    anchor_ms, until_ms = (None if at is None else from_timestamp(at) for at in (row.anchor, row.status_until))
    # A gateway of the version before writes a status and leaves the end of another.
    ends = row.status in STATUSES_THAT_END
    return Subscription(row.plan, row.status, anchor_ms, row.add_ons, scheduled, until_ms if ends else None)


def columns_of(subscription: Subscription) -> dict[str, Any]:
    """The columns that say what holds."""
    anchor_ms, until_ms = subscription.anchor_ms, subscription.status_until_ms
    return {
        "plan": subscription.plan,
        "status": subscription.status,
        "anchor": None if anchor_ms is None else to_timestamp(anchor_ms),
        "add_ons": dict(subscription.add_ons),
        "status_until": None if until_ms is None else to_timestamp(until_ms),
        "has_lapsed": subscription.has_lapsed,
    }


def words_of(subscription: Subscription) -> dict[str, Any]:
    """What is kept of one that is to hold later."""
    names = ("plan", "status", "anchor_ms", "status_until_ms")
    return {name: getattr(subscription, name) for name in names} | {"add_ons": dict(subscription.add_ons)}
