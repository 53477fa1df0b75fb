"""The outbox of changes that Redis must hear of. Written in the change's own transaction, deleted once every shard was
told; a worker tells what a gateway that died in between did not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, text

from ledger.tables import announcements

MAX_BATCH = 500
"""Announcements told in one run of the job; the next run takes the next ones."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """`subject` None means that the tenant's catalog changed."""

    id: int
    tenant: str
    subject: str | None


def announce(connection: Connection, tenant: str, subject: str | None) -> int:
    """Notes that something changed; the id to take away once it was told."""
    query = insert(announcements).values(tenant=tenant, subject=subject).returning(announcements.c.id)
    return int(connection.execute(query).scalar_one())


def announce_all(connection: Connection, subjects: Sequence[tuple[str, str]]) -> list[int]:
    """Notes that something changed for each of these (tenant, subject) pairs; the ids, in their order."""
    query = insert(announcements).returning(announcements.c.id, sort_by_parameter_order=True)
    values = [{"tenant": tenant, "subject": subject} for tenant, subject in subjects]
    return list(connection.execute(query, values).scalars())


def untold(connection: Connection, older_than_s: float) -> list[Announcement]:
    """Announcements that nobody told within some seconds, oldest first."""
    query = (
        select(announcements.c.id, announcements.c.tenant, announcements.c.subject)
        .where(
            announcements.c.created_at
            < func.now() - text("make_interval(secs => :age_s)").bindparams(age_s=older_than_s)
        )
        .order_by(announcements.c.id)
        .limit(MAX_BATCH)
    )
    return [Announcement(*row) for row in connection.execute(query)]


def told(connection: Connection, ids: Sequence[int]) -> None:
    connection.execute(delete(announcements).where(announcements.c.id.in_(ids)))
