"""What a subject's accounts stood at, at any instant that is past: from the ledger alone."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from ledger.instants import to_timestamp
from ledger.replay import refuse_archived
from quota.periods import DAY_MS

LONGEST_HOLD_MS = DAY_MS
"""A hold lives a day at most: one that is older was settled, or has expired."""

# An account's window was that of its last entry by then, unless it had ended; what was booked late into an older one
# is passed over. From the balance as it is now, what came later is taken off again. Of an account that has slept since
# its entries were archived, what they add up to is left.
_at = text(
    """
    WITH accounts AS (
        SELECT DISTINCT metric FROM balances WHERE tenant = :tenant AND subject = :subject
    ), standing AS (
        SELECT b.tenant, b.subject, b.metric, b.period_kind, b.period_start, b.period_end, b.used,
               last.shard, last.epoch, last.n, coalesce(last.plan, b.plan) AS plan
        FROM accounts CROSS JOIN LATERAL (
            (
                SELECT e.shard, e.epoch, e.n, e.plan, e.period_kind, e.period_start FROM entries e
                WHERE (e.tenant, e.subject, e.metric) = (:tenant, :subject, accounts.metric)
                  AND e.occurred_at <= :at AND NOT e.is_late
                ORDER BY e.epoch DESC, e.n DESC LIMIT 1
            ) UNION ALL (
                SELECT c.shard, c.epoch, c.n, NULL, c.period_kind, c.period_start FROM carried c
                WHERE (c.tenant, c.subject, c.metric, c.what) = (:tenant, :subject, accounts.metric, 'period')
                  AND (c.period_end IS NULL OR c.period_end > :at)
                ORDER BY c.epoch DESC, c.n DESC LIMIT 1
            )
            ORDER BY epoch DESC, n DESC LIMIT 1
        ) AS last
        JOIN balances b ON (b.tenant, b.subject, b.metric, b.period_kind, b.period_start)
                         = (:tenant, :subject, accounts.metric, last.period_kind, last.period_start)
        WHERE b.period_end IS NULL OR b.period_end > :at
    )
    SELECT s.metric, s.period_kind, s.period_start, s.period_end, s.plan, s.shard, s.epoch, s.n,
           s.used - later.change AS used, holding.amount AS held
    FROM standing s
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(e.change), 0) AS change FROM entries e
        WHERE (e.tenant, e.subject, e.metric) = (s.tenant, s.subject, s.metric)
          AND (e.period_kind, e.period_start) = (s.period_kind, s.period_start) AND e.occurred_at > :at
    ) AS later
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(e.amount), 0) AS amount
        FROM entries e JOIN holds h USING (shard, epoch, n)
        WHERE (e.tenant, e.subject, e.metric) = (s.tenant, s.subject, s.metric) AND e.kind = 'hold'
          AND (e.period_kind, e.period_start) = (s.period_kind, s.period_start)
          AND e.occurred_at <= :at AND e.occurred_at > :oldest_hold
          AND h.expires_at > :at AND (h.settled_at IS NULL OR h.settled_at > :at)
    ) AS holding
    ORDER BY s.metric
    """
)


def at_instant(connection: Connection, tenant: str, subject: str, at_ms: int) -> Sequence[Any]:
    """Of each of the subject's accounts that had an entry in the period which ran at `at_ms`, with the entries of that
    very instant: metric, period, plan, used, held, and the place of the last entry by then. InvalidRequest within a day
    of what was archived: a hold of then may have been open still."""
    refuse_archived(connection, at_ms, "the status at that instant", LONGEST_HOLD_MS)
    instants = {"at": to_timestamp(at_ms), "oldest_hold": to_timestamp(at_ms - LONGEST_HOLD_MS)}
    return connection.execute(_at, {"tenant": tenant, "subject": subject} | instants).all()
