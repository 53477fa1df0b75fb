"""At a month's end everything is due at one instant: a page of it costs a page, however much there is."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from sqlalchemy import text

from ledger import due_changes, grants, holds, sealing
from ledger.instants import to_timestamp
from ledger.plans import led_by_index
from tests.conftest import Database
from tests.integration.resetting import Resetting

DUE, PAGE = 3_000, 50
BALANCES = """
INSERT INTO balances (tenant, subject, metric, period_kind, period_start, period_end, plan, used, shard, epoch, n)
SELECT 't', 'u_' || md5(CAST(g AS text)), 'm', 'day', :start, :end, 'free', 1, g % 8, 1, g
FROM generate_series(1, :due) AS g
"""
GRANTS = """
INSERT INTO grants (tenant, subject, metric, amount, priority, expires_at, created_by, journalled)
SELECT 't', 'u_' || g, 'm', 1, 0, :end, 'reset', true FROM generate_series(1, :due) AS g
"""
SUBSCRIPTIONS = """
INSERT INTO subscriptions (tenant, subject, plan, status, add_ons, changed_by, scheduled, scheduled_at)
SELECT 't', 'u_' || md5(CAST(g AS text)), 'free', 'active', '{}', 'x', CAST(:scheduled AS jsonb), :end
FROM generate_series(1, :due) AS g
"""

HOLDS = """
INSERT INTO holds (shard, epoch, n, tenant, subject, metric, amount, expires_at, period_kind, period_start, period_end,
                   "window")
SELECT g % 8, 1, g, 't', 'u_' || md5(CAST(g AS text)), 'm', 1, :start + g * interval '1 millisecond',
       'day', :start, :end, ''
FROM generate_series(1, :due) AS g
"""


@pytest.fixture
def scene(connection: "redis.Redis", database: Database) -> Iterator[Resetting]:
    with Resetting.on(connection, database) as scene:
        yield scene


def steps_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", []):
        yield from steps_of(each)


@pytest.mark.parametrize(
    ("rows", "query"),
    [
        (BALANCES, sealing._due.text),
        (GRANTS, grants._due.text),
        (SUBSCRIPTIONS, due_changes._scheduled.text),
        (HOLDS, holds._expired.text),
    ],
    ids=["balances", "grants", "subscriptions", "holds"],
)
def test_a_page_reads_what_it_takes_and_sorts_nothing(scene: Resetting, rows: str, query: str) -> None:
    bounds = {"start": to_timestamp(scene.yesterday.start_ms), "end": to_timestamp(scene.yesterday.end_ms or 0)}
    more = {"due": DUE, "scheduled": '{"plan": "pro", "status": "active", "add_ons": {}, "changed_by": "x"}'}
    scene.pipeline.call(lambda connection: connection.execute(text(rows), bounds | more))
    begins = sealing.Due(scene.yesterday.end_ms or 0, "t", "u_8", "", "", 0)
    wanted = sealing.place_of(begins) | {"now": to_timestamp(scene.now_ms), "most": PAGE}
    wanted |= {"after": to_timestamp(scene.yesterday.start_ms + DUE // 2), "before": to_timestamp(scene.now_ms)}

    def explained(connection: Any) -> Any:
        led_by_index(connection)
        return connection.execute(text("EXPLAIN (ANALYZE, FORMAT JSON) " + query), wanted).scalar_one()

    ((plan,),) = (scene.pipeline.call(explained),)
    steps = list(steps_of(plan["Plan"]))
    # One more than a page is looked at where all of one instant are in the same.
    assert max(each["Actual Rows"] for each in steps) <= PAGE + ("TIES" in query), steps
    assert max(each.get("Rows Removed by Filter", 0) for each in steps) == 0, steps
    assert [each for each in steps if "Sort" in each["Node Type"]] == []
