"""What a month's entries add up to, written down when they leave the ledger."""

from datetime import date, datetime

from sqlalchemy import Connection, text

# The last entry is that with the largest place; of a fork, the later one. Late entries state what the ledger knew.
_periods = text(
    """
    INSERT INTO carried (month, tenant, subject, metric, what, period_kind, period_start, period_end, change, entries,
                         shard, epoch, n, used_after)
    SELECT :month, tenant, subject, metric, 'period', period_kind, period_start, period_end, change, entries, shard,
           last[1], last[2], last[4]
    FROM (
        SELECT tenant, subject, metric, period_kind, period_start, max(period_end) AS period_end, sum(change) AS change,
               count(*) AS entries, max(shard) AS shard,
               max(ARRAY[epoch, n, CAST(extract(epoch FROM occurred_at) * 1000000 AS bigint), used_after]) AS last
        FROM entries WHERE occurred_at >= :since AND occurred_at < :till
        GROUP BY tenant, subject, metric, period_kind, period_start
    ) AS summed
    """
)

# As ledger/movements.py has it: what was consumed, committed and refunded counts in the windows of its entry.
_caps = text(
    """
    INSERT INTO carried (month, tenant, subject, metric, what, period_kind, period_start, change, entries, shard, epoch,
                         n)
    SELECT :month, tenant, subject, metric, 'cap', period_kind, period_start, change, entries, shard, last[1], last[2]
    FROM (
        SELECT tenant, subject, metric, split_part(cap, ':', 1) AS period_kind,
               timestamptz 'epoch' + CAST(split_part(cap, ':', 2) AS bigint) * interval '1 millisecond' AS period_start,
               sum(CASE WHEN kind = 'refund' THEN -amount ELSE amount END) AS change, count(*) AS entries,
               max(shard) AS shard, max(ARRAY[epoch, n]) AS last
        FROM entries CROSS JOIN LATERAL string_to_table(caps, ',') AS cap
        WHERE occurred_at >= :since AND occurred_at < :till AND kind IN ('consume', 'commit', 'refund')
        GROUP BY 1, 2, 3, 4, 5
    ) AS summed
    """
)

# A part of a grant is `<id>:<priority>:<expires_ms>:<units>`; a close that moves units takes them along.
_grants = text(
    """
    INSERT INTO carried (month, tenant, subject, metric, what, grant_id, period_kind, period_start, change, entries,
                         shard, epoch, n)
    SELECT :month, tenant, subject, metric, 'grant', grant_id, period_kind, period_start, change, entries, shard,
           last[1], last[2]
    FROM (
        SELECT tenant, subject, metric, CAST(split_part(part, ':', 1) AS bigint) AS grant_id,
               CASE kind WHEN 'gift' THEN 'gift' ELSE period_kind END AS period_kind,
               CASE kind WHEN 'gift' THEN timestamptz 'epoch' ELSE period_start END AS period_start,
               sum(CAST(split_part(part, ':', 4) AS bigint)
                   * CASE WHEN kind IN ('refund', 'close') OR change < 0 THEN -1 ELSE 1 END) AS change,
               count(*) AS entries, max(shard) AS shard, max(ARRAY[epoch, n]) AS last
        FROM entries CROSS JOIN LATERAL string_to_table(parts, ',') AS part
        WHERE occurred_at >= :since AND occurred_at < :till AND part LIKE '%:%'
          AND kind IN ('consume', 'commit', 'open', 'refund', 'close', 'correct', 'gift')
        GROUP BY 1, 2, 3, 4, 5, 6
    ) AS summed
    """
)

# Which grants the counters had heard of, on which plan.
_told = text(
    """
    INSERT INTO carried (month, tenant, subject, metric, what, grant_id, period_kind, period_start, plan, change,
                         entries, shard, epoch, n)
    SELECT :month, tenant, subject, metric, 'told', CAST(substr(detail, 7) AS bigint), period_kind, period_start,
           min(plan), 0, count(*), max(shard), min(epoch), min(n)
    FROM entries
    WHERE occurred_at >= :since AND occurred_at < :till AND kind IN ('grant', 'gift') AND detail ~ '^grant:[0-9]+$'
    GROUP BY tenant, subject, metric, detail, period_kind, period_start
    """
)


def carry(connection: Connection, month: date, bounds: dict[str, datetime]) -> None:
    """Sums of a month's entries, by account and period, capped window and grant; `bounds` are `since` and `till`."""
    for statement in (_periods, _caps, _grants, _told):
        connection.execute(statement, {"month": month, **bounds})
