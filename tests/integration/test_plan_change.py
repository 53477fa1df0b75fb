"""A plan that changes while entries wait in the journal: the ledger knows less than the counter, which stays."""

from collections.abc import Iterator

import pytest
import redis

from ledger import catalogs, subscriptions
from ledger.acts import By
from ledger.openings import opening, read
from quota import protocol
from quota.catalog import parse_toml
from quota.entitlement import Subscription
from quota.keys import AccountName
from quota.protocol import Mode
from tests.conftest import Database
from tests.integration.pipeline import Pipeline

ACCOUNT = AccountName("t", "u", "m")
CATALOG = """
default_plan = "free"
[metrics.m]
[plans.free]
limits.m = { limit = 10, period = "month" }
[plans.pro]
rank = 1
limits.m = { limit = 100, period = "month" }
[plans.daily]
rank = 2
limits.m = { limit = 100, period = "day" }
"""


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        pipeline.call(catalogs.apply, "t", parse_toml(CATALOG), By("test"), dry_run=False)
        pipeline.clocked.run(protocol.begin_epoch(pipeline.clocked.number, 1, ""))
        yield pipeline


def provision_from_ledger(pipeline: Pipeline, fence: str) -> protocol.Opening:
    """What the ledger said."""
    now_ms = pipeline.clocked.now_ms()
    said = opening(ACCOUNT, now_ms, pipeline.call(read, [ACCOUNT], now_ms))
    assert pipeline.clocked.provision(said, fence=fence) == "provisioned"
    return said


@pytest.mark.parametrize("plan", ["pro", "daily"])
def test_units_that_reached_redis_and_not_yet_the_ledger_outlive_a_plan_change(pipeline: Pipeline, plan: str) -> None:
    """useautumn/autumn#2815: usage that reached Redis and not Postgres was lost on a plan change."""
    shard = pipeline.clocked
    provision_from_ledger(pipeline, "0")
    shard.consume(shard.step(4))
    pipeline.drained()
    shard.consume(shard.step(3))
    shard.hold(2)
    pipeline.call(
        subscriptions.put, "t", "u", Subscription(plan, "active", None, {}), By("k"), now_ms=pipeline.shard.now_ms()
    )
    shard.run(protocol.publish(shard.number, "t", 1, [shard.key()]))
    (waits,) = shard.consume(shard.step(1))
    assert (waits.outcome, pipeline.waiting()) == ("unready", 2)
    assert provision_from_ledger(pipeline, waits.fence).used == 4

    (check,) = shard.consume(shard.step(91, mode=Mode.CHECK))
    (state,) = check.accounts
    assert (check.outcome, state.window.terms.plan, state.limit) == ("allowed", plan, 100)
    assert (state.used, state.held) == (7, 2)
    shard.consume(shard.step(1))
    pipeline.drained()
    run = pipeline.reconcile().run_once()
    assert (run.accounts, run.drifts, pipeline.incidents()) == (1, [], [])
    assert sum(pipeline.balances().values()) == shard.used() == 8
