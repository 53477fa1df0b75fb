"""What waits to be taken back: each of it once, and one that must wait keeps no other waiting."""

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest
import structlog

from gateway import taking_back as module
from gateway.taking_back import TakingBack
from ledger import charges as ledger_charges
from ledger import repeats
from ledger.repeats import TakeBack
from quota.errors import Conflict, CountersUnavailable, LedgerUnavailable, ReceiptNotFound
from quota.keys import AccountName
from tests.unit.fakes import FakeCounters, FakeStore

ACCOUNT = AccountName("t", "u", "m")
AWAY = CountersUnavailable("the counters do not answer")
DAMAGED = CountersUnavailable("the counters refuse: the account is damaged")


def receipt(n: int) -> TakeBack:
    return TakeBack("t", 3, 1, n, 1, "consume", "repeated idempotency key")


class Scene:
    """`waiting` are the receipts in the ledger; `undone` what was undone, `failures` what comes of some instead."""

    def __init__(self, count: int = 0) -> None:
        self.counters = FakeCounters()
        self.waiting = [receipt(n) for n in range(count)]
        self.done: list[int] = []
        self.undone: list[tuple[int, Any]] = []
        self.failures: dict[int, Exception] = {}
        self.is_nothing_left = False
        self.under_way = self.most_under_way = 0
        self.store = FakeStore(
            {repeats.claim: self._claim, repeats.done: self._done, ledger_charges.of_receipts: self._charges}
        )
        nothing: Any = None
        stores: Any = (nothing, self.counters, nothing, self.store)
        self.taking_back = TakingBack(*stores)
        self.taking_back._undoing = self  # type: ignore[assignment]

    def _claim(self, most: int) -> list[TakeBack]:
        claimed, self.waiting = self.waiting[:most], self.waiting[most:]
        return claimed

    def _charges(self, receipts: Sequence[TakeBack]) -> list[list[tuple[AccountName, int]]]:
        return [[(ACCOUNT, each.first_n)] for each in receipts]

    def _done(self, receipts: Sequence[TakeBack]) -> None:
        self.done += [each.first_n for each in receipts]

    async def undo(self, wanted: TakeBack, charges: Any) -> bool:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if failure := self.failures.get(wanted.first_n):
            raise failure
        self.undone.append((wanted.first_n, charges))
        return not self.is_nothing_left

    def run_once(self) -> int:
        return asyncio.run(self.taking_back.run_once())


def test_what_waits_is_taken_back_with_what_it_charged_and_noted_as_done() -> None:
    scene = Scene(3)
    assert scene.run_once() == 3
    assert scene.undone == [(n, [(ACCOUNT, n)]) for n in range(3)]
    assert scene.done == [0, 1, 2]
    assert [name for _, name in scene.store.asked] == ["claim", "of_receipts", "done"]
    assert scene.run_once() == 0
    assert scene.store.asked[-1] == ("*", "claim")


def test_one_that_must_wait_keeps_no_other_waiting_and_the_first_obstacle_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_TOGETHER", 2)
    scene = Scene(6)
    scene.failures = {1: DAMAGED, 4: AWAY}
    with pytest.raises(CountersUnavailable) as told:
        scene.run_once()
    assert told.value is DAMAGED
    assert scene.done == [0, 2, 3, 5]


@pytest.mark.parametrize("failure", [AWAY, LedgerUnavailable("away"), ZeroDivisionError()])
def test_what_could_not_be_taken_back_is_not_noted_as_done(failure: Exception) -> None:
    scene = Scene(1)
    scene.failures = {0: failure}
    with pytest.raises(type(failure)):
        scene.run_once()
    assert (scene.undone, scene.done) == ([], [])


def told_of(scene: Scene) -> list[MutableMapping[str, Any]]:
    with structlog.testing.capture_logs() as told:
        scene.run_once()
    return told


@pytest.mark.parametrize("failure", [ReceiptNotFound("no entries"), Conflict("it was committed meanwhile")])
def test_what_can_never_be_taken_back_is_told_and_not_tried_for_ever(failure: Exception) -> None:
    scene = Scene(2)
    scene.failures = {0: failure}
    told = told_of(scene)
    assert scene.done == [0, 1]
    assert [(each["log_level"], each["receipt"], each.get("why")) for each in told] == [
        ("error", "3.1-0.1", str(failure)),
        ("warning", "3.1-1.1", None),
    ]


def test_what_was_taken_back_before_is_no_news() -> None:
    scene = Scene(1)
    scene.is_nothing_left = True
    assert [each["log_level"] for each in told_of(scene)] == ["info"]
    assert scene.done == [0]


def test_only_so_many_are_taken_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOGETHER", 4)
    scene = Scene(10)
    scene.run_once()
    assert scene.most_under_way == 4
    assert sorted(scene.done) == list(range(10))


def test_it_goes_on_until_nothing_is_due_or_the_counters_are_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 4)
    scene = Scene(10)
    asyncio.run(scene.taking_back.run())
    assert [name for _, name in scene.store.asked].count("claim") == 3
    scene.counters.are_away = True
    scene.store.asked.clear()
    asyncio.run(scene.taking_back.run())
    assert scene.store.asked == []


def test_a_receipt_of_a_lost_reply_is_noted_as_done_too() -> None:
    """The drain may have found it as well, as a repeat of a key."""
    scene = Scene()
    asyncio.run(scene.taking_back.take_back_all({receipt(7): [(ACCOUNT, 5)]}))
    assert (scene.undone, scene.done) == ([(7, [(ACCOUNT, 5)])], [7])
