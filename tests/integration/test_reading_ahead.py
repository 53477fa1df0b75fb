"""A drain with much to catch up with reads the next batch while Postgres works on this one: used only if it holds."""

from collections.abc import Iterator

import pytest
import redis

from quota import protocol
from quota.journal import Place
from tests.conftest import Database
from tests.integration.pipeline import Pipeline
from workers import drain as drain_module
from workers.drain import Drain
from workers.reading_ahead import BEGINNING

BATCH = 100


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setattr(drain_module, "MAX_BATCH_ENTRIES", BATCH)
    with Pipeline.on(connection, database) as pipeline:
        pipeline.shard.open(limit=None)
        for _ in range(5):
            pipeline.shard.consume(*[pipeline.shard.step(1)] * BATCH)
        yield pipeline


def begun(pipeline: Pipeline) -> Drain:
    """A drain that has moved a batch, and read the next one."""
    drain = pipeline.drain()
    assert drain.run_once().entries == BATCH
    return drain


def rest(drain: Drain) -> int:
    moved = 0
    while found := drain.run_once().entries:
        moved += found
    return moved


def test_each_entry_is_read_once(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked = pipeline.journal.read, []

    def counted(shard: int, after: Place, count: int) -> object:
        found = read(shard, after, count)
        asked.append((after, len(found)))
        return found

    monkeypatch.setattr(pipeline.journal, "read", counted)
    drain = begun(pipeline)
    assert rest(drain) == 4 * BATCH
    assert [after for after, found in asked if found] == [BEGINNING, *(Place(1, n * BATCH - 1) for n in range(1, 5))]
    assert pipeline.balances() == {("m", "month"): 5 * BATCH}
    assert pipeline.incidents() == []


def test_what_redis_has_lost_meanwhile_is_not_used(pipeline: Pipeline) -> None:
    drain = begun(pipeline)
    pipeline.connection.flushall()
    pipeline.shard.run(protocol.begin_epoch(3, 2, ""))
    pipeline.shard.provision(pipeline.shard.opening(limit=None, used=BATCH, entry=f"1-{BATCH - 1}"), epoch=2)
    pipeline.shard.consume(pipeline.shard.step(7))
    assert rest(drain) == 1
    assert (pipeline.balances(), pipeline.incidents()) == ({("m", "month"): BATCH + 7}, [])


def test_what_another_drain_has_moved_meanwhile_is_not_moved_twice(pipeline: Pipeline) -> None:
    drain = begun(pipeline)
    assert pipeline.drain().run_once().entries == BATCH
    assert rest(drain) == 3 * BATCH
    assert pipeline.balances() == {("m", "month"): 5 * BATCH}


def test_a_gap_before_what_was_read_is_told_all_the_same(pipeline: Pipeline) -> None:
    drain = begun(pipeline)
    pipeline.connection.xdel("qg:{3}:j", f"1-{BATCH}")
    assert rest(drain) == 4 * BATCH - 1
    assert [kind for _, kind, _ in pipeline.incidents() if kind == "gap"] == ["gap"]
