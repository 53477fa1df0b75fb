"""What ought not to be, kept for people on call: of which kinds there are incidents, and what to do about each."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from ledger.instants import from_timestamp
from ledger.reconciliations import Reconciliation
from quota.journal import Place
from quota.lives import NOWHERE
from quota.periods import to_rfc3339
from quota.redis_clock import BACK_BY_MS

SEEN_WITHIN_S = 10
"""Every gateway looks at Redis's clock every two seconds, so that all of them have seen one step by then."""
MAX_COUNTED = 100_000
"""Far beyond what anybody looks through; a flood is counted no further."""
LOST_ANYWAY = (
    "what the ledger has is not lost, and the counters are its own again by themselves; find out why that Redis lost "
    "data"
)
WHAT_TO_DO = {
    "lost": LOST_ANYWAY,
    "rewound": f"`detail` says what Redis had forgotten; {LOST_ANYWAY}",
    "lost_entries": "`detail` names whose entries were told to callers and lost with Redis, and how much: as much may "
    "have been let through above a limit; give or charge it by hand where that matters. Where the ledger had been away "
    "for long there are more, `unnamed_at_most` so many, of which no gateway remembers whose they were",
    "gap": "entries of a journal are missing: did anybody trim or delete a stream by hand? The shard begins an epoch "
    "by itself",
    "fork": "Redis gave out places of its journal twice, after a restart or a fail-over with older data; those entries "
    "count, and the shard begins an epoch by itself",
    "lost_hold": "a reservation was lost in a fork: its id names another one; whoever holds it must reserve again",
    "unreadable": "an entry was set aside, and is whole in `detail`: what it charged is not in the ledger",
    "arithmetic": "an entry's balance does not follow from the one before it: run `quotagate reconcile`, then "
    "`quotagate ledger verify`",
    "mass_drift": "reconciliations correct nothing while so much drifts: find out what is wrong, then run "
    "`quotagate reconcile --correct-all`",
    "seal": "a period was not closed with what its entries add up to: its counter had drifted. `GET /v1/periods` shows "
    "both, and the entries' sum holds",
    "clock": "Redis's clock went back: set it by NTP, which slews and does not step; periods that were closed stay so, "
    "and entries meanwhile have the instants that the clock told",
}
"""By kind. Another kind is counted as well, once there is one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The incidents of one kind in a stretch of time."""

    kind: str
    incidents: int
    newest_at: datetime
    newest_id: int


@dataclass(frozen=True, slots=True)
class Incident:
    """One of them, with all that is known."""

    id: int
    found_at_ms: int
    shard: int
    kind: str
    detail: dict[str, Any]

    def to_document(self) -> dict[str, Any]:
        """Its JSON form."""
        at = to_rfc3339(self.found_at_ms)
        return {"id": self.id, "found_at": at, "kind": self.kind, "shard": self.shard, "detail": self.detail}


def what_was_lost(kind: str, detail: Mapping[str, Any]) -> list[str]:
    """Of a loss of counters, in words: what Redis had not any more of what the ledger had; and whether callers were
    told of more. That there was nothing is another thing than that nobody knows. Empty for other kinds."""
    if kind not in {"lost", "rewound"} or "ledger_has" not in detail:
        return []
    return [_of_the_ledgers(kind, detail), _of_what_was_told(detail)]


def _of_the_ledgers(kind: str, detail: Mapping[str, Any]) -> str:
    counted, is_all = detail.get("entries", 0), not detail.get("and_more", False)
    if kind == "lost":
        has = Place.parsed(detail["ledger_has"])
        return "the ledger had nothing of this shard" if has == NOWHERE else f"the ledger had all up to {has}"
    if counted:
        entries = "entry" if counted == 1 else "entries"
        return f"Redis had forgotten {counted:,} {entries} of the ledger's" + ("" if is_all else ", and more")
    if is_all:
        return "Redis had forgotten nothing that the ledger had"
    return "how much Redis had forgotten is not known: as many entries as are counted were counted in other shards"


def _of_what_was_told(detail: Mapping[str, Any]) -> str:
    if "callers_were_told" not in detail:
        return "whether callers were told of more is not known to the gateway that noticed: another one tells it itself"
    if Place.parsed(detail["callers_were_told"]) <= Place.parsed(detail["ledger_has"]):
        return "the gateway that noticed had told callers of nothing else"
    return (
        "the gateway that noticed had told callers of more: `lost_entries` says what of it the ledger has not got, "
        "if anything, once the journal is drained"
    )


_listed = text(
    """
    SELECT id, found_at, shard, kind, detail FROM incidents
    WHERE found_at > now() - make_interval(hours => :hours) AND (CAST(:kind AS text) IS NULL OR kind = :kind)
    ORDER BY found_at DESC, id DESC LIMIT :most
    """
)


def listed(connection: Connection, hours: int, kind: str | None, most: int) -> list[Incident]:
    """The newest of the last hours, of one kind or all; the newest comes last."""
    rows = connection.execute(_listed, {"hours": hours, "kind": kind, "most": most}).all()
    return [Incident(row.id, from_timestamp(row.found_at), row.shard, row.kind, row.detail) for row in reversed(rows)]


_since = text(
    """
    SELECT kind, count(*) AS incidents, max(found_at) AS newest_at, max(id) AS newest_id
    FROM (
        SELECT id, kind, found_at FROM incidents
        WHERE found_at > now() - make_interval(hours => :hours) ORDER BY found_at DESC LIMIT :most
    ) AS recent
    GROUP BY kind ORDER BY newest_at DESC
    """
)


def of_the_last(connection: Connection, hours: int) -> list[Kind]:
    """The kinds of which there were incidents in so many hours, the latest first; of a flood the latest are counted."""
    rows = connection.execute(_since, {"hours": hours, "most": MAX_COUNTED})
    return [Kind(row.kind, row.incidents, row.newest_at, row.newest_id) for row in rows]


def has_healed(each: Kind, last: Reconciliation | None) -> bool:
    """Whether these are losses of counters only, which heal by themselves, and the last reconciliation began after all
    of them and left no counter that differs. What callers were told, and what is missing, nobody but people can mend.
    """
    return (
        each.kind in {"lost", "rewound"}
        and last is not None
        and last.started_at_ms > each.newest_at.timestamp() * 1000
        and last.refusal is None
        and last.drifted + last.missing <= last.corrected
    )


def counts(connection: Connection, hours: int) -> dict[str, int]:
    """How many there were of every known kind in so many hours, none included; of all others together `other`."""
    found = dict.fromkeys([*WHAT_TO_DO, "other"], 0)
    for each in of_the_last(connection, hours):
        found[each.kind if each.kind in WHAT_TO_DO else "other"] += each.incidents
    return found


_clock_lock = text("SELECT pg_advisory_xact_lock(hashtext('quotagate.clock'))")

# Of a step that was seen: by somebody who saw it at about the same time. Of one that only the ledger tells of: one that
# explains why the clock is behind.
_is_told = text(
    """
    SELECT EXISTS (
        SELECT FROM incidents
        WHERE kind = 'clock' AND CASE WHEN :was_seen
            THEN found_at > now() - make_interval(secs => :seen_within_s)
                 AND abs(CAST(detail ->> 'by_ms' AS bigint) - :by_ms) < :about_ms
            ELSE CAST(detail ->> 'was_ms' AS bigint) > :was_ms - :about_ms
        END
    )
    """
)
_tell = text(
    """
    INSERT INTO incidents (shard, kind, detail)
    VALUES (0, 'clock', jsonb_build_object(
        'by_ms', CAST(:by_ms AS bigint), 'was_ms', CAST(:was_ms AS bigint), 'is_ms', CAST(:is_ms AS bigint),
        'shards', 'all'))
    """
)


def tell_of_clock(connection: Connection, was_ms: int, is_ms: int, was_seen: bool) -> bool:
    """Writes down that Redis's clock is at `is_ms`, although it has been at `was_ms`. Many processes see one step, and
    others begin after it: False if somebody has told already."""
    connection.execute(_clock_lock)
    step = {"by_ms": was_ms - is_ms, "was_ms": was_ms}
    same = {"was_seen": was_seen, "seen_within_s": SEEN_WITHIN_S, "about_ms": BACK_BY_MS}
    if connection.execute(_is_told, step | same).scalar_one():
        return False
    connection.execute(_tell, step | {"is_ms": is_ms})
    return True
