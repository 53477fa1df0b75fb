"""A drain with much to catch up with reads the next batch while Postgres works on this one: used only if it holds."""

from collections.abc import Iterator

import pytest
import redis

from ledger import shards
from quota import keys, protocol
from quota.journal import Item, Place
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
    pipeline.call(shards.take_epoch, 3, 2)
    pipeline.shard.run(protocol.begin_epoch(3, 2, ""))
    pipeline.shard.provision(pipeline.shard.opening(limit=None, used=BATCH, entry=f"1-{BATCH - 1}"), epoch=2)
    pipeline.shard.consume(pipeline.shard.step(7))
    assert rest(drain) == 1
    assert (pipeline.balances(), pipeline.incidents()) == ({("m", "month"): BATCH + 7}, [])


def test_a_redis_that_went_back_inside_it_and_counted_on_loses_nothing(pipeline: Pipeline) -> None:
    """The first entry is the same as before; what was acknowledged since stands behind it."""
    drain = begun(pipeline)
    went_back(pipeline, to=Place(1, BATCH + 20), then=7)
    assert rest(drain) == 20 + 10
    assert (pipeline.balances(), pipeline.waiting()) == ({("m", "month"): BATCH + 20 + 10 * 7}, 0)


def test_a_redis_that_went_back_while_a_batch_was_written_has_nothing_trimmed_that_the_ledger_lacks(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain, trim = begun(pipeline), pipeline.journal.trim

    def too_late(shard: int, last: Item) -> bool:
        monkeypatch.setattr(pipeline.journal, "trim", trim)
        went_back(pipeline, to=Place(1, BATCH + 20), then=7)
        return trim(shard, last)

    monkeypatch.setattr(pipeline.journal, "trim", too_late)
    assert drain.run_once().entries == BATCH
    drain._tidy_at = 0.0
    rest(drain)
    assert pipeline.balances() == {("m", "month"): 2 * BATCH + 10 * 7}
    assert [kind for _, kind, _ in pipeline.incidents()] == ["fork"]
    assert pipeline.waiting() == 0


def went_back(pipeline: Pipeline, to: Place, then: int) -> None:
    """Redis as it was when it had come to a place, and ten charges since."""
    journal = keys.journal(3)
    items = pipeline.journal.read(3, BEGINNING, 10 * BATCH)
    pipeline.connection.delete(journal)
    for name, fields in items:
        if Place.parsed(name.decode()) < to:
            pipeline.connection.xadd(journal, dict(fields), id=name)
    pipeline.connection.hset(pipeline.shard.key(), "state", f"{to.n} 1-{to.n - 1}")
    pipeline.shard.consume(*[pipeline.shard.step(then)] * 10)


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


def test_a_redis_whose_memory_is_full_is_drained(pipeline: Pipeline) -> None:
    """Only what is trimmed gives any of it back."""
    pipeline.connection.config_set("maxmemory", 1)
    try:
        assert rest(pipeline.drain()) == 5 * BATCH
    finally:
        pipeline.connection.config_set("maxmemory", 0)
    assert pipeline.waiting() == 0
