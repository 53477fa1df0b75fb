"""What comes between a reset and the end of a period: the drain, a loss, the end of the time that a run has."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from sqlalchemy import text

from ledger import sealing, subscriptions
from ledger.acts import By
from quota.entitlement import Subscription
from tests.conftest import Database
from tests.integration.resetting import Resetting, name_of
from workers import reset as module
from workers.asked_jobs import stepping
from workers.rebuild import Rebuild, Scope

FROM_LIFETIME = """
default_plan = "free"
[metrics.r]
[plans.free]
rank = 0
limits.r = { limit = 10 }
[plans.pro]
rank = 1
limits.r = { limit = 10, period = "day", rollover = { max = 6 } }
"""


@pytest.fixture
def scene(connection: "redis.Redis", database: Database) -> Iterator[Resetting]:
    with Resetting.on(connection, database) as scene:
        yield scene


def unsealed(scene: Resetting) -> int:
    ((found,),) = scene.pipeline.rows("SELECT count(*) FROM balances WHERE NOT is_sealed AND period_end < now()")
    return int(found)


def test_a_period_whose_balance_the_drain_holds_is_sealed_as_it_was_closed_and_not_without_its_close(
    scene: Resetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = name_of("u", "r")
    scene.used_yesterday({account: 4})
    scene.go_to(scene.now_ms)
    assert scene.bring_in(account) == "provisioned"
    scene.pipeline.drained()
    booking = scene.engine.connect()
    booking.execute(text("SELECT set_config('quotagate.tenant', '*', false)"))
    booking.execute(text("UPDATE balances SET used = used WHERE period_end < now()"))
    seal, calls = sealing.seal, []

    def free_for_the_last_word(*arguments: Any, **words: Any) -> Any:
        calls.append(words)
        if words["is_last_word"]:
            booking.commit()
        return seal(*arguments, **words)

    monkeypatch.setattr(sealing, "seal", free_for_the_last_word)
    scene.reset().run_once()
    booking.close()
    assert calls == [{"is_last_word": False}, {"is_last_word": True}]
    assert scene.sealed() == [("u", "r", 4, 4, 3, 6)]
    assert [each for each in scene.pipeline.incidents() if each[1] == "seal"] == []


def test_a_subject_that_began_without_periods_and_whose_redis_was_lost_keeps_what_rolls_over(
    connection: "redis.Redis", database: Database
) -> None:
    account = name_of("u", "r")
    with Resetting.on(connection, database, FROM_LIFETIME) as scene:
        scene.used_yesterday({account: 2})
        scene.pipeline.call(
            subscriptions.put, "t", "u", Subscription("pro", "active", None, {}), By("test"), now_ms=scene.now_ms
        )
        scene.used(account, 2)
        scene.pipeline.drained()
        scene.connection.flushall()
        scene.begin(2)
        done = scene.settled()
        assert (done.differing, scene.sealed()[0][2:4], scene.sealed()[0][5]) == (0, (4, 4), 6)


def test_a_rebuild_of_shards_without_an_epoch_is_not_complete(scene: Resetting) -> None:
    scene.go_to(scene.now_ms)
    scene.used(name_of("u"), 3)
    scene.pipeline.drained()
    scene.connection.flushall()
    done = Rebuild(scene.connection, scene.engine).run(Scope())
    assert (done.accounts, done.outcomes, done.is_complete) == (1, {"uninitialised": 1}, False)


def test_a_reset_that_was_asked_for_goes_on_until_it_has_looked_at_everything(
    scene: Resetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {name_of(f"u{place}"): 1 for place in range(9)}
    scene.used_yesterday(many)
    monkeypatch.setattr(module, "PAGE", 2)
    monkeypatch.setattr(module, "HOLD_S", 0.0)
    reset = scene.reset()
    monkeypatch.setattr(reset, "run_once", _with_time_for_one_page(reset, monkeypatch))
    step, cursor = stepping(scene.pipeline.drain(), None, None, reset)["reset"], None  # type: ignore[arg-type]
    for _ in range(100):
        taken = step({}, cursor)
        cursor = taken.cursor
        if taken.result is not None:
            break
    assert taken.result is not None and taken.result["waiting"] == unsealed(scene) == 0
    assert taken.result["sealed"] == len(many)


def _with_time_for_one_page(reset: module.Reset, monkeypatch: pytest.MonkeyPatch) -> Any:
    run_once = reset.run_once

    def run() -> module.Done:
        pages: list[int] = []
        with monkeypatch.context() as timed:
            timed.setattr(module.time, "monotonic", lambda: float(len(pages)))
            page = reset._seal
            timed.setattr(reset, "_seal", lambda done, now_ms: pages.append(1) or page(done, now_ms))
            return run_once(1.0)

    return run


@pytest.mark.parametrize(("drift", "rolled"), [(-4, 2), (2, 2), (0, 2)])
def test_what_rolls_over_is_what_the_ledger_says_was_left_though_the_counter_had_drifted(
    scene: Resetting, drift: int, rolled: int
) -> None:
    account = name_of("u", "r")
    scene.used_yesterday({account: 8})
    used, place = scene.hash(account)["state"].split(" ")
    scene.connection.hset(account.key(scene.shard(account).number), "state", f"{int(used) + drift} {place}")
    scene.settled()
    assert (scene.sealed()[0][2:4], scene.sealed()[0][5]) == ((8, 8 + drift), rolled)


def test_an_account_that_nobody_can_read_is_brought_in_anew_with_the_others(scene: Resetting) -> None:
    scene.go_to(scene.now_ms)
    names = [name_of(f"u{place}") for place in range(4)]
    for each in names:
        scene.used(each, 3)
    scene.pipeline.drained()
    damaged, other_type = (each.key(scene.shard(each).number) for each in names[:2])
    scene.connection.hset(damaged, "rule", "\x11 1 2")
    scene.connection.delete(other_type)
    scene.connection.set(other_type, "x")
    done = Rebuild(scene.connection, scene.engine).run(Scope())
    assert done.accounts == 4 and done.outcomes["provisioned"] == 2, done
    assert {scene.hash(each)["state"].split(" ")[0] for each in names} == {"3"}
