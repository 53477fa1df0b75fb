"""Entries as a stream, in an order that stays: by account, and within one by place.

What an export begins with is what it ends with: entries that arrive meanwhile are left out, by the places that the
ledger had reached when it began. So the same cursor gives the same entries, whenever it is asked.
"""

from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, text

from ledger import shards
from ledger.instants import to_timestamp
from ledger.replay import Span, Step, estimated_entries, refuse_archived, share, snapshot, whole

PAGE_ENTRIES = 5_000


class Exported(msgspec.Struct, kw_only=True):
    """How far an export has come: after which entry of which account. `places` is where each shard stood,
    from the first one on."""

    span: Span
    epoch: int = -1
    n: int = -1
    places: list[tuple[int, int]]
    entries_estimated: int
    looked_at: int = 0
    entries: int = 0


# Only the place stands in WHERE, so that a page is a walk along the index of accounts. Entries of a fork share a place:
# they come together.
_page = text(
    """
    SELECT e.*, (CAST(:metric AS text) IS NULL OR e.metric = :metric)
           AND e.occurred_at >= :since AND e.occurred_at < :till
           AND (e.epoch, e.n) <= ((CAST(:epochs AS bigint[]))[e.shard + 1], (CAST(:ns AS bigint[]))[e.shard + 1])
               AS is_wanted
    FROM entries e
    WHERE (e.tenant, e.subject, e.metric, e.epoch, e.n)
        > (:after_tenant, :after_subject, :after_metric, :after_epoch, :after_n)
      AND (e.tenant, e.subject, e.metric) <= (:until_tenant, :until_subject, :until_metric)
    ORDER BY e.tenant, e.subject, e.metric, e.epoch, e.n
    FETCH FIRST :most ROWS WITH TIES
    """
)


def step(engine: Engine, arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
    """The next page. Arguments: `from_ms`, `to_ms` (not in it any more); `tenant`, `subject`, `metric`, where not all
    are wanted. Found are the rows of entries; the result says how many there were. InvalidRequest if it begins with
    what is in an archive."""
    with snapshot(engine, arguments.get("tenant")) as connection:
        refuse_archived(connection, arguments["from_ms"], "an export from that instant on")
        done = _begun(connection, arguments) if cursor is None else msgspec.convert(cursor, Exported)
        if done is None:
            return Step({}, 1.0, [], {"entries": 0})
        most = int(arguments.get("step_entries", PAGE_ENTRIES))
        rows = connection.execute(_page, _parameters(done, arguments, most)).all()
    found = [row for row in rows if row.is_wanted]
    done.looked_at += len(rows)
    done.entries += len(found)
    if len(rows) < most:
        return Step({}, 1.0, found, {"entries": done.entries})
    last = rows[-1]
    done.span = Span((last.tenant, last.subject, last.metric), done.span.until)
    done.epoch, done.n = last.epoch, last.n
    return Step(msgspec.to_builtins(done), share(done.looked_at, done.entries_estimated), found)


def _begun(connection: Connection, arguments: dict[str, Any]) -> Exported | None:
    span = whole(connection, arguments.get("tenant"), arguments.get("subject"))
    if span is None:
        return None
    places = [(place.epoch, place.n) for place in shards.offsets(connection).values()]
    return Exported(span=span, places=places, entries_estimated=estimated_entries(connection, span))


def _parameters(done: Exported, arguments: dict[str, Any], most: int) -> dict[str, Any]:
    return done.span.parameters() | {
        "after_epoch": done.epoch,
        "after_n": done.n,
        "metric": arguments.get("metric"),
        "since": to_timestamp(arguments["from_ms"]),
        "till": to_timestamp(arguments["to_ms"]),
        "epochs": [epoch for epoch, _ in done.places],
        "ns": [n for _, n in done.places],
        "most": most,
    }
