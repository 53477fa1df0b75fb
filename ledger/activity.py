"""What happened in the last minute, from a bounded look at each shard's newest entries: for whoever watches."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

LOOK_ROWS = 6_400
"""Of all shards together, so some milliseconds of Postgres, however much is written."""
WINDOW_S = 60
LEAST_SPAN_S = 0.05
"""A shard's entries that lie closer together than this say nothing of a second."""


@dataclass(frozen=True)
class Busy:
    """One account in what was looked at: requests that were let through and denied, and what they changed."""

    tenant: str
    subject: str
    metric: str
    passed: int
    denied: int
    units: int


@dataclass(frozen=True)
class Activity:
    """Rates are sums over shards: each one's newest entries, by the time that they span, a minute at the most.
    `is_sample`: some shard had more of them in that minute than were looked at."""

    checks_per_s: float
    denials_per_s: float
    is_sample: bool
    busiest: Sequence[Busy]


# What asked for something: a denial that stands for several requests counts as so many.
_newest = text(
    """
    WITH looked_at AS (
        SELECT e.shard, e.tenant, e.subject, e.metric, e.change, e.occurred_at, e.kind IN ('consume', 'hold') AS passed,
               CASE WHEN e.kind <> 'denied' THEN 0 WHEN e.detail LIKE 'sum:%' THEN CAST(substr(e.detail, 5) AS bigint)
                    ELSE 1 END AS denied
        FROM shards s CROSS JOIN LATERAL (
            SELECT * FROM entries e
            WHERE e.shard = s.shard AND e.epoch = s.offset_epoch
              AND e.n > s.offset_n - :look AND e.n <= s.offset_n
              AND e.occurred_at >= now() - make_interval(secs => :window)
        ) AS e
    )
    SELECT shard, tenant, subject, metric, count(*) AS entries, count(*) FILTER (WHERE passed) AS passed,
           sum(denied) AS denied, sum(change) AS units,
           extract(epoch FROM now() - min(occurred_at)) AS span_s
    FROM looked_at GROUP BY GROUPING SETS ((shard), (tenant, subject, metric))
    ORDER BY shard NULLS LAST, count(*) FILTER (WHERE passed) + sum(denied) DESC, tenant, subject, metric LIMIT :most
    """
)


def of_the_last_minute(connection: Connection, shard_count: int, most: int) -> Activity:
    """With `most` accounts, the busiest first."""
    look = max(1, LOOK_ROWS // shard_count)
    words = {"look": look, "window": WINDOW_S, "most": most + shard_count}
    rows = connection.execute(_newest, words).all()
    checks = denials = 0.0
    is_sample = False
    for row in rows:
        if row.shard is None:
            continue
        is_full = row.entries >= look
        is_sample |= is_full
        span_s = max(LEAST_SPAN_S, min(WINDOW_S, float(row.span_s))) if is_full else WINDOW_S
        checks += (row.passed + int(row.denied)) / span_s
        denials += int(row.denied) / span_s
    accounts = [row for row in rows if row.shard is None and row.passed + row.denied][:most]
    busiest = [
        Busy(row.tenant, row.subject, row.metric, row.passed, int(row.denied), int(row.units)) for row in accounts
    ]
    return Activity(checks, denials, is_sample, busiest)
