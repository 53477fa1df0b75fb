"""Jobs of the ledger taken step by step to their end, and a Redis that goes back in time before they begin."""

from typing import Any

from ledger.replay_jobs import Stepping
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
