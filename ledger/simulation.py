"""What if: a stretch of history run against another catalog. Who would have been denied, when, by which limit, how
often; and who would not have been denied any more.

Subject by subject, because an operation charges several accounts of one subject together, and in steps that are
bounded. The rules are those of quota/model.py, which the scripts are held against; how a history is read by them:
ledger/simulated_subject.py.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, text

from ledger import subscriptions
from ledger.instants import from_timestamp, to_timestamp
from ledger.replay import MAX_LISTED, Step, refuse_archived, share, snapshot
from ledger.simulated_subject import SimulatedSubject
from quota.buckets import Grant
from quota.catalog import Catalog, stored
from quota.errors import InvalidRequest
from quota.periods import DAY_MS, to_rfc3339

STEP_ENTRIES = 10_000
"""Of one step, up to the end of the subject that they lead to: about a second."""
ROWS_AT_ONCE = 1_000
LONGEST_WINDOW_MS = {"day": DAY_MS, "week": 7 * DAY_MS, "month": 31 * DAY_MS, "year": 366 * DAY_MS}


class Simulated(msgspec.Struct, kw_only=True):
    """How far a simulation has come: after which subject."""

    after: str = ""
    entries_estimated: int
    subjects: int = 0
    entries: int = 0
    denied: int = 0
    subjects_denied: int = 0
    denied_before: int = 0
    denied_no_more: int = 0
    subjects_denied_no_more: int = 0
    limits: dict[str, int] = {}
    listed: list[dict[str, Any]] = []

    def add(self, found: dict[str, Any] | None, subject: SimulatedSubject) -> None:
        self.subjects += 1
        self.entries += subject.entries
        self.denied_before += subject.denied_before
        if found is None:
            return
        self.denied += found["denied"]
        self.subjects_denied += found["denied"] > 0
        self.denied_no_more += found["denied_no_more"]
        self.subjects_denied_no_more += found["denied_no_more"] > 0
        counted = Counter(self.limits)
        for each in found["limits"]:
            counted[f"{each['metric']} {each['limit']}"] += each["denied"]
        self.limits = dict(counted)
        if len(self.listed) < MAX_LISTED:
            self.listed.append(found)

    def result(self, arguments: dict[str, Any]) -> dict[str, Any]:
        names = [name for name in self.__struct_fields__ if name not in {"after", "entries_estimated"}]
        stretch = {"from": to_rfc3339(arguments["from_ms"]), "to": to_rfc3339(arguments["to_ms"])}
        return stretch | {name: getattr(self, name) for name in names}


_estimated = text(
    "EXPLAIN (FORMAT JSON) SELECT FROM entries WHERE tenant = :tenant AND occurred_at >= :since AND occurred_at < :till"
)

_border = text(
    """
    SELECT subject FROM entries
    WHERE tenant = :tenant AND subject > :after AND occurred_at >= :since AND occurred_at < :till
    ORDER BY subject OFFSET :entries LIMIT 1
    """
)

_last = text("SELECT subject FROM entries WHERE tenant = :tenant AND subject > :after ORDER BY subject DESC LIMIT 1")

_entries = text(
    """
    SELECT subject, metric, epoch, n, occurred_at, kind, amount, change, plan, receipt_first_n, receipt_count, detail,
           is_late
    FROM entries
    WHERE tenant = :tenant AND subject > :after AND subject <= :until
      AND occurred_at >= :since AND occurred_at < :till
    ORDER BY subject, occurred_at, epoch, n
    """
)

_refunded = text(
    """
    SELECT subject, detail FROM entries
    WHERE tenant = :tenant AND subject > :after AND subject <= :until AND kind = 'refund'
      AND occurred_at >= :since AND occurred_at < :till
    """
)

# What was left of each grant that Redis had heard of before the first entry that is read.
_grants = text(
    """
    SELECT g.id, g.subject, g.metric, g.priority, g.expires_at, g.amount, told.plan,
           coalesce(told.is_told, false) AS is_told,
           g.amount - coalesce((
               SELECT sum(c.change) FROM carried c
               WHERE (c.tenant, c.subject, c.metric, c.what, c.grant_id)
                   = (g.tenant, g.subject, g.metric, 'grant', g.id)
           ), 0) - coalesce((
               SELECT sum(CAST(split_part(part, ':', 4) AS bigint)
                          * CASE WHEN e.kind IN ('refund', 'close') OR e.change < 0 THEN -1 ELSE 1 END)
               FROM entries e CROSS JOIN LATERAL string_to_table(e.parts, ',') AS part
               WHERE (e.tenant, e.subject, e.metric) = (g.tenant, g.subject, g.metric) AND e.occurred_at < :since
                 AND e.kind IN ('consume', 'commit', 'open', 'refund', 'close', 'correct', 'gift')
                 AND part LIKE concat(g.id, ':%')
           ), 0) AS units_left
    FROM grants g LEFT JOIN LATERAL (
        SELECT e.plan, true AS is_told FROM entries e
        WHERE (e.tenant, e.subject, e.metric) = (g.tenant, g.subject, g.metric)
          AND e.kind IN ('grant', 'gift') AND e.detail = concat('grant:', g.id) AND e.occurred_at < :since
        UNION ALL
        SELECT c.plan, true FROM carried c
        WHERE (c.tenant, c.subject, c.metric, c.what, c.grant_id) = (g.tenant, g.subject, g.metric, 'told', g.id)
        LIMIT 1
    ) AS told ON true
    WHERE g.tenant = :tenant AND g.subject > :after AND g.subject <= :until
    ORDER BY g.subject, g.metric, g.id
    """
)


def step(engine: Engine, arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
    """Simulates the next subjects. Arguments: `tenant`, `catalog` (its document), `from_ms`, `to_ms` (not in it any
    more).

    Found are the subjects for whom something would have been another way; the result counts them, and lists the first.
    """
    tenant, catalog = arguments["tenant"], stored(arguments["catalog"])
    if arguments["from_ms"] >= arguments["to_ms"]:
        raise InvalidRequest("from must lie before to", field="from")
    since_ms = _since_ms(catalog, arguments["from_ms"])
    with snapshot(engine, tenant) as connection:
        refuse_archived(connection, since_ms, "a simulation with windows that began then")
        wanted = {"tenant": tenant, "since": to_timestamp(since_ms), "till": to_timestamp(arguments["to_ms"])}
        done = _begun(connection, wanted) if cursor is None else msgspec.convert(cursor, Simulated)
        until, is_last = _until(connection, wanted | {"after": done.after}, arguments)
        found = []
        if until is not None:
            wanted |= {"after": done.after, "until": until}
            for name, subject in _subjects(connection, wanted, catalog, since_ms, arguments["from_ms"]):
                document = subject.document(tenant, name)
                done.add(document, subject)
                found += [] if document is None else [document]
            done.after = until
    progress = share(done.entries, done.entries_estimated)
    return Step(msgspec.to_builtins(done), progress, found, done.result(arguments) if is_last else None)


def _since_ms(catalog: Catalog, from_ms: int) -> int:
    """The first instant that a window of this catalog which runs at `from` can begin with."""
    kinds = {limit.period for plan in catalog.plans.values() for limit in plan.limits.values()}
    if None in kinds or not kinds:
        return 0
    return max(0, from_ms - max(LONGEST_WINDOW_MS[kind] for kind in kinds if kind is not None))


def _begun(connection: Connection, wanted: dict[str, Any]) -> Simulated:
    (plan,) = connection.execute(_estimated, wanted).scalar_one()
    return Simulated(entries_estimated=int(plan["Plan"]["Plan Rows"]))


def _until(connection: Connection, wanted: dict[str, Any], arguments: dict[str, Any]) -> tuple[str | None, bool]:
    """The last subject of this step, None if there is none, and whether no other follows."""
    most = int(arguments.get("step_entries", STEP_ENTRIES))
    border = connection.execute(_border, wanted | {"entries": most}).scalar_one_or_none()
    if border is not None:
        return border, False
    return connection.execute(_last, wanted).scalar_one_or_none(), True


def _subjects(
    connection: Connection, wanted: dict[str, Any], catalog: Catalog, since_ms: int, from_ms: int
) -> Iterator[tuple[str, SimulatedSubject]]:
    tenant = wanted["tenant"]
    refunded = {(row.subject, row.detail) for row in connection.execute(_refunded, wanted)}
    grants: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(_grants, wanted):
        grants[row.subject].append(row)
    terms = {row.id: (row.priority, _ms(row.expires_at)) for rows in grants.values() for row in rows}
    streamed = connection.execution_options(stream_results=True, yield_per=ROWS_AT_ONCE).execute(_entries, wanted)
    for name, rows in groupby(streamed, key=lambda row: str(row.subject)):
        subject = SimulatedSubject(
            catalog,
            subscriptions.of_subject(connection, tenant, name),
            from_ms,
            lambda grant_id: terms.get(grant_id, (0, None)),
            lambda place, name=name: (name, place) in refunded,  # type: ignore[misc]
        )
        for row in grants[name]:
            if row.is_told and row.units_left > 0:
                grant = Grant(row.id, row.priority, _ms(row.expires_at), int(row.units_left))
                subject.begin(row.metric, row.plan, since_ms, [grant])
        subject.run(rows)
        yield name, subject


def _ms(instant: Any) -> int | None:
    return None if instant is None else from_timestamp(instant)
