"""Balances at an instant, added up from entries alone."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, text

from ledger.balances_at import LONGEST_HOLD_MS
from ledger.instants import from_timestamp, to_timestamp
from ledger.replay import (
    NOTHING,
    STEP_ENTRIES,
    Span,
    Step,
    estimated_entries,
    first_part,
    listed,
    names_for,
    refuse_archived,
    share,
    snapshot,
    whole,
)
from quota.periods import to_rfc3339


class Replayed(msgspec.Struct, kw_only=True):
    """How far a replay has come."""

    span: Span
    at_ms: int
    entries_estimated: int
    entries: int = 0
    accounts: int = 0
    balances: int = 0
    used: int = 0
    listed: list[dict[str, Any]] = []

    def result(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("accounts", "entries", "used")}
        return {"at": to_rfc3339(self.at_ms), **counts, "balances": self.balances, "listed": self.listed}


# The last entry of a balance: with the largest place. Two of a fork share theirs. Archived months are begun with.
_balances = text(
    """
    SELECT tenant, subject, metric, period_kind, period_start, max(period_end) AS period_end,
           sum(change) AS used, CAST(sum(entries) AS bigint) AS entries, max(shard) AS shard, max(place) AS place
    FROM (
        SELECT tenant, subject, metric, period_kind, period_start, period_end, change, 1 AS entries, shard,
               ARRAY[epoch, n] AS place
        FROM (
            SELECT * FROM entries
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
            ORDER BY tenant, subject, metric, epoch, n OFFSET 0
        ) AS stretch
        WHERE occurred_at <= :at
        UNION ALL
        SELECT tenant, subject, metric, period_kind, period_start, period_end, change, entries, shard, ARRAY[epoch, n]
        FROM carried
        WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
          AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric) AND what = 'period'
    ) AS counted
    GROUP BY tenant, subject, metric, period_kind, period_start
    ORDER BY tenant, subject, metric, period_start, period_kind
    """
)


def step(engine: Engine, arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
    """Adds up the next accounts' balances of every period. Arguments: `at_ms`; `tenant` and `subject`, where not all
    are wanted; `names_of`.

    Found is each balance: the account, its period, what was used, by how many entries, and the last of them. The result
    counts, and lists the first.
    """
    with snapshot(engine, arguments.get("tenant")) as connection:
        refuse_archived(connection, arguments["at_ms"], "a replay up to that instant")
        done = _begun(connection, arguments) if cursor is None else msgspec.convert(cursor, Replayed)
        if done is None:
            return Step({}, 1.0, [], Replayed(span=NOTHING, at_ms=arguments["at_ms"], entries_estimated=0).result())
        part = first_part(connection, done.span, int(arguments.get("step_entries", STEP_ENTRIES)))
        rows = connection.execute(_balances, part.parameters() | {"at": to_timestamp(done.at_ms)}).all()
    found = [_document(row) for row in rows]
    done.entries += sum(row.entries for row in rows)
    done.accounts += len({(row.tenant, row.subject, row.metric) for row in rows})
    done.balances += len(rows)
    done.used += int(sum(row.used for row in rows))
    done.listed = listed(done.listed, found, names_for(arguments))
    is_last = part.until == done.span.until
    done.span = Span(part.until, done.span.until)
    result = done.result() if is_last else None
    return Step(msgspec.to_builtins(done), share(done.entries, done.entries_estimated), found, result)


def _begun(connection: Connection, arguments: dict[str, Any]) -> Replayed | None:
    span = whole(connection, arguments.get("tenant"), arguments.get("subject"))
    if span is None:
        return None
    return Replayed(span=span, at_ms=arguments["at_ms"], entries_estimated=estimated_entries(connection, span))


def _document(row: Any) -> dict[str, Any]:
    epoch, n = row.place
    return {
        "tenant": row.tenant,
        "subject": row.subject,
        "metric": row.metric,
        "period": _period(row),
        "used": int(row.used),
        "entries": row.entries,
        "last_entry": f"{row.shard}.{epoch}-{n}",
    }


def _period(row: Any) -> dict[str, Any]:
    if row.period_end is None:
        return {"kind": row.period_kind, "start": None, "end": None}
    start, end = (to_rfc3339(from_timestamp(each)) for each in (row.period_start, row.period_end))
    return {"kind": row.period_kind, "start": start, "end": end}


# Of a hold only its entry tells when it ends; what settles it names its place.
_standing = text(
    """
    WITH line AS (
        SELECT * FROM entries
        WHERE tenant = :tenant AND subject = :subject AND (CAST(:metric AS text) IS NULL OR metric = :metric)
          AND occurred_at <= :at
    ), held AS (
        SELECT h.metric, sum(h.amount) AS held FROM line h
        WHERE h.kind = 'hold' AND CAST(h.detail AS bigint) > :at_ms AND NOT EXISTS (
            SELECT FROM line s
            WHERE s.metric = h.metric AND s.kind IN ('commit', 'release', 'expire')
              AND s.detail = concat(h.epoch, '-', h.n)
        )
          AND (h.period_end IS NULL OR h.period_end > :at)
        GROUP BY h.metric
    )
    SELECT l.tenant, l.subject, l.metric, l.period_kind, l.period_start, max(l.period_end) AS period_end,
           sum(l.change) AS used, CAST(sum(l.entries) AS bigint) AS entries, max(l.shard) AS shard,
           max(ARRAY[l.epoch, l.n]) AS place, coalesce(max(held.held), 0) AS held
    FROM (
        SELECT tenant, subject, metric, period_kind, period_start, period_end, change, 1 AS entries, shard, epoch, n
        FROM line
        UNION ALL
        SELECT tenant, subject, metric, period_kind, period_start, period_end, change, entries, shard, epoch, n
        FROM carried
        WHERE tenant = :tenant AND subject = :subject AND (CAST(:metric AS text) IS NULL OR metric = :metric)
          AND what = 'period'
    ) AS l LEFT JOIN held USING (metric)
    WHERE l.period_start <= :at AND (l.period_end IS NULL OR l.period_end > :at)
    GROUP BY l.tenant, l.subject, l.metric, l.period_kind, l.period_start
    ORDER BY l.metric, l.period_start, l.period_kind
    """
)


def at_instant(
    connection: Connection, tenant: str, subject: str, metric: str | None, at_ms: int
) -> Sequence[dict[str, Any]]:
    """How a subject's accounts stood at an instant: what was used in the periods in which it lies, and what was held.

    Of a window that another took the place of, and whose units went along, there is one with nothing used beside it.
    InvalidRequest within a day of what was archived: a hold of then may have been open still.
    """
    refuse_archived(connection, at_ms, "the balance at that instant", LONGEST_HOLD_MS)
    wanted = {"tenant": tenant, "subject": subject, "metric": metric, "at": to_timestamp(at_ms), "at_ms": at_ms}
    return [_document(row) | {"held": int(row.held)} for row in connection.execute(_standing, wanted)]
