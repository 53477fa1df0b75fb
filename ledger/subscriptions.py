"""Subscriptions: which plan a subject is on."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, text
from sqlalchemy.dialects.postgresql import insert

from ledger.announcements import announce
from ledger.instants import from_timestamp, to_timestamp
from ledger.tables import subscriptions
from quota.entitlement import Subscription

_of_subjects = text(
    """
    SELECT s.tenant, s.subject, s.plan, s.status, s.anchor, s.add_ons
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[])) AS wanted (tenant, subject)
    JOIN subscriptions s USING (tenant, subject)
    """
)


def of_subjects(connection: Connection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Subscription]:
    """The subscriptions of (tenant, subject) pairs; a subject without one is left out."""
    rows = connection.execute(
        _of_subjects, {"tenants": [tenant for tenant, _ in wanted], "subjects": [subject for _, subject in wanted]}
    )
    return {
        (row.tenant, row.subject): Subscription(
            row.plan, row.status, None if row.anchor is None else from_timestamp(row.anchor), row.add_ons
        )
        for row in rows
    }


def of_subject(connection: Connection, tenant: str, subject: str) -> Subscription | None:
    """The subject's subscription, None if there is none."""
    return of_subjects(connection, [(tenant, subject)]).get((tenant, subject))


def put(connection: Connection, tenant: str, subject: str, subscription: Subscription, changed_by: str) -> int:
    """Writes the subscription; the id of the announcement that Redis must hear of."""
    values = {
        "plan": subscription.plan,
        "status": subscription.status,
        "anchor": None if subscription.anchor_ms is None else to_timestamp(subscription.anchor_ms),
        "add_ons": dict(subscription.add_ons),
        "changed_at": func.now(),
        "changed_by": changed_by,
    }
    connection.execute(
        insert(subscriptions)
        .values(tenant=tenant, subject=subject, **values)
        .on_conflict_do_update(constraint="a_subject_has_one_subscription", set_=values)
    )
    return announce(connection, tenant, subject)
