"""Replies that were lost: whatever was charged without telling is looked for when nothing can come after, and taken
back.
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import lost_replies as module
from gateway.lost_replies import BEFORE_MS, LOOK_EVERY_S, LOOKS_AT_THE_END
from quota.errors import CountersUnavailable, LedgerUnavailable
from quota.journal import About, Entry
from quota.keys import AccountName
from quota.protocol import Mode
from tests.unit import virtual_time
from tests.unit.fakes import FakeClock
from tests.unit.lost_replies_scene import ACCOUNT, UNTIL_MS, Scene, entry, lost_step, receipt
from tests.unit.outage_scene import spooled


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "spool")


def test_nothing_is_looked_for_before_redis_would_refuse_to_charge_it(scene: Scene) -> None:
    scene.journal(entry(7))
    scene.heard_of([lost_step()])
    for at_ms in (UNTIL_MS - 1000, UNTIL_MS):  # in that very millisecond Redis still charges
        assert scene.run_once(at_ms) == 0
        assert scene.counters.looks_back == []
    assert scene.run_once(UNTIL_MS + 1) == 1
    assert [each for each, _ in scene.taken] == [receipt(7)]
    assert scene.left() == []


def test_it_asks_redis_itself_what_time_it_is(scene: Scene) -> None:
    """A clock that went on by itself while Redis stood still would be early."""
    scene.heard_of([lost_step()])
    scene.counters.clock.at_ms, scene.counters.says_ms = UNTIL_MS + 60_000, UNTIL_MS
    assert asyncio.run(scene.lost.run_once()) == 1
    assert (scene.counters.pings, scene.counters.looks_back, scene.left()) == (1, [], ["r-1"])
    scene.kept.make_due()
    scene.run_once()
    assert scene.left() == []


def test_while_nothing_is_due_redis_is_not_asked(scene: Scene) -> None:
    assert (scene.run_once(), scene.counters.pings) == (0, 0)


def test_what_stands_in_the_journal_is_taken_back_with_all_its_charges(scene: Scene) -> None:
    pair: dict[str, Any] = {"receipt_first_n": 7, "receipt_count": 2}
    other = AccountName("t", "u", "m2")
    scene.journal(entry(7, **pair), entry(8, account=other, amount=2, **pair), entry(9, about=About(request_id="r-2")))
    scene.heard_of([lost_step()])
    assert scene.run_once() == 1
    assert scene.taken == [(receipt(7, 2), [(ACCOUNT, 5), (other, 2)])]


def test_what_has_gone_to_the_ledger_is_taken_back_as_well(scene: Scene) -> None:
    scene.old = [receipt(4)]
    scene.heard_of([lost_step(attempt="p.1")])
    scene.run_once()
    ((shard, (lost,), from_ms, till_ms),) = scene.asked
    assert (shard, lost.request_id, lost.attempt) == (3, "r-1", "p.1")
    assert (from_ms, till_ms) == (UNTIL_MS - BEFORE_MS, UNTIL_MS)
    assert scene.taken == [(receipt(4), [(ACCOUNT, 8)])]


def test_what_stands_in_both_is_taken_back_once(scene: Scene) -> None:
    scene.old = [receipt(7)]
    scene.journal(entry(7))
    scene.heard_of([lost_step()])
    scene.run_once()
    assert scene.taken == [(receipt(7), [(ACCOUNT, 5)])]


def test_the_journal_is_read_before_the_ledger(scene: Scene) -> None:
    """What a drain moves between the two looks would be in neither."""
    order: list[str] = []
    whole = scene.counters.entries_since

    async def entries_since(*arguments: Any) -> list[Entry]:
        order.extend(name for _, name in scene.store.asked)
        scene.store.asked.clear()
        order.append("journal")
        return await whole(*arguments)

    scene.counters.entries_since = entries_since  # type: ignore[method-assign,assignment]
    scene.heard_of([lost_step()])
    scene.run_once()
    order.extend(name for _, name in scene.store.asked)
    assert order == ["keep", "claim_lost", "journal", "of_lost", "of_receipts", "looked_for"]


def test_another_try_of_the_same_request_was_told_and_stays(scene: Scene) -> None:
    scene.journal(*(entry(n, about=About(request_id="r-1", attempt=f"p.{n}")) for n in (7, 8, 9)))
    scene.heard_of([lost_step(attempt="p.8")])
    scene.run_once()
    assert [each.first_n for each, _ in scene.taken] == [8]


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("refund", "1-6"),
        ("denied", None),
        ("warned", None),
        ("release", "1-6"),
        ("expire", "1-6"),
        ("commit", "1-6"),
        ("set", None),
    ],
)
def test_entries_that_are_not_undone_are_left_alone(scene: Scene, kind: str, detail: str | None) -> None:
    """A release with a detail settled the hold that it names; that is done once."""
    scene.journal(entry(7, kind, detail=detail))
    scene.heard_of([lost_step(), lost_step(mode=Mode.GIVE)])
    assert (scene.run_once(), scene.taken, scene.left()) == (2, [], [])


def test_units_of_a_level_that_were_given_back_without_telling_are_named_as_such(scene: Scene) -> None:
    """The caller will give them back once more: they would be gone twice."""
    scene.journal(entry(7, "release", detail=None, change=-5))
    scene.heard_of([lost_step(mode=Mode.GIVE)])
    assert scene.run_once() == 1
    assert scene.taken == [(receipt(7, kind="release"), [(ACCOUNT, 5)])]


def test_a_hold_that_nobody_was_told_of_is_named_as_one(scene: Scene) -> None:
    scene.journal(entry(7, "hold"))
    scene.heard_of([lost_step(mode=Mode.HOLD)])
    scene.run_once()
    assert [each for each, _ in scene.taken] == [receipt(7, kind="hold")]


def test_what_was_not_charged_at_all_needs_nothing(scene: Scene) -> None:
    scene.heard_of([lost_step()])
    assert (scene.run_once(), scene.taken, scene.left()) == (1, [], [])


def test_what_happened_long_before_is_not_looked_through(scene: Scene) -> None:
    scene.journal(entry(7, occurred_at_ms=UNTIL_MS - BEFORE_MS - 1), entry(8, occurred_at_ms=UNTIL_MS - BEFORE_MS))
    scene.heard_of([lost_step()])
    scene.run_once()
    assert scene.counters.looks_back == [(3, UNTIL_MS - BEFORE_MS)]
    assert [each.first_n for each, _ in scene.taken] == [8]


def test_those_of_a_shard_share_a_look(scene: Scene) -> None:
    scene.heard_of([lost_step(request_id=f"r-{n}") for n in range(100)])
    scene.heard_of([replace(lost_step(), shard=4)], UNTIL_MS + 500)
    scene.heard_of([lost_step()], UNTIL_MS + 500)
    assert scene.run_once(UNTIL_MS + 501) == 102
    looks = [(3, UNTIL_MS - BEFORE_MS), (4, UNTIL_MS + 500 - BEFORE_MS)]
    assert scene.counters.looks_back == looks
    assert [(shard, len(lost), till_ms) for shard, lost, _, till_ms in scene.asked] == [
        (3, 101, UNTIL_MS + 500),
        (4, 1, UNTIL_MS + 500),
    ]


def test_later_ones_wait_for_their_own_time(scene: Scene) -> None:
    scene.heard_of([lost_step()])
    scene.heard_of([lost_step(request_id="r-2")], UNTIL_MS + 500)
    assert (scene.run_once(UNTIL_MS + 500), scene.left()) == (1, ["r-2"])
    assert (scene.run_once(UNTIL_MS + 501), scene.left()) == (1, [])


@pytest.mark.parametrize("failure", [CountersUnavailable("away"), LedgerUnavailable("away"), ZeroDivisionError()])
def test_what_could_not_be_taken_back_is_looked_for_again(scene: Scene, failure: Exception) -> None:
    scene.journal(entry(7))
    scene.heard_of([lost_step()])
    scene.failure = failure
    with pytest.raises(type(failure)):
        scene.run_once()
    assert scene.left() == ["r-1"]
    scene.failure = None
    scene.kept.make_due()
    assert (scene.run_once(), scene.left()) == (1, [])
    assert len(scene.taken) == 1


def test_a_shard_that_cannot_be_looked_through_keeps_no_other_waiting(scene: Scene) -> None:
    scene.heard_of([replace(lost_step(request_id=f"r-{shard}"), shard=shard) for shard in (5, 4, 6)])
    whole = scene.counters.entries_since

    async def entries_since(shard: int, from_ms: int) -> list[Entry]:
        if shard == 4:
            raise ValueError("entry 4.1-7 cannot be read")
        return await whole(shard, from_ms)

    scene.counters.entries_since = entries_since  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="cannot be read"):
        scene.run_once()
    assert scene.left() == ["r-4"]


def test_while_the_counters_or_the_ledger_are_away_it_waits(scene: Scene) -> None:
    scene.heard_of([lost_step()])
    scene.counters.are_away = True
    asked = len(scene.store.asked)
    assert (scene.run_once(), scene.counters.pings, len(scene.store.asked)) == (0, 0, asked)
    scene.counters.are_away, scene.store.is_away = False, True
    with pytest.raises(LedgerUnavailable):
        scene.run_once()
    scene.store.is_away = False
    assert (scene.run_once(), scene.left()) == (1, [])


def test_it_goes_on_until_nothing_is_due(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 3)
    scene.heard_of([lost_step(request_id=f"r-{n}") for n in range(8)])
    scene.counters.clock.at_ms = scene.counters.says_ms = UNTIL_MS + 1
    asyncio.run(scene.lost.run())
    assert ([len(lost) for _, lost, _, _ in scene.asked], scene.left()) == ([3, 3, 2], [])


class TestTheEnd:
    """A process is told to stop while the reply to its last call is lost."""

    def finished(self, scene: Scene, *, stands_still: bool = False) -> float:
        """How many seconds it took."""

        class Clock(FakeClock):
            def now_ms(self) -> int:
                went_on_s = 0 if stands_still else asyncio.get_running_loop().time()
                return UNTIL_MS - 1000 + round(went_on_s * 1000)

        async def ping() -> None:
            scene.counters.pings += 1

        async def end() -> float:
            scene.lost.heard_of([lost_step()], UNTIL_MS)
            await scene.lost.finish()
            return asyncio.get_running_loop().time()

        scene.counters.clock = Clock(0)
        scene.counters.ping = ping  # type: ignore[method-assign]
        return virtual_time.run(end())

    def test_it_looks_for_it_as_soon_as_its_time_is_over(self, scene: Scene) -> None:
        scene.journal(entry(7))
        assert 1 < self.finished(scene) <= 1 + LOOK_EVERY_S
        assert [each for each, _ in scene.taken] == [receipt(7)]
        assert scene.left() == []

    def test_it_does_not_wait_for_a_clock_that_stands_still(self, scene: Scene) -> None:
        assert self.finished(scene, stands_still=True) == pytest.approx(LOOKS_AT_THE_END * LOOK_EVERY_S)
        assert scene.left() == ["r-1"]

    def test_while_the_counters_are_away_it_leaves_it_to_others(self, scene: Scene) -> None:
        scene.counters.are_away = True
        assert self.finished(scene) == 0
        assert scene.left() == ["r-1"]

    @pytest.mark.parametrize("failure", [LedgerUnavailable("away"), ZeroDivisionError()])
    def test_no_failure_keeps_the_process_from_ending(self, scene: Scene, failure: Exception) -> None:
        scene.journal(entry(7))
        scene.failure = failure
        self.finished(scene)
        assert scene.left() == ["r-1"]

    def test_what_was_not_written_yet_is_written_first(self, scene: Scene) -> None:
        scene.store.is_away = True
        scene.heard_of([lost_step(request_id="r-0")])
        scene.counters.are_away = True

        async def end() -> list[str]:
            scene.lost.heard_of([lost_step()], UNTIL_MS)
            await scene.lost.finish()
            return [each.request_id for each in spooled(scene.spool)]

        assert asyncio.run(end()) == ["r-0", "r-1"]
