"""What Redis had forgotten is told, but nobody waits until millions of entries are counted."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ledger import losses, shards
from quota.acknowledged import Told
from quota.journal import Place
from quota.lives import NOWHERE, Standing
from tests.conftest import Database
from tests.integration.pipeline import Pipeline


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        yield pipeline


def told(pipeline: Pipeline) -> dict[str, Any]:
    """Of a Redis that went back to its first entry: seven of one account and one of another are gone."""
    pipeline.shard.open(limit=None).open("other", limit=None)
    pipeline.shard.consume(*[pipeline.shard.step(2)] * 8, pipeline.shard.step(5, metric="other"))
    pipeline.drained()
    assert pipeline.call(losses.begin_epochs, {3: Standing(1, Place(1, 0))}, {3: NOWHERE}) == {3: 2}
    ((shard, kind, detail),) = pipeline.incidents()
    assert (shard, kind, detail["counters_had"], detail["ledger_has"]) == (3, "rewound", "1-0", "1-8")
    return detail


def test_it_is_told_to_the_unit_and_by_account(pipeline: Pipeline) -> None:
    detail = told(pipeline)
    assert (detail["entries"], detail["units"], "and_more" in detail) == (8, 7 * 2 + 5, False)
    assert [(each["metric"], each["units"]) for each in detail["accounts"]] == [("m", 14), ("other", 5)]


def test_of_more_than_can_be_counted_in_time_the_first_are_told(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "MAX_COUNTED_ENTRIES", 3)
    detail = told(pipeline)
    assert (detail["entries"], detail["units"], detail["and_more"]) == (3, 6, True)


def test_of_what_no_gateway_remembers_the_number_is_told(pipeline: Pipeline) -> None:
    """Callers were told of places up to 1-9; the ledger has those up to 1-4, and the gateway remembers the last two."""
    pipeline.shard.open(limit=None)
    pipeline.shard.consume(*[pipeline.shard.step(2)] * 5)
    pipeline.drained()
    remembered = [Told(3, Place(1, n), 1_000, pipeline.shard.key(), 2) for n in (8, 9)]
    assert pipeline.call(losses.tell_of_lost, 3, 1, remembered, 7) == 2 + 3
    ((_, kind, detail),) = pipeline.incidents()
    assert (kind, detail["entries"], detail["units"], detail["unnamed_at_most"]) == ("lost_entries", 2, 4, 3)
    assert detail["and_more"] is True


@pytest.mark.parametrize("dropped", [None, 4])
def test_of_what_the_ledger_has_nothing_is_told(pipeline: Pipeline, dropped: int | None) -> None:
    pipeline.shard.open(limit=None)
    pipeline.shard.consume(*[pipeline.shard.step(2)] * 5)
    pipeline.drained()
    assert pipeline.call(losses.tell_of_lost, 3, 1, [], dropped) == 0
    assert pipeline.incidents() == []


def emptied(pipeline: Pipeline, told: dict[int, Place]) -> list[tuple[int, str, dict[str, Any]]]:
    """What is told of a FLUSHALL of four shards, of which the third is in use; each has an epoch after it."""
    wanted = range(2, 6)
    for shard in wanted:
        pipeline.call(shards.take_epoch, shard, 1)
    pipeline.shard.open(limit=None)
    pipeline.shard.consume(*[pipeline.shard.step(2)] * 3)
    pipeline.drained()
    found = dict.fromkeys(wanted, Standing(None, NOWHERE))
    begun = pipeline.call(losses.begin_epochs, found, dict.fromkeys(wanted, NOWHERE) | told)
    assert begun == dict.fromkeys(wanted, 2)
    return pipeline.incidents()


def test_a_shard_in_which_there_was_nothing_has_lost_nothing(pipeline: Pipeline) -> None:
    ((shard, kind, detail),) = emptied(pipeline, {})
    assert (shard, kind, detail) == (3, "lost", {"lost_epoch": 1, "epoch": 2, "ledger_has": "1-2"})


def test_a_shard_of_which_callers_were_told_has_lost_something(pipeline: Pipeline) -> None:
    _, (shard, kind, detail) = emptied(pipeline, {4: Place(1, 6)})
    assert (shard, kind, detail["ledger_has"], detail["callers_were_told"]) == (4, "lost", "0-0", "1-6")


def test_an_older_file_in_which_an_empty_shard_was_empty_has_forgotten_nothing(pipeline: Pipeline) -> None:
    pipeline.call(shards.take_epoch, 3, 2)
    assert pipeline.call(losses.begin_epochs, {3: Standing(1, NOWHERE)}, {3: NOWHERE}) == {3: 3}
    assert pipeline.incidents() == []
