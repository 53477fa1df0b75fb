"""What verification compares beside the lines and balances of accounts: capped windows, units of grants, and holds."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, text

from ledger.balances_at import LONGEST_HOLD_MS
from ledger.instants import to_timestamp
from ledger.replay import Span, archived_through_ms

# As ledger/movements.py has it: what was consumed, committed and refunded counts in the windows of its entry.
CAPS = text(
    """
    SELECT 'cap' AS what, tenant, subject, metric, period_kind, period_start, c.used AS stated, e.used AS added_up
    FROM (
        SELECT tenant, subject, metric, period_kind, period_start, sum(units) AS used FROM (
            SELECT tenant, subject, metric, split_part(cap, ':', 1) AS period_kind,
                   timestamptz 'epoch' + CAST(split_part(cap, ':', 2) AS bigint) * interval '1 millisecond'
                       AS period_start,
                   CASE WHEN kind = 'refund' THEN -amount ELSE amount END AS units
            FROM (
                SELECT * FROM entries
                WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
                  AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
                  AND caps IS NOT NULL
                ORDER BY tenant, subject, metric, epoch, n OFFSET 0
            ) AS stretch CROSS JOIN LATERAL string_to_table(caps, ',') AS cap
            WHERE kind IN ('consume', 'commit', 'refund')
            UNION ALL
            SELECT tenant, subject, metric, period_kind, period_start, change FROM carried
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric) AND what = 'cap'
        ) AS counted
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

# A part of a grant is `<id>:<priority>:<expires_ms>:<units>`; a close that moves units takes them along, and what was
# given away counts in no period.
GRANTS = text(
    """
    SELECT 'grant' AS what, coalesce(e.tenant, g.tenant) AS tenant, coalesce(e.subject, g.subject) AS subject,
           coalesce(e.metric, g.metric) AS metric, period_kind, period_start, grant_id, g.used AS stated,
           e.used AS added_up
    FROM (
        SELECT tenant, subject, metric, grant_id, period_kind, period_start, sum(units) AS used FROM (
            SELECT tenant, subject, metric, CAST(split_part(part, ':', 1) AS bigint) AS grant_id,
                   CASE kind WHEN 'gift' THEN 'gift' ELSE period_kind END AS period_kind,
                   CASE kind WHEN 'gift' THEN timestamptz 'epoch' ELSE period_start END AS period_start,
                   CAST(split_part(part, ':', 4) AS bigint)
                       * CASE WHEN kind IN ('refund', 'close') OR change < 0 THEN -1 ELSE 1 END AS units
            FROM (
                SELECT * FROM entries
                WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
                  AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
                  AND parts IS NOT NULL
                ORDER BY tenant, subject, metric, epoch, n OFFSET 0
            ) AS stretch CROSS JOIN LATERAL string_to_table(parts, ',') AS part
            WHERE part LIKE '%:%' AND kind IN ('consume', 'commit', 'open', 'refund', 'close', 'correct', 'gift')
            UNION ALL
            SELECT tenant, subject, metric, grant_id, period_kind, period_start, change FROM carried
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric) AND what = 'grant'
        ) AS counted
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

# What is open by the entries is what is open by the table. Of a hold that was made before an archive's end nothing is
# said. Those that were settled are found by the places of their entries alone.
HOLDS = text(
    """
    WITH stretch AS MATERIALIZED (
        SELECT * FROM entries
        WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
          AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
          AND kind IN ('hold', 'commit', 'release', 'expire')
        ORDER BY tenant, subject, metric, epoch, n OFFSET 0
    ), settled AS (
        SELECT tenant, subject, metric, detail, array_agg(kind) AS kinds FROM stretch
        WHERE kind IN ('commit', 'release', 'expire') AND detail ~ '^[0-9]+-[0-9]+$' GROUP BY 1, 2, 3, 4
    ), made AS (
        SELECT h.tenant, h.subject, h.metric, h.shard, h.epoch, h.n, h.amount, h.period_kind, h.period_start, s.kinds
        FROM stretch h LEFT JOIN settled s
            ON (s.tenant, s.subject, s.metric, s.detail) = (h.tenant, h.subject, h.metric, concat(h.epoch, '-', h.n))
        WHERE h.kind = 'hold' AND CAST(h.detail AS bigint) >= :since_ms
    )
    (
        SELECT 'hold' AS what, m.tenant, m.subject, m.metric, m.period_kind, m.period_start, m.shard, m.epoch, m.n,
               CASE WHEN h.settled_by IS NULL THEN h.amount ELSE 0 END AS stated,
               CASE WHEN m.kinds IS NULL THEN m.amount ELSE 0 END AS added_up
        FROM made m LEFT JOIN holds h USING (shard, epoch, n)
        WHERE h.n IS NULL OR (h.tenant, h.subject, h.metric, h.amount) <> (m.tenant, m.subject, m.metric, m.amount)
            OR (h.settled_by IS NULL) <> (m.kinds IS NULL) OR h.settled_by <> ALL (m.kinds)
    )
    UNION ALL (
        SELECT 'hold', h.tenant, h.subject, h.metric, h.period_kind, h.period_start, h.shard, h.epoch, h.n, h.amount,
               NULL
        FROM holds h
        WHERE (h.tenant, h.subject, h.metric) > (:after_tenant, :after_subject, :after_metric)
          AND (h.tenant, h.subject, h.metric) <= (:until_tenant, :until_subject, :until_metric)
          AND h.settled_by IS NULL AND h.expires_at >= :since
          AND NOT EXISTS (
              SELECT FROM stretch s WHERE s.kind = 'hold' AND (s.shard, s.epoch, s.n) = (h.shard, h.epoch, h.n)
          )
    )
    ORDER BY 2, 3, 4, 8, 9 LIMIT :most
    """
)


# Two holds that a fork gave one place, of two accounts perhaps, which no stretch has both of.
_at_one_place = text(
    """
    SELECT shard, epoch, n
    FROM unnest(CAST(:shards AS integer[]), CAST(:epochs AS bigint[]), CAST(:ns AS bigint[])) AS found (shard, epoch, n)
    WHERE (
        SELECT count(*) FROM entries e
        WHERE (e.shard, e.epoch, e.n) = (found.shard, found.epoch, found.n) AND e.kind = 'hold'
    ) > 1
    """
)


def differing(connection: Connection, part: Span, most: int) -> Iterator[Any]:
    """Rows of what differs: `what` (cap, grant, hold), the account, its period, `stated` and `added_up`; of a grant its
    `grant_id`, of a hold the place of its entry. Nothing is said of two holds at one place: the table has one of them.
    """
    since_ms = archived_through_ms(connection)
    since_ms += LONGEST_HOLD_MS if since_ms else 0
    parameters = part.parameters() | {"most": most, "since_ms": since_ms, "since": to_timestamp(since_ms)}
    for statement in (CAPS, GRANTS):
        yield from connection.execute(statement, parameters)
    holds = connection.execute(HOLDS, parameters).all()
    places = {name: [getattr(row, name[:-1]) for row in holds] for name in ("shards", "epochs", "ns")}
    doubled = {tuple(row) for row in connection.execute(_at_one_place, places)} if holds else set()
    yield from (row for row in holds if (row.shard, row.epoch, row.n) not in doubled)
