"""Verification: does each line of every account follow from the one before it, and are the balances what the entries
add up to?

A line is right if what was used after it is the sum of all changes so far. If it is not, an earlier line is to blame
and was told, or this one: it is right, too, if it follows from the line before. A `correct` is right by the sum alone
(decision 013).

Two things look like differences and are none. Where Redis went back in time and gave out places again (incidents of the
kind `fork`), two histories lie beside each other from that place to the end of the epoch: their changes count, what
they say of balances does not. And each epoch begins with what the ledger knew, so the sum is right again at its first
line.
"""

from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, text

from ledger.instants import from_timestamp
from ledger.replay import (
    NOTHING,
    STEP_ENTRIES,
    Span,
    Step,
    estimated_entries,
    first_part,
    listed,
    names_for,
    share,
    snapshot,
    whole,
)
from quota.periods import to_rfc3339

MAX_DIFFERENCES_A_STEP = 10_000
"""More than anyone reads; a ledger that was broken from end to end must not fill a worker's memory."""


class Verified(msgspec.Struct, kw_only=True):
    """How far a verification has come. `entries_estimated` is the planner's guess."""

    span: Span
    entries_estimated: int
    entries: int = 0
    accounts: int = 0
    balances: int = 0
    differing: int = 0
    differences: list[dict[str, Any]] = []

    def result(self) -> dict[str, Any]:
        names = ("accounts", "entries", "balances", "differing", "differences")
        return {name: getattr(self, name) for name in names}


# The order within an account is that of places; entries of a fork share theirs. `told`: the drain saw it, too.
_lines = text(
    """
    WITH lines AS MATERIALIZED (
        SELECT tenant, subject, metric, period_kind, period_start, shard, epoch, n, kind, change, used_after,
               coalesce(lag(used_after) OVER account, 0) + change AS follows,
               sum(change) OVER account AS summed,
               lead(n) OVER account IS NULL AS is_last
        FROM (
            SELECT * FROM entries
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
            ORDER BY tenant, subject, metric, epoch, n OFFSET 0
        ) AS stretch
        WINDOW account AS (
            PARTITION BY tenant, subject, metric, period_kind, period_start ORDER BY epoch, n, occurred_at
            ROWS UNBOUNDED PRECEDING
        )
    ), forks AS MATERIALIZED (
        SELECT shard, CAST(split_part(detail ->> 'from', '-', 1) AS bigint) AS epoch,
               min(CAST(split_part(detail ->> 'from', '-', 2) AS bigint)) AS n
        FROM incidents WHERE kind = 'fork' GROUP BY 1, 2
    ), wrong AS (
        SELECT l.*, EXISTS (
                   SELECT FROM incidents i
                   WHERE i.kind = 'arithmetic' AND i.shard = l.shard
                     AND (i.detail ->> 'epoch', i.detail ->> 'n') = (CAST(l.epoch AS text), CAST(l.n AS text))
               ) AS told
        FROM lines l
        WHERE (
            (l.used_after <> l.summed AND l.used_after <> l.follows)
            OR (l.kind = 'correct' AND (l.used_after <> l.summed OR l.change <> 0))
        ) AND NOT EXISTS (
            SELECT FROM forks f WHERE f.shard = l.shard AND f.epoch = l.epoch AND f.n <= l.n
        )
    ), compared AS (
        SELECT tenant, subject, metric, period_kind, period_start, coalesce(b.shard, l.shard) AS shard,
               b.epoch AS stated_epoch, b.n AS stated_n, b.used AS stated, l.epoch, l.n, l.summed AS added_up
        FROM (SELECT * FROM lines WHERE is_last) l
        FULL JOIN (
            SELECT * FROM balances
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
        ) b USING (tenant, subject, metric, period_kind, period_start)
        WHERE b.used IS DISTINCT FROM l.summed OR (b.epoch, b.n) IS DISTINCT FROM (l.epoch, l.n)
    )
    (
        SELECT 'line' AS what, tenant, subject, metric, period_kind, period_start, shard, epoch, n,
               used_after AS stated, CASE kind WHEN 'correct' THEN summed ELSE follows END AS added_up, told,
               CAST(NULL AS bigint) AS last_epoch, CAST(NULL AS bigint) AS last_n, CAST(NULL AS bigint) AS accounts
        FROM wrong ORDER BY tenant, subject, metric, epoch, n LIMIT :most
    )
    UNION ALL (
        SELECT 'balance', tenant, subject, metric, period_kind, period_start, shard, stated_epoch, stated_n, stated,
               added_up, NULL, epoch, n, NULL
        FROM compared ORDER BY tenant, subject, metric, period_start LIMIT :most
    )
    UNION ALL (
        SELECT 'counted', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, count(*), count(*) FILTER (WHERE is_last),
               NULL, NULL, NULL, (SELECT count(*) FROM (SELECT DISTINCT tenant, subject, metric FROM lines) AS every)
        FROM lines
    )
    """
)

# As ledger/movements.py has it: what was consumed, committed and refunded counts in the windows of its entry.
_caps = text(
    """
    SELECT 'cap' AS what, tenant, subject, metric, period_kind, period_start, c.used AS stated, e.used AS added_up
    FROM (
        SELECT tenant, subject, metric, split_part(cap, ':', 1) AS period_kind,
               timestamptz 'epoch' + CAST(split_part(cap, ':', 2) AS bigint) * interval '1 millisecond' AS period_start,
               sum(CASE WHEN kind = 'refund' THEN -amount ELSE amount END) AS used
        FROM (
            SELECT * FROM entries
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
              AND caps IS NOT NULL
            ORDER BY tenant, subject, metric, epoch, n OFFSET 0
        ) AS stretch CROSS JOIN LATERAL string_to_table(caps, ',') AS cap
        WHERE kind IN ('consume', 'commit', 'refund')
        GROUP BY 1, 2, 3, 4, 5
    ) e FULL JOIN (
        SELECT * FROM cap_balances
        WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
          AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
    ) c USING (tenant, subject, metric, period_kind, period_start)
    WHERE c.used IS DISTINCT FROM e.used
    ORDER BY tenant, subject, metric, period_start LIMIT :most
    """
)

# A part of a grant is `<id>:<priority>:<expires_ms>:<units>`; a close that moves units takes them along.
_grants = text(
    """
    SELECT 'grant' AS what, coalesce(e.tenant, g.tenant) AS tenant, coalesce(e.subject, g.subject) AS subject,
           coalesce(e.metric, g.metric) AS metric, period_kind, period_start, grant_id, g.used AS stated,
           e.used AS added_up
    FROM (
        SELECT tenant, subject, metric, CAST(split_part(part, ':', 1) AS bigint) AS grant_id, period_kind, period_start,
               sum(CAST(split_part(part, ':', 4) AS bigint)
                   * CASE WHEN kind IN ('refund', 'close') THEN -1 ELSE 1 END) AS used
        FROM (
            SELECT * FROM entries
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
              AND parts IS NOT NULL
            ORDER BY tenant, subject, metric, epoch, n OFFSET 0
        ) AS stretch CROSS JOIN LATERAL string_to_table(parts, ',') AS part
        WHERE part LIKE '%:%' AND kind IN ('consume', 'commit', 'open', 'refund', 'close')
        GROUP BY 1, 2, 3, 4, 5, 6
    ) e FULL JOIN (
        SELECT g.tenant, g.subject, g.metric, u.grant_id, u.period_kind, u.period_start, u.used
        FROM grants g JOIN grant_balances u ON u.grant_id = g.id
        WHERE (g.tenant, g.subject, g.metric) > (:after_tenant, :after_subject, :after_metric)
          AND (g.tenant, g.subject, g.metric) <= (:until_tenant, :until_subject, :until_metric)
    ) g USING (grant_id, period_kind, period_start)
    WHERE g.used IS DISTINCT FROM e.used
    ORDER BY 2, 3, 4, 6, grant_id LIMIT :most
    """
)


def step(engine: Engine, arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
    """Verifies the next accounts. Arguments: `tenant` and `subject`, where not all are wanted; `names_of`.

    The result counts accounts, entries and balances, and how many are `differing`; it lists the first differences: what
    (line, balance, cap, grant), the account, its period, the entry's place, the figure that the ledger states, and the
    one that its entries add up to. `told` says that an incident tells of the line already; a balance names the entry
    that it stands at, and the last one that there is.
    """
    tenant = arguments.get("tenant")
    with snapshot(engine, tenant) as connection:
        done = _begun(connection, arguments) if cursor is None else msgspec.convert(cursor, Verified)
        if done is None:
            return Step({}, 1.0, [], Verified(span=NOTHING, entries_estimated=0).result())
        part = first_part(connection, done.span, int(arguments.get("step_entries", STEP_ENTRIES)))
        found = _verify(connection, part, done)
    done.differing += len(found)
    done.differences = listed(done.differences, found, names_for(arguments))
    is_last = part.until == done.span.until
    done.span = Span(part.until, done.span.until)
    progress = share(done.entries, done.entries_estimated)
    return Step(msgspec.to_builtins(done), progress, found, done.result() if is_last else None)


def _begun(connection: Connection, arguments: dict[str, Any]) -> Verified | None:
    span = whole(connection, arguments.get("tenant"), arguments.get("subject"))
    return None if span is None else Verified(span=span, entries_estimated=estimated_entries(connection, span))


def _verify(connection: Connection, part: Span, done: Verified) -> list[dict[str, Any]]:
    parameters = part.parameters() | {"most": MAX_DIFFERENCES_A_STEP}
    found = []
    for row in connection.execute(_lines, parameters):
        if row.what == "counted":
            done.entries, done.balances = done.entries + row.stated, done.balances + int(row.added_up)
            done.accounts += row.accounts
            continue
        difference = _difference(row) | {"entry": _place(row.shard, row.epoch, row.n)}
        more = (
            {"told": row.told} if row.what == "line" else {"last_entry": _place(row.shard, row.last_epoch, row.last_n)}
        )
        found.append(difference | more)
    for statement in (_caps, _grants):
        for row in connection.execute(statement, parameters):
            difference = _difference(row)
            if row.what == "grant":
                difference["grant"] = str(row.grant_id)
            found.append(difference)
    return found


def _place(shard: int, epoch: int | None, n: int | None) -> str | None:
    return None if epoch is None else f"{shard}.{epoch}-{n}"


def _difference(row: Any) -> dict[str, Any]:
    return {
        "what": row.what,
        "tenant": row.tenant,
        "subject": row.subject,
        "metric": row.metric,
        "period_kind": row.period_kind,
        "period_start": to_rfc3339(from_timestamp(row.period_start)),
        "stated": None if row.stated is None else int(row.stated),
        "added_up": None if row.added_up is None else int(row.added_up),
    }
