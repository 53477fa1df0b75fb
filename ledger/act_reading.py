"""The audit log as it is read: the newest act first, in small pieces, like the other reports (ledger/reports.py)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from ledger.instants import from_timestamp, to_timestamp
from ledger.reports import LOOK_ROWS, Piece
from quota.periods import to_rfc3339

MOST_OPEN_S = 3_600
"""An act's instant is its transaction's beginning, and its id is given out later. No transaction that makes acts is
open for so long, so that behind an act this much older than what is asked for nothing more is to be found."""
MEMBERS = ("id", "at", "act", "actor", "origin", "request_id", "reason", "subject", "object", "before", "after")


class ActPlace(NamedTuple):
    """Where an act stands in the list."""

    id: int


@dataclass(frozen=True, slots=True)
class WantedActs:
    """Which acts; None is any. Without a tenant, those of all that the scope sees, and operators' own. Instants are
    Unix milliseconds: `from_ms` is in it, `to_ms` is not."""

    tenant: str | None
    subject: str | None = None
    act: str | None = None
    actor: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


# The indices lead to a tenant's acts, or a subject's, in their order; what else is asked for is picked out of them.
# `looked_at` is where this look ended, on every row, and alone where nothing was found.
_acts = text(
    """
    WITH looked AS (
        SELECT * FROM acts
        WHERE (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
          AND (CAST(:subject AS text) IS NULL OR subject = :subject)
          AND id < :before
        ORDER BY id DESC LIMIT :look
    ), last AS (
        SELECT min(id) AS id, count(*) AS acts, min(at) AS earliest FROM looked
    )
    SELECT found.*, last.id AS looked_at, last.acts AS looked, last.earliest
    FROM last LEFT JOIN LATERAL (
        SELECT * FROM looked
        WHERE (CAST(:act AS text) IS NULL OR act = :act)
          AND (CAST(:actor AS text) IS NULL OR actor = :actor)
          AND (CAST(:from AS timestamptz) IS NULL OR at >= :from)
          AND (CAST(:to AS timestamptz) IS NULL OR at < :to)
        ORDER BY id DESC LIMIT :most
    ) AS found ON true
    ORDER BY found.id DESC
    """
)


def acts_after(connection: Connection, wanted: WantedActs, after: ActPlace | None, most: int) -> Piece[ActPlace]:
    """Up to `most` acts that come after a place, the newest first. It may find fewer, or none, and the list goes on all
    the same: see LOOK_ROWS."""
    picked = (wanted.act, wanted.actor, wanted.from_ms, wanted.to_ms)
    look = most if all(each is None for each in picked) else max(most, LOOK_ROWS)
    words = {
        "tenant": wanted.tenant,
        "subject": wanted.subject,
        "act": wanted.act,
        "actor": wanted.actor,
        "from": None if wanted.from_ms is None else to_timestamp(wanted.from_ms),
        "to": None if wanted.to_ms is None else to_timestamp(wanted.to_ms),
        "before": 2**63 - 1 if after is None else after.id,
        "look": look,
        "most": most,
    }
    rows = connection.execute(_acts, words).all()
    last, found = rows[0], [row for row in rows if row.id is not None]
    if len(found) == most:
        return Piece(found, place_of_act(found[-1]))
    is_past = wanted.from_ms is not None and last.looked > 0 and _lies_before(last.earliest, wanted.from_ms)
    return Piece(found, ActPlace(last.looked_at) if last.looked == look and not is_past else None)


def _lies_before(earliest: Any, from_ms: int) -> bool:
    return from_timestamp(earliest) < from_ms - MOST_OPEN_S * 1000


def place_of_act(row: Any) -> ActPlace:
    return ActPlace(row.id)


def act_document(row: Any) -> dict[str, Any]:
    """An act as it is shown, its members in the order of MEMBERS."""
    document = {name: getattr(row, name) for name in MEMBERS}
    return document | {"id": str(row.id), "at": to_rfc3339(from_timestamp(row.at))}
