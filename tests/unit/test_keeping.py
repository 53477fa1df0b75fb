"""Keeping: what must not be forgotten is written down, in its order, before anybody relies on it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from gateway import keeping as module
from gateway.keeping import AWAY_FOR_S, KEEP_WITHIN_S
from quota.errors import CountersUnavailable
from tests.unit import virtual_time
from tests.unit.keeping_scene import Scene, run, scene_in, turns
from tests.unit.outage_scene import let_through, lost_reply


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with scene_in(tmp_path, monkeypatch) as scene:
        yield scene


def test_those_of_one_turn_are_written_together(scene: Scene) -> None:
    names = [f"{n}" for n in range(50)]
    run(scene.told(*names))
    assert scene.ledger.writes == [names]


def test_what_comes_while_one_batch_is_written_goes_together_into_the_next(scene: Scene) -> None:
    async def keep() -> None:
        scene.ledger.goes_on.clear()
        first = scene.asks("1")
        await turns()
        later = scene.asks("2", "3")
        await turns()
        scene.keeping.note([lost_reply("lost")])
        later += scene.asks("4")
        await turns()
        assert scene.ledger.begun == 1  # one at a time
        assert not any(each.done() for each in first + later)
        scene.ledger.goes_on.set()
        await asyncio.gather(*first, *later)

    run(keep())
    assert scene.ledger.writes == [["1"], ["2", "3", "lost", "4"]]


def test_no_statement_has_more_notes_than_it_may(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 10)
    run(scene.told(*(f"{n}" for n in range(25))))
    assert [len(each) for each in scene.ledger.writes] == [10, 10, 5]


def test_a_caller_is_answered_after_every_lost_reply_that_came_before(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the same request: let through before its lost try is noted, it could stay charged twice."""
    monkeypatch.setattr(module, "MAX_AT_ONCE", 1)

    async def keep() -> None:
        scene.ledger.goes_on.clear()
        scene.keeping.note([lost_reply("lost 1"), lost_reply("lost 2")])
        (caller,) = scene.asks("1")
        await turns()
        assert not caller.done()
        scene.ledger.goes_on.set()
        await caller
        assert scene.ledger.writes == [["lost 1"], ["lost 2"], ["1"]]

    run(keep())


def test_with_the_ledger_away_it_is_kept_on_the_disk(scene: Scene) -> None:
    scene.ledger.is_away = True

    async def keep() -> None:
        scene.keeping.note([lost_reply("lost")])
        assert await scene.told("1", "2") == [None, None]

    run(keep())
    assert scene.spooled() == ["lost", "1", "2"]


def test_a_ledger_that_was_away_is_not_asked_again_for_a_while(scene: Scene) -> None:
    scene.ledger.is_away = True

    async def keep() -> list[int]:
        asked = []
        for ident in range(6):
            await scene.told(f"{ident}")
            asked.append(scene.ledger.begun)
            await asyncio.sleep(AWAY_FOR_S / 4)
        return asked

    assert virtual_time.run(keep()) == [1, 1, 1, 1, 2, 2]
    assert scene.spooled() == ["0", "1", "2", "3", "4", "5"]


def test_a_ledger_that_hangs_counts_as_away_and_holds_up_one_batch_alone(scene: Scene) -> None:
    scene.ledger.goes_on.clear()

    async def keep() -> list[float]:
        loop, took = asyncio.get_running_loop(), []
        for ident in range(3):
            began = loop.time()
            assert await scene.told(f"{ident}") == [None]
            took.append(loop.time() - began)
        assert scene.ledger.begun == 1
        scene.ledger.goes_on.set()
        await asyncio.sleep(AWAY_FOR_S)
        await scene.told("back")
        return took

    assert virtual_time.run(keep()) == [pytest.approx(KEEP_WITHIN_S), 0, 0]
    assert scene.spooled() == ["0", "1", "2"]
    assert scene.ledger.writes[-1] == ["back"]


def test_where_nothing_can_keep_it_the_callers_hear_of_it_and_lost_replies_stay(scene: Scene) -> None:
    scene.ledger.is_away = scene.disk.is_full = True

    async def keep() -> None:
        scene.keeping.note([lost_reply("lost 1")])
        assert await scene.told("1", "2") == [CountersUnavailable] * 2
        scene.keeping.note([lost_reply("lost 2")])
        assert await scene.told("3") == [CountersUnavailable]
        scene.disk.is_full = False
        assert await scene.told("4") == [None]

    run(keep())
    assert scene.spooled() == ["lost 1", "lost 2", "4"]


def test_nobody_hears_that_nothing_was_charged_when_the_ledger_may_have_taken_it_down(scene: Scene) -> None:
    scene.disk.is_full = True

    async def keep() -> None:
        scene.ledger.goes_on.clear()  # it hangs, and does all of it once it goes on
        with pytest.raises(CountersUnavailable, match="it may be charged when they are back"):
            await scene.asks("1")[0]
        with pytest.raises(CountersUnavailable, match=r"can take this down$"):
            await scene.asks("2")[0]  # the ledger was not asked

    run(keep())


def test_lost_replies_that_nothing_could_keep_come_before_those_that_came_meanwhile(scene: Scene) -> None:
    scene.ledger.goes_on.clear()
    scene.disk.is_full = True

    async def keep() -> None:
        (told,) = scene.asks("3")
        scene.keeping.note([lost_reply("lost 1"), lost_reply("lost 2")])
        await turns()
        scene.keeping.note([lost_reply("lost 3")])
        await asyncio.wait({told})
        assert isinstance(told.exception(), CountersUnavailable)
        scene.disk.is_full = False
        assert await scene.told("4") == [None]

    run(keep())
    assert scene.spooled() == ["lost 1", "lost 2", "lost 3", "4"]


def test_lost_replies_that_nothing_can_keep_are_written_with_the_next_look(scene: Scene) -> None:
    scene.ledger.is_away = scene.disk.is_full = True

    async def keep() -> None:
        scene.keeping.note([lost_reply("lost")])
        await turns()
        scene.ledger.is_away = False
        await asyncio.sleep(AWAY_FOR_S)
        await scene.keeping.run_once()
        await turns()

    run(keep())
    assert scene.ledger.writes == [["lost"]]


def test_nobody_waits_for_ever_behind_lost_replies_that_nothing_can_keep(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 2)
    scene.ledger.is_away = scene.disk.is_full = True

    async def keep() -> None:
        scene.keeping.note([lost_reply(f"lost {n}") for n in range(5)])
        assert await scene.told("1", "2", "3") == [CountersUnavailable] * 3
        scene.disk.is_full = False
        assert await scene.told("4") == [None]

    run(keep())
    assert scene.spooled() == [*(f"lost {n}" for n in range(5)), "4"]


def test_a_failure_that_nobody_foresaw_reaches_every_caller_and_ends_nothing(scene: Scene) -> None:
    scene.ledger.failure = ZeroDivisionError()

    async def keep() -> None:
        assert await scene.told("1", "2") == [ZeroDivisionError] * 2
        scene.ledger.failure = None
        assert await scene.told("3") == [None]

    run(keep())
    assert scene.ledger.writes == [["3"]]


def test_a_caller_who_goes_away_keeps_no_other_from_being_told(scene: Scene) -> None:
    async def keep() -> None:
        scene.ledger.goes_on.clear()
        gone, stays = scene.asks("1", "2")
        await turns()
        gone.cancel()
        scene.ledger.goes_on.set()
        await stays

    run(keep())


def test_no_more_callers_wait_than_there_is_room_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    names = [f"{n}" for n in range(5)]

    async def keep() -> None:
        assert await scene.told(*names) == [None] * 3 + [CountersUnavailable] * 2
        assert await scene.told("later") == [None]

    run(keep())
    assert scene.ledger.writes == [names[:3], ["later"]]


def test_lost_replies_beyond_the_room_are_told_of(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)

    async def keep() -> None:
        scene.keeping.note([lost_reply(f"{n}") for n in range(5)])
        with pytest.raises(CountersUnavailable, match="3 requests wait"):
            await scene.keeping.keep(let_through("1"))
        await scene.keeping.finish()

    with structlog.testing.capture_logs() as told:
        run(keep())
    assert scene.ledger.writes == [["0", "1", "2"]]
    assert [(each["log_level"], each["most"]) for each in told] == [("error", 3)]


class TestTheEnd:
    def test_what_is_left_is_written(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_AT_ONCE", 2)

        async def end() -> None:
            scene.keeping.note([lost_reply(f"{n}") for n in range(5)])
            await scene.keeping.finish()
            assert scene.ledger.writes == [["0", "1"], ["2", "3"], ["4"]]

        run(end())

    def test_what_was_left_by_a_failure_is_tried_once_more_and_then_told_of(self, scene: Scene) -> None:
        scene.ledger.is_away = scene.disk.is_full = True

        async def end() -> None:
            scene.keeping.note([lost_reply("1"), lost_reply("2")])
            await turns()
            await scene.keeping.finish()

        with structlog.testing.capture_logs() as told:
            run(end())
        assert [(each["log_level"], each["lost"]) for each in told] == [("error", 2)]

    def test_with_nothing_left_it_ends_at_once(self, scene: Scene) -> None:
        run(scene.keeping.finish())
        assert scene.ledger.begun == 0
