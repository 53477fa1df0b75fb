"""What the staged entries move: balances of periods, of capped windows, of grants.

Every upsert is sorted by key, because unordered ones of two writers deadlock.
"""

from sqlalchemy import Connection, text

_balances = text(
    """
    WITH moved AS (
        SELECT tenant, subject, metric, period_kind, period_start, max(period_end) AS period_end, sum(change) AS change
        FROM staging GROUP BY tenant, subject, metric, period_kind, period_start
    ), last_of AS (
        SELECT DISTINCT ON (tenant, subject, metric, period_kind, period_start)
               tenant, subject, metric, period_kind, period_start, plan, shard, epoch, n
        FROM staging ORDER BY tenant, subject, metric, period_kind, period_start, epoch DESC, n DESC
    )
    INSERT INTO balances AS b
        (tenant, subject, metric, period_kind, period_start, period_end, plan, used, shard, epoch, n)
    SELECT m.tenant, m.subject, m.metric, m.period_kind, m.period_start, m.period_end, l.plan, m.change,
           l.shard, l.epoch, l.n
    FROM moved m JOIN last_of l USING (tenant, subject, metric, period_kind, period_start)
    ORDER BY m.tenant, m.subject, m.metric, m.period_kind, m.period_start
    ON CONFLICT ON CONSTRAINT an_account_has_one_balance_a_period DO UPDATE
    SET used = b.used + excluded.used, plan = excluded.plan,
        (epoch, n) = (SELECT * FROM (VALUES (b.epoch, b.n), (excluded.epoch, excluded.n)) AS p (epoch, n)
                      ORDER BY epoch DESC, n DESC LIMIT 1)
    """
)

# A refund gives back to the windows that its entry was counted in, whichever hold now.
_cap_balances = text(
    """
    INSERT INTO cap_balances AS c (tenant, subject, metric, period_kind, period_start, used)
    SELECT s.tenant, s.subject, s.metric, split_part(cap, ':', 1),
           timestamptz 'epoch' + CAST(split_part(cap, ':', 2) AS bigint) * interval '1 millisecond',
           sum(CASE WHEN s.kind = 'refund' THEN -s.amount ELSE s.amount END)
    FROM staging s CROSS JOIN LATERAL string_to_table(s.caps, ',') AS cap
    WHERE s.kind IN ('consume', 'commit', 'refund')
    GROUP BY 1, 2, 3, 4, 5
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT ON CONSTRAINT an_account_has_one_balance_a_capped_window DO UPDATE SET used = c.used + excluded.used
    """
)

# A part of a grant is `<id>:<priority>:<expires_ms>:<units>`. A close that moves units takes them out of its period,
# and the open after it puts them into the next one, with the grants that they came from. What was given away counts in
# no period, so it stands under a kind of its own.
_grant_balances = text(
    """
    INSERT INTO grant_balances AS g (grant_id, tenant, period_kind, period_start, used)
    SELECT CAST(split_part(part, ':', 1) AS bigint), s.tenant,
           CASE s.kind WHEN 'gift' THEN 'gift' ELSE s.period_kind END,
           CASE s.kind WHEN 'gift' THEN timestamptz 'epoch' ELSE s.period_start END,
           sum(CAST(split_part(part, ':', 4) AS bigint)
               * CASE WHEN s.kind IN ('refund', 'close') OR s.change < 0 THEN -1 ELSE 1 END)
    FROM staging s CROSS JOIN LATERAL string_to_table(s.parts, ',') AS part
    WHERE part LIKE '%:%' AND s.kind IN ('consume', 'commit', 'open', 'refund', 'close', 'correct', 'gift')
    GROUP BY 1, 2, 3, 4
    ORDER BY 1, 3, 4
    ON CONFLICT ON CONSTRAINT a_grant_has_one_balance_a_period DO UPDATE SET used = g.used + excluded.used
    """
)


def move_balances(connection: Connection) -> None:
    """By every change. An entry that changes nothing stands in its balance as the last one all the same."""
    connection.execute(_balances)


def move_cap_balances(connection: Connection) -> None:
    """By what was consumed, committed and refunded; what is only held is not used."""
    connection.execute(_cap_balances)


def move_grant_balances(connection: Connection) -> None:
    """By the units of each grant that were used and given back, in the periods of their entries."""
    connection.execute(_grant_balances)
