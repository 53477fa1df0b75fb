"""Replies that were lost: whatever was charged without telling is looked for when nothing can come after, and taken
back.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway import lost_replies as module
from gateway.lost_replies import LostReplies
from ledger import charges as ledger_charges
from ledger.repeats import NO_CALLER_WAS_TOLD, TakeBack
from quota.demands import Asked, Demand, step
from quota.errors import CountersUnavailable, LedgerUnavailable
from quota.gathering import told_of
from quota.journal import About, Entry
from quota.keys import AccountName
from quota.protocol import Mode, Step
from tests.unit.entries import entry
from tests.unit.fakes import FakeCounters, FakeStore

UNTIL_MS = 1_001_000
"""Redis's clock stands a second before it."""
DEMAND = Demand("t", "u", Mode.CONSUME, "r-1", (Asked("m", 5),))
ACCOUNT = AccountName("t", "u", "m")


def lost_step(**changes: Any) -> Step:
    demand = replace(DEMAND, **changes)
    return step(demand, demand.asked, 3, 1)


class Scene:
    """The counters are back; what was taken back is noted. `old` is what the ledger knows of requests."""

    def __init__(self) -> None:
        self.counters = FakeCounters(UNTIL_MS - 1000)
        self.old: list[TakeBack] = []
        self.asked: list[tuple[list[AccountName], list[tuple[str, str | None]]]] = []
        self.taken: list[tuple[TakeBack, list[tuple[AccountName, int]]]] = []
        self.failure: Exception | None = None
        self.store = FakeStore(
            {ledger_charges.of_requests: self._of_requests, ledger_charges.of_receipt: lambda _: [(ACCOUNT, 8)]}
        )
        parts: Any = (self.counters, self.store, self)
        self.lost = LostReplies(*parts)

    def _of_requests(self, _: int, names: list[AccountName], requests: list[tuple[str, str | None]]) -> list[TakeBack]:
        self.asked.append((names, requests))
        return self.old

    async def take_back(self, wanted: TakeBack, charges: Sequence[tuple[AccountName, int]]) -> None:
        if self.failure is not None:
            raise self.failure
        self.taken.append((wanted, list(charges)))

    def journal(self, *entries: Entry) -> None:
        self.counters.journal[3] = list(entries)

    def run_once(self, at_ms: int = UNTIL_MS + 1) -> int:
        self.counters.says_ms = at_ms
        return asyncio.run(self.lost.run_once())


@pytest.fixture
def scene() -> Scene:
    return Scene()


def receipt(first_n: int, count: int = 1, kind: str = "consume") -> TakeBack:
    return TakeBack("t", 3, 1, first_n, count, kind, NO_CALLER_WAS_TOLD)


@pytest.mark.parametrize("mode", list(Mode))
def test_only_what_can_be_undone_and_has_no_key_is_looked_for(scene: Scene, mode: Mode) -> None:
    scene.lost.heard_of([lost_step(mode=mode)], UNTIL_MS)
    scene.lost.heard_of([lost_step(mode=mode, idempotency_key="k", route="consume", fingerprint="f")], UNTIL_MS)
    scene.lost.heard_of([step(replace(DEMAND, mode=mode), (), 3, 1)], UNTIL_MS)
    assert scene.run_once(UNTIL_MS) == (1 if mode in {Mode.CONSUME, Mode.HOLD, Mode.GIVE} else 0)


@pytest.mark.parametrize("keyed", [{}, {"idempotency_key": "k", "route": "consume", "fingerprint": "f"}])
@pytest.mark.parametrize("mode", list(Mode))
def test_exactly_who_is_told_of_it_has_its_charge_taken_back(scene: Scene, mode: Mode, keyed: dict[str, Any]) -> None:
    error, lost = CountersUnavailable("away"), lost_step(mode=mode, **keyed)
    error.__cause__ = TimeoutError()
    scene.lost.heard_of([lost], UNTIL_MS)
    assert scene.run_once(UNTIL_MS) == str(told_of(lost, error)).endswith("is taken back")


def test_nothing_is_looked_for_before_redis_would_refuse_to_charge_it(scene: Scene) -> None:
    scene.journal(entry(7))
    scene.lost.heard_of([lost_step()], UNTIL_MS)
    for at_ms in (UNTIL_MS - 1000, UNTIL_MS):  # in that very millisecond Redis still charges
        assert scene.run_once(at_ms) == 1
        assert scene.counters.looks == []
    assert scene.run_once(UNTIL_MS + 1) == 0
    assert [each for each, _ in scene.taken] == [receipt(7)]


def test_it_asks_redis_itself_what_time_it_is(scene: Scene) -> None:
    """A clock that went on by itself while Redis stood still would be early."""
    scene.lost.heard_of([lost_step()], UNTIL_MS)
    scene.counters.clock.at_ms = UNTIL_MS + 60_000
    assert scene.run_once(UNTIL_MS - 1) == 1
    assert scene.counters.pings == 1


def test_what_stands_in_the_journal_is_taken_back_with_all_its_charges(scene: Scene) -> None:
    pair: dict[str, Any] = {"receipt_first_n": 7, "receipt_count": 2}
    other = AccountName("t", "u", "m2")
    scene.journal(entry(7, **pair), entry(8, account=other, amount=2, **pair), entry(9, about=About(request_id="r-2")))
    scene.lost.heard_of([lost_step()], UNTIL_MS)
    assert scene.run_once() == 0
    assert scene.taken == [(receipt(7, 2), [(ACCOUNT, 5), (other, 2)])]


def test_what_has_gone_to_the_ledger_is_taken_back_as_well(scene: Scene) -> None:
    scene.old = [receipt(4)]
    scene.lost.heard_of([lost_step(attempt="p.1")], UNTIL_MS)
    scene.run_once()
    assert scene.asked == [([ACCOUNT], [("r-1", "p.1")])]
    assert scene.taken == [(receipt(4), [(ACCOUNT, 8)])]


def test_what_stands_in_both_is_taken_back_once(scene: Scene) -> None:
    scene.old = [receipt(7)]
    scene.journal(entry(7))
    scene.lost.heard_of([lost_step()], UNTIL_MS)
    scene.run_once()
    assert scene.taken == [(receipt(7), [(ACCOUNT, 5)])]


def test_the_journal_is_read_before_the_ledger(scene: Scene) -> None:
    """What a drain moves between the two looks would be in neither."""
    order: list[str] = []
    whole = scene.counters.entries

    async def entries(*arguments: Any) -> list[Entry]:
        order.append("journal")
        return await whole(*arguments)

    scene.counters.entries = entries  # type: ignore[method-assign,assignment]
    scene.lost.heard_of([lost_step()], UNTIL_MS)
    scene.run_once()
    assert [*order, *(name for _, name in scene.store.asked)] == ["journal", "of_requests"]


def test_another_try_of_the_same_request_was_told_and_stays(scene: Scene) -> None:
    scene.journal(*(entry(n, about=About(request_id="r-1", attempt=f"p.{n}")) for n in (7, 8, 9)))
    scene.lost.heard_of([lost_step(attempt="p.8")], UNTIL_MS)
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
    scene.lost.heard_of([lost_step(), lost_step(mode=Mode.GIVE)], UNTIL_MS)
    assert scene.run_once() == 0
    assert scene.taken == []


def test_units_of_a_level_that_were_given_back_without_telling_are_named_as_such(scene: Scene) -> None:
    """The caller will give them back once more: they would be gone twice."""
    scene.journal(entry(7, "release", detail=None, change=-5))
    scene.lost.heard_of([lost_step(mode=Mode.GIVE)], UNTIL_MS)
    assert scene.run_once() == 0
    assert scene.taken == [(receipt(7, kind="release"), [(ACCOUNT, 5)])]


def test_a_hold_that_nobody_was_told_of_is_named_as_one(scene: Scene) -> None:
    scene.journal(entry(7, "hold"))
    scene.lost.heard_of([lost_step(mode=Mode.HOLD)], UNTIL_MS)
    scene.run_once()
    assert [each for each, _ in scene.taken] == [receipt(7, kind="hold")]


def test_what_was_not_charged_at_all_needs_nothing(scene: Scene) -> None:
    scene.lost.heard_of([lost_step()], UNTIL_MS)
    assert (scene.run_once(), scene.taken) == (0, [])


def test_those_of_a_shard_share_a_look(scene: Scene) -> None:
    scene.lost.heard_of([lost_step(request_id=f"r-{n}") for n in range(100)], UNTIL_MS)
    scene.lost.heard_of([replace(lost_step(), shard=4)], UNTIL_MS)
    assert scene.run_once() == 0
    assert [shard for shard, _, _ in scene.counters.looks] == [3, 4]


def test_later_ones_wait_for_their_own_time(scene: Scene) -> None:
    scene.lost.heard_of([lost_step()], UNTIL_MS)
    scene.lost.heard_of([lost_step(request_id="r-2")], UNTIL_MS + 500)
    assert scene.run_once(UNTIL_MS + 500) == 1
    assert scene.run_once(UNTIL_MS + 501) == 0


@pytest.mark.parametrize("failure", [CountersUnavailable("away"), LedgerUnavailable("away")])
def test_what_could_not_be_taken_back_is_looked_for_again(scene: Scene, failure: Exception) -> None:
    scene.journal(entry(7))
    scene.lost.heard_of([lost_step()], UNTIL_MS)
    scene.failure = failure
    with pytest.raises(type(failure)):
        scene.run_once()
    scene.failure = None
    assert scene.run_once() == 0
    assert len(scene.taken) == 1


def test_while_the_counters_or_the_ledger_are_away_it_waits(scene: Scene) -> None:
    scene.lost.heard_of([lost_step()], UNTIL_MS)
    scene.counters.are_away = True
    assert (scene.run_once(), scene.counters.pings) == (1, 0)
    scene.counters.are_away, scene.store.is_away = False, True
    with pytest.raises(LedgerUnavailable):
        scene.run_once()
    scene.store.is_away = False
    assert scene.run_once() == 0


def test_a_journal_that_cannot_be_looked_through_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long absence of the ledger: what was lost lately stands at its end, where nobody has looked yet."""
    monkeypatch.setattr(module, "MAX_YOUNG_ENTRIES", 3)
    lost = entry(9)
    scene.journal(*(entry(n, about=About(request_id="told")) for n in range(6)), lost)
    scene.lost.heard_of([lost_step()], UNTIL_MS)
    with pytest.raises(LedgerUnavailable, match="longer than"):
        scene.run_once()
    scene.journal(lost)
    assert scene.run_once() == 0
    assert [each for each, _ in scene.taken] == [receipt(9)]


def test_no_more_are_kept_in_mind_than_there_is_room_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOST", 10)
    scene.lost.heard_of([lost_step()] * 25, UNTIL_MS)
    scene.lost.heard_of([lost_step()] * 25, UNTIL_MS)
    assert scene.run_once(UNTIL_MS) == 10
