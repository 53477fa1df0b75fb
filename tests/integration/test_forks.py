"""Redis went back in time and nobody looked before it was used: it gives out places that the ledger has passed."""

from collections.abc import Iterator

import pytest
import redis

from ledger import explanation, replay_verification, shards
from quota import keys
from quota.journal import Place
from tests.conftest import Database
from tests.integration.pipeline import Crashed, Pipeline, crash
from tests.integration.replaying import through


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        yield pipeline


def went_back(pipeline: Pipeline) -> None:
    """Three units in the ledger, of which Redis has forgotten two."""
    shard = pipeline.shard.open(limit=None)
    shard.consume(shard.step(1))
    kept = {name: pipeline.connection.dump(name) for name in pipeline.connection.scan_iter()}
    shard.consume(shard.step(1), shard.step(1))
    assert pipeline.drained() == 3
    for name, value in kept.items():
        pipeline.connection.restore(name, 0, value, replace=True)


def test_its_entries_count_and_the_shard_leaves_its_epoch(pipeline: Pipeline) -> None:
    went_back(pipeline)
    shard = pipeline.shard
    shard.consume(shard.step(10), shard.step(20), shard.step(30), shard.step(40))
    pipeline.drained()
    assert pipeline.entries() == [(3, 1, n) for n in (0, 1, 1, 2, 2, 3, 4)]
    assert pipeline.balances() == {("m", "month"): 103}
    assert pipeline.connection.xlen(keys.journal(3)) == 0
    kinds = [(kind, detail.get("entries")) for _, kind, detail in pipeline.incidents() if kind != "arithmetic"]
    assert kinds == [("fork", 2)]
    assert pipeline.call(shards.standings, [3])[3] == (2, Place(1, 4))


def test_an_id_that_was_given_out_twice_is_explained_with_all_its_entries(pipeline: Pipeline) -> None:
    went_back(pipeline)
    pipeline.shard.consume(pipeline.shard.step(10))
    pipeline.drained()
    found = pipeline.call(explanation.explained, 3, 1, 1, pipeline.shard.now_ms())
    assert [each.row.amount for each in found] == [1, 10]


def test_drained_again_they_count_once(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    went_back(pipeline)
    pipeline.shard.consume(pipeline.shard.step(10))
    monkeypatch.setattr(pipeline.journal, "trim", lambda *_: None)
    pipeline.drained()
    monkeypatch.undo()
    pipeline.drained()
    assert (pipeline.balances(), pipeline.connection.xlen(keys.journal(3))) == ({("m", "month"): 13}, 0)


@pytest.mark.parametrize("again", [7, 5])
def test_a_hold_at_the_place_of_another_is_told_because_its_id_names_that_one(pipeline: Pipeline, again: int) -> None:
    shard = pipeline.shard.open(limit=None)
    shard.consume(shard.step(1))
    kept = {name: pipeline.connection.dump(name) for name in pipeline.connection.scan_iter()}
    assert shard.hold(5) == "1-1"
    pipeline.drained()
    for name, value in kept.items():
        pipeline.connection.restore(name, 0, value, replace=True)
    assert shard.hold(again, ttl_ms=61_000) == "1-1"
    pipeline.drained()
    assert pipeline.rows("SELECT amount FROM holds") == [(5,)]
    (told,) = [detail for _, kind, detail in pipeline.incidents() if kind == "lost_hold"]
    assert told == {"hold": "1-1", "amount": again, "tenant": "t", "subject": "u", "metric": "m"}


def test_of_two_holds_at_one_place_verification_says_nothing_though_they_are_of_two_accounts(
    pipeline: Pipeline,
) -> None:
    shard = pipeline.shard.open("m", limit=None).open("n", limit=None)
    shard.consume(shard.step(1))
    kept = {name: pipeline.connection.dump(name) for name in pipeline.connection.scan_iter()}
    assert shard.hold(5, metric="m") == "1-1"
    pipeline.drained()
    for name, value in kept.items():
        pipeline.connection.restore(name, 0, value, replace=True)
    assert shard.hold(7, metric="n") == "1-1"
    pipeline.drained()
    for step_entries in (1, 100):
        result, found, _ = through(pipeline, replay_verification.step, step_entries=step_entries)
        assert (result["differing"], found) == (0, [])


def test_a_poison_entry_is_told_once_though_the_drain_is_killed_again_and_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.shard.open(limit=None)
    pipeline.put("nonsense")
    for _ in range(3):
        with monkeypatch.context() as killing:
            killing.setattr(pipeline.journal, "trim", crash)
            with pytest.raises(Crashed):
                pipeline.drained()
    pipeline.drained()
    assert [kind for _, kind, _ in pipeline.incidents()] == ["unreadable"]
