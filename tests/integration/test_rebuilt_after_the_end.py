"""A period that ended while Redis was lost is sealed by whoever brings the account back."""

from collections.abc import Iterator

import pytest
import redis

from ledger import catalogs, grants, receipts
from ledger.acts import By
from ledger.openings import opening, read
from quota import protocol
from quota.catalog import parse_toml
from quota.formats import Window
from quota.keys import AccountName
from quota.periods import DAY_MS, PeriodKind, period_at
from tests.conftest import Database
from tests.integration.pipeline import Pipeline

ACCOUNT = AccountName("t", "u", "m")
CATALOG = """
default_plan = "free"
[metrics.m]
[plans.free]
limits.m = { limit = 10, period = "day" }
"""


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        pipeline.call(catalogs.apply, "t", parse_toml(CATALOG), By("test"), dry_run=False)
        yield pipeline


def brought_back(pipeline: Pipeline, epoch: int) -> str:
    shard = pipeline.clocked
    now_ms = shard.now_ms()
    shard.run(protocol.begin_epoch(shard.number, epoch, ""))
    wanted = opening(ACCOUNT, now_ms, pipeline.call(read, [ACCOUNT], now_ms))
    return shard.provision(wanted, epoch=epoch)


def lost_for(pipeline: Pipeline, days: int) -> int:
    """Drains, empties Redis, and lets so many days go by."""
    now_ms = pipeline.clocked.now_ms()
    pipeline.drained()
    pipeline.connection.flushall()
    return pipeline.clocked.set_clock(now_ms + days * DAY_MS)


@pytest.mark.parametrize("days", [1, 3])
def test_its_units_stay_in_it_and_the_next_period_starts_from_zero(pipeline: Pipeline, days: int) -> None:
    shard = pipeline.clocked
    pipeline.call(grants.add, "t", "u", "m", amount=5, priority=0, expires_ms=None, by=By("k", reason="r"))
    assert brought_back(pipeline, 1) == "provisioned"
    used_in = Window.parsed(shard.account()["window"])
    (reply,) = shard.consume(shard.step(12))
    hold = shard.step(0, mode=protocol.Mode.HOLD, charges=(protocol.Charge(shard.key(), 1, str(7 * DAY_MS)),))
    assert shard.consume(hold)[0].outcome == "allowed"
    lost_for(pipeline, days)
    assert brought_back(pipeline, 2) == "provisioned"

    (seen,) = shard.consume(shard.step(0, mode=protocol.Mode.CHECK))
    (state,) = seen.accounts
    today = period_at(PeriodKind.DAY, shard.now_ms())
    assert (state.used, state.held, state.limit, state.period) == (0, 0, 12, today)
    (close,) = [entry for entry in shard.entries() if entry.kind == "close"]
    assert (close.window.period, close.change, close.used_after) == (used_in.period, 0, 12)

    pipeline.drained()
    (taken,) = pipeline.call(receipts.find, "t", 3, 1, reply.first_n or 0, 1)
    assert taken.sealed is not None and Window.parsed(taken.sealed).period == used_in.period
    assert pipeline.reconcile().run_once().drifts == []


def test_a_period_that_was_sealed_is_not_sealed_again(pipeline: Pipeline) -> None:
    shard = pipeline.clocked
    brought_back(pipeline, 1)
    shard.consume(shard.step(2))
    for epoch in (2, 3):
        lost_for(pipeline, 1)
        brought_back(pipeline, epoch)
    pipeline.drained()
    assert pipeline.rows("SELECT count(*) FROM entries WHERE kind = 'close'") == [(1,)]
