"""Verification: does each line of every account follow from the one before it, and are the balances what the entries
add up to?

A line is right if what was used after it is the sum of all changes so far. If it is not, an earlier line is to blame
and was told, or this one: it is right, too, if it follows from the line before. What a reconciliation has corrected is
right by the sum alone (decision 013).

Two things look like differences and are none. Where Redis went back in time and gave out places again (incidents of the
kind `fork`), two histories lie beside each other from that place to the end of the epoch: their changes count, what
they say of balances does not. And each epoch begins with what the ledger knew, so the sum is right again at its first
line.
"""

from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, text

from ledger import replay_buckets
from ledger.chain_verification import Walked, walk
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
    """How far a verification has come: `span` is None when all accounts are done, `chain` where it is not asked for.
    `entries_estimated` is the planner's guess; `carried` entries are in archives, and their sums were begun with."""

    span: Span | None
    chain: Walked | None
    entries_estimated: int
    entries: int = 0
    carried: int = 0
    accounts: int = 0
    balances: int = 0
    differing: int = 0
    told: int = 0
    differences: list[dict[str, Any]] = []

    @property
    def progress(self) -> float:
        """Half of the way are the accounts, if the chains come after them."""
        accounts = 1.0 if self.span is None else share(self.entries, self.entries_estimated)
        if self.chain is None:
            return accounts
        return (accounts + share(self.chain.linked + self.chain.archived, self.entries + self.carried)) / 2

    def result(self) -> dict[str, Any]:
        names = ("accounts", "entries", "carried", "balances", "differing", "told", "differences")
        chain = {} if self.chain is None else {"chain": self.chain.result()}
        return {name: getattr(self, name) for name in names} | chain


# The order within an account is that of places; entries of a fork share theirs. What archived months add up to comes
# first; where Redis's clock went back over the end of a month, lines before its last place are not judged. `told`: the
# drain saw it, too. `corrected`: a later line of the period states what the entries add up to.
_lines = text(
    """
    WITH lines AS MATERIALIZED (
        SELECT tenant, subject, metric, period_kind, period_start, shard, epoch, n, kind, change, entries, used_after,
               is_restated, CASE WHEN is_late THEN occurred_at END AS late_at,
               coalesce(lag(used_after) OVER account, 0) + change AS follows,
               sum(change) OVER account AS summed,
               lead(n) OVER account IS NULL AS is_last,
               max(ARRAY[epoch, n]) FILTER (WHERE kind = 'carried') OVER account AS carried_through
        FROM (
            SELECT * FROM (
                SELECT tenant, subject, metric, period_kind, period_start, shard, epoch, n, kind, change, used_after,
                       occurred_at, is_late, 0 AS entries, CAST(NULL AS date) AS month,
                       coalesce(kind = 'correct' AND detail LIKE 'was:%', false) AS is_restated
                FROM entries
                WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
                  AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
                ORDER BY tenant, subject, metric, epoch, n OFFSET 0
            ) AS stretch
            UNION ALL
            SELECT tenant, subject, metric, period_kind, period_start, shard, epoch, n, 'carried', change, used_after,
                   NULL, false, entries, month, false
            FROM carried
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric) AND what = 'period'
        ) AS every
        WINDOW account AS (
            PARTITION BY tenant, subject, metric, period_kind, period_start ORDER BY month, epoch, n, occurred_at
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
            OR (l.is_restated AND (l.used_after <> l.summed OR l.change <> 0))
        ) AND l.kind <> 'carried' AND (l.carried_through IS NULL OR ARRAY[l.epoch, l.n] > l.carried_through)
          AND NOT EXISTS (
            SELECT FROM forks f WHERE f.shard = l.shard AND f.epoch = l.epoch AND f.n <= l.n
        )
    ), right_again AS (
        SELECT tenant, subject, metric, period_kind, period_start, max(ARRAY[epoch, n]) AS through
        FROM (SELECT DISTINCT tenant, subject, metric, period_kind, period_start FROM wrong WHERE told) AS told
        JOIN lines USING (tenant, subject, metric, period_kind, period_start)
        WHERE used_after = summed AND kind <> 'carried' GROUP BY 1, 2, 3, 4, 5
    ), compared AS (
        SELECT tenant, subject, metric, period_kind, period_start, coalesce(b.shard, l.shard) AS shard,
               b.epoch AS stated_epoch, b.n AS stated_n, b.used AS stated, l.last[1] AS epoch, l.last[2] AS n,
               l.summed AS added_up
        FROM (SELECT *, greatest(ARRAY[epoch, n], carried_through) AS last FROM lines WHERE is_last) l
        FULL JOIN (
            SELECT * FROM balances
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
        ) b USING (tenant, subject, metric, period_kind, period_start)
        WHERE b.used IS DISTINCT FROM l.summed OR ARRAY[b.epoch, b.n] IS DISTINCT FROM l.last
    ), sealed AS (
        SELECT tenant, subject, metric, period_kind, period_start, s.shard, s.epoch, s.n, s.used AS stated,
               coalesce(sum(l.change) FILTER (
                   WHERE (l.late_at IS NULL AND l.kind <> 'carried')
                      OR ((l.epoch, l.n) <= (s.epoch, s.n) AND (l.late_at > s.closed_at) IS NOT TRUE)
               ), 0) AS added_up,
               bool_and((l.epoch, l.n) <= (s.epoch, s.n)) FILTER (WHERE l.kind = 'carried') AS is_known
        FROM (
            SELECT * FROM sealed_periods
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
        ) s LEFT JOIN lines l USING (tenant, subject, metric, period_kind, period_start)
        GROUP BY tenant, subject, metric, period_kind, period_start, s.shard, s.epoch, s.n, s.used
    )
    (
        SELECT 'line' AS what, tenant, subject, metric, period_kind, period_start, shard, epoch, n,
               used_after AS stated, CASE WHEN is_restated THEN summed ELSE follows END AS added_up, told,
               coalesce(r.through > ARRAY[epoch, n], false) AS corrected,
               CAST(NULL AS bigint) AS last_epoch, CAST(NULL AS bigint) AS last_n, CAST(NULL AS bigint) AS accounts,
               CAST(NULL AS bigint) AS carried
        FROM wrong LEFT JOIN right_again r USING (tenant, subject, metric, period_kind, period_start)
        ORDER BY tenant, subject, metric, epoch, n LIMIT :most
    )
    UNION ALL (
        SELECT 'balance', tenant, subject, metric, period_kind, period_start, shard, stated_epoch, stated_n, stated,
               added_up, NULL, NULL, epoch, n, NULL, NULL
        FROM compared ORDER BY tenant, subject, metric, period_start LIMIT :most
    )
    UNION ALL (
        SELECT 'sealed', tenant, subject, metric, period_kind, period_start, shard, epoch, n, stated,
               added_up, NULL, NULL, NULL, NULL, NULL, NULL
        FROM sealed WHERE added_up <> stated AND coalesce(is_known, true)
        ORDER BY tenant, subject, metric, period_start LIMIT :most
    )
    UNION ALL (
        SELECT 'counted', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, count(*) FILTER (WHERE kind <> 'carried'),
               count(*) FILTER (WHERE is_last), NULL, NULL, NULL, NULL,
               (SELECT count(*) FROM (SELECT DISTINCT tenant, subject, metric FROM lines) AS every),
               coalesce(CAST(sum(entries) AS bigint), 0)
        FROM lines
    )
    """
)


def step(engine: Engine, arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
    """Verifies the next accounts; when there are none left, and all tenants' were wanted, the next links of the chains.
    Arguments: `tenant` and `subject`, where not all are wanted; `names_of`; `heads` that were kept elsewhere.

    The result counts accounts, entries and balances, how many are `differing`, and how many are `told` besides: lines
    that an incident tells of, and after which the account was put right. It lists the first differences: what (line,
    balance, sealed, cap, grant, hold), the account, its period, the entry's place, the figure that the ledger states,
    and the one that its entries add up to; a balance names the entry that it stands at, and the last one that there is.
    What differs in a chain: ledger/chain_verification.py.
    """
    # In the scope of all, also where it is one tenant's accounts that are read: incidents belong to no tenant, and to
    # whoever does not see them what they tell of is a difference.
    most = int(arguments.get("step_entries", STEP_ENTRIES))
    with snapshot(engine, None) as connection:
        done = _begun(connection, arguments) if cursor is None else msgspec.convert(cursor, Verified)
        if done.span is not None:
            part = first_part(connection, done.span, most)
            found = _verify(connection, part, done)
            done.span = None if part.until == done.span.until else Span(part.until, done.span.until)
            is_last = done.span is None and done.chain is None
        else:
            assert done.chain is not None
            found, is_last = walk(connection, done.chain, arguments.get("heads") or {}, most)
    is_told = [each.get("told", False) and each["corrected"] for each in found]
    done.told += sum(is_told)
    done.differing += len(found) - sum(is_told)
    done.differences = listed(done.differences, found, names_for(arguments))
    return Step(msgspec.to_builtins(done), done.progress, found, done.result() if is_last else None)


def _begun(connection: Connection, arguments: dict[str, Any]) -> Verified:
    span = whole(connection, arguments.get("tenant"), arguments.get("subject"))
    return Verified(
        span=span or NOTHING,
        entries_estimated=0 if span is None else estimated_entries(connection, span),
        chain=Walked() if arguments.get("tenant") is None else None,
    )


def _verify(connection: Connection, part: Span, done: Verified) -> list[dict[str, Any]]:
    found = []
    for row in connection.execute(_lines, part.parameters() | {"most": MAX_DIFFERENCES_A_STEP}):
        if row.what == "counted":
            done.entries, done.balances = done.entries + row.stated, done.balances + int(row.added_up)
            done.accounts, done.carried = done.accounts + row.accounts, done.carried + row.carried
            continue
        difference = _difference(row) | {"entry": _place(row.shard, row.epoch, row.n)}
        if row.what == "line":
            difference |= {"told": row.told, "corrected": row.corrected}
        elif row.what == "balance":
            difference["last_entry"] = _place(row.shard, row.last_epoch, row.last_n)
        found.append(difference)
    for row in replay_buckets.differing(connection, part, MAX_DIFFERENCES_A_STEP):
        difference = _difference(row)
        if row.what == "grant":
            difference["grant"] = str(row.grant_id)
        if row.what == "hold":
            difference["entry"] = _place(row.shard, row.epoch, row.n)
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
