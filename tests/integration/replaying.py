"""Jobs of the ledger taken step by step to their end, and a Redis that goes back in time before they begin."""

from typing import Any

from sqlalchemy import NullPool, create_engine, text

from ledger.replay_jobs import Stepping
from quota.formats import CapState, GrantState
from quota.periods import DAY_MS, Period, PeriodKind, period_at
from quota.protocol import Charge, Mode
from tests.conftest import Database
from tests.integration.pipeline import Pipeline

MAX_STEPS = 1_000


def through(pipeline: Pipeline, stepping: Stepping, **arguments: Any) -> tuple[dict[str, Any], list[Any], int]:
    """The result of a job, everything that it found, and in how many steps; each cursor goes through JSON."""
    cursor, found = None, []
    for steps in range(1, MAX_STEPS):
        step = stepping(pipeline.engine, arguments, cursor)
        found += step.found
        assert 0 <= step.progress <= 1
        if step.result is not None:
            return step.result, found, steps
        cursor = step.cursor
    raise AssertionError("it never ends")


def go_back(pipeline: Pipeline) -> None:
    """Redis gives out two places again, and two more, before anybody has seen it."""
    shard = pipeline.shard.open(limit=None)
    shard.consume(shard.step(1))
    kept = {name: pipeline.connection.dump(name) for name in pipeline.connection.scan_iter()}
    shard.consume(shard.step(1), shard.step(1))
    pipeline.drained()
    for name, value in kept.items():
        pipeline.connection.restore(name, 0, value, replace=True)
    shard.consume(shard.step(10), shard.step(20), shard.step(30), shard.step(40))
    pipeline.drained()


def as_owner(database: Database, *statements: str) -> None:
    engine = create_engine(database.owner_url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def rich_history(pipeline: Pipeline) -> None:
    """Of everything that moves a balance: consumes, denials, holds, refunds, a grant, a cap, a level, a roll, and what
    came after it for the period before."""
    shard, now_ms = pipeline.clocked, pipeline.clocked.now_ms()
    today = period_at(PeriodKind.DAY, now_ms)
    pipeline.call(
        lambda connection: connection.execute(
            text(
                "INSERT INTO grants (id, tenant, subject, metric, amount, priority, created_by) "
                "OVERRIDING SYSTEM VALUE VALUES (7, 't', 'u', 'n', 20, 0, 'test')"
            )
        )
    )
    window = Period(PeriodKind.MONTH, now_ms - DAY_MS, now_ms + 30_000)
    shard.open("m", limit=30, caps=(CapState(today, 25),), period=window)
    shard.open("n", limit=3, grants=(GrantState(7, 0, None, 20),), period=window)
    charges = (Charge(shard.key("m"), 4), Charge(shard.key("n"), 5))
    shard.consume(shard.step(1, charges=charges), shard.step(10), shard.step(10), shard.step(99))
    (taken, *_) = [each for each in shard.entries() if each.kind == "consume" and each.account.metric == "m"]
    shard.refund(taken, 3)
    kept, given_back, late = shard.hold(2), shard.hold(1), shard.hold(1)
    shard.do(Mode.COMMIT, (None, kept))
    shard.do(Mode.RELEASE, (None, given_back))
    pipeline.drained()
    shard.roll(window, CapState(period_at(PeriodKind.DAY, now_ms + 30_000), 25))
    shard.do(Mode.COMMIT, (None, late))
    shard.consume(shard.step(1))
    pipeline.drained()
