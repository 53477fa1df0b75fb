"""The audit log: every administrative act, in the transaction that does it, so that none is done without being kept.

Rows are only added. `before` and `after` are documents as HTTP shows them; None where there was, or is, nothing.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert

from ledger.act_table import acts

ACTS = (
    "catalog.applied",
    "subscription.written",
    "subscription.scheduled",
    "grant.given",
    "api_key.made",
    "api_key.revoked",
    "api_key.rotated",
    "tenant.made",
    "job.asked",
    "month.archived",
    "month.dropped",
)
"""What an act may be."""


@dataclass(frozen=True, slots=True)
class By:
    """Who asked: a key's id, `cli`, `settings`, or a part of ours that carries out what was asked before. `origin` is
    from where: an address, or a person and a machine. `reason` is why, in their words."""

    actor: str
    origin: str | None = None
    request_id: str | None = None
    reason: str | None = None


def note(
    connection: Connection,
    tenant: str,
    by: By,
    act: str,
    *,
    subject: str | None = None,
    object: str | None = None,
    before: Any = None,
    after: Any = None,
) -> int:
    """Keeps an act: what was done (one of ACTS), to which subject, and to which thing of its: a metric, a plan, a key's
    id. Its id."""
    assert act in ACTS, f"{act} is no known act"
    values = {
        "tenant": tenant,
        "act": act,
        "actor": by.actor,
        "origin": by.origin,
        "request_id": by.request_id,
        "reason": by.reason,
        "subject": subject,
        "object": object,
        "before": before,
        "after": after,
    }
    told = {name: value for name, value in values.items() if value is not None}
    return int(connection.execute(insert(acts).values(told).returning(acts.c.id)).scalar_one())
