"""A reset beside a Redis that came back with an older file, and that no gateway has looked at yet."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ledger.replay_jobs import STEPPING
from quota.bulk import Head
from tests.conftest import Database
from tests.integration.resetting import CATALOG, Resetting, name_of
from workers.bringing_in import BringingIn

ACCOUNT = name_of("u", "r")


@pytest.fixture
def scene(connection: "redis.Redis", database: Database) -> Iterator[Resetting]:
    """7 of 10 were used yesterday, as the ledger knows; Redis knows of 1 alone."""
    with Resetting.on(connection, database, CATALOG.replace("max = 6", "max = 10")) as scene:
        scene.used(ACCOUNT, 1)
        kept: dict[Any, Any] = {name: connection.dump(name) for name in connection.scan_iter()}
        for _ in range(6):
            scene.used(ACCOUNT, 1)
        scene.pipeline.drained()
        connection.flushall()
        for name, value in kept.items():
            connection.restore(name, 0, value, replace=True)
        yield scene


def looked_at(scene: Resetting) -> None:
    ((epoch,),) = scene.pipeline.rows(f"SELECT epoch FROM shards WHERE shard = {scene.shard(ACCOUNT).number}")
    scene.begin(epoch + 1)


def used_and_rolled_over(scene: Resetting) -> list[tuple[Any, Any]]:
    return [(sealed[2], sealed[5]) for sealed in scene.sealed()]


def test_nothing_is_written_before_its_loss_was_noticed(scene: Resetting) -> None:
    before = scene.hash(ACCOUNT)
    assert scene.reset().run_once().swept == 0
    bringing_in = BringingIn(scene.connection, scene.engine)
    assert bringing_in.bring_in([ACCOUNT]) == {ACCOUNT: "behind"}
    assert (scene.hash(ACCOUNT), scene.pipeline.drained()) == (before, 0)
    looked_at(scene)
    assert bringing_in.bring_in([ACCOUNT]) == {ACCOUNT: "provisioned"}
    scene.settled()
    assert (used_and_rolled_over(scene), scene.pipeline.incidents()) == ([(7, 3)], [])


def test_a_close_at_a_place_that_was_given_out_twice_seals_all_that_the_period_has(
    scene: Resetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Redis comes back just between the look at the heads and the writing."""
    with monkeypatch.context() as unseen:
        unseen.setattr(Head, "is_behind", lambda *_: False)
        assert scene.reset().run_once().swept == 1
    scene.pipeline.drained()
    assert [kind for _, kind, _ in scene.pipeline.incidents()] == ["fork"]
    looked_at(scene)
    scene.settled()
    assert used_and_rolled_over(scene) == [(7, 3)]
    step = STEPPING["verify"](scene.engine, {}, None)
    while step.result is None:
        step = STEPPING["verify"](scene.engine, {}, step.cursor)
    assert step.result["differing"] == 0, step.result
