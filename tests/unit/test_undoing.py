"""What a receipt names is undone once, by whoever comes to it and however often, and not at the cost of the caller."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.taking_back import TakingBack
from gateway.undoing import Undoing
from ledger import earlier_uses, receipts
from ledger.earlier_uses import EarlierHold
from ledger.receipts import GivenAgain, Taken
from ledger.repeats import NO_CALLER_WAS_TOLD, TakeBack
from quota.demands import Demand
from quota.errors import Conflict, CountersUnavailable, ReceiptNotFound, UnknownMetric
from quota.handles import Receipt, Reservation
from quota.journal import Place
from quota.keys import AccountName
from quota.protocol import Mode
from quota.replies import Outcome, Reply
from tests.unit.entries import MONTH
from tests.unit.fakes import FakeStore

ACCOUNT = AccountName("t", "u", "m")
CHARGES = [(ACCOUNT, 5)]
FIRST, LATER = Place(1, 7), Place(2, 9)
REPEAT = TakeBack("t", 3, LATER.epoch, LATER.n, 1, "hold", "repeated idempotency key")


@dataclass
class Scene:
    """A script that settles holds and remembers records, and what is known of them. `settles_first` is done by a
    caller at the moment of the first question."""

    open: set[str] = field(default_factory=lambda: {str(FIRST), str(LATER)})
    ended: dict[str, str] = field(default_factory=dict)
    outcome: Outcome = Outcome.ALLOWED
    failure: Exception | None = None
    records: set[str] = field(default_factory=set)
    asked: list[Demand] = field(default_factory=list)
    earlier: EarlierHold | None = field(default_factory=lambda: EarlierHold(FIRST, "m", waits=False))
    given: list[GivenAgain] = field(default_factory=list)

    def __post_init__(self) -> None:
        around: Any = (self, self, FakeStore(self._known()))
        self.undoing = Undoing(*around)
        self.taking_back = TakingBack(self, around[0], *around[1:])  # type: ignore[arg-type]

    def _known(self) -> dict[Any, Any]:
        found = {earlier_uses.hold_before: self._before, receipts.given_by: self._given}
        return {**found, receipts.corrected_by: lambda _: -5}

    def _before(self, _: TakeBack) -> EarlierHold | None:
        return self.earlier

    def _given(self, _: TakeBack) -> list[GivenAgain]:
        return self.given

    def now_ms(self) -> int:
        return 42

    async def ask(self, demand: Demand) -> tuple[Reply, None]:
        await asyncio.sleep(0)
        self.asked.append(demand)
        if self.failure is not None:
            raise self.failure
        assert demand.idempotency_key is not None
        if demand.idempotency_key in self.records:
            return Reply(Outcome.ALLOWED, replayed=True), None
        outcome = self._released(demand) if demand.mode is Mode.RELEASE else self.outcome
        if outcome is Outcome.ALLOWED:
            self.records.add(demand.idempotency_key)
        return Reply(outcome), None

    def _released(self, demand: Demand) -> Outcome:
        place = demand.asked[0].detail
        if place not in self.open:
            return Outcome.NOT_HELD
        self.settle(place, "release")
        return Outcome.ALLOWED

    def settle(self, place: str, kind: str) -> None:
        self.open.remove(place)
        self.ended[place] = kind

    async def end_of_hold(self, _tenant: str, _shard: int, name: Reservation) -> str | None:
        return None if name.place in self.open else self.ended.get(name.place)

    async def taken(self, _tenant: str, receipt: Receipt) -> tuple[int, list[Taken]]:
        place = Place(receipt.epoch, receipt.first_n)
        return 4, [Taken(place, ACCOUNT, "consume", 5, "-", "-", late=None, sealed=None, refunded=0)]

    def undo(self, wanted: TakeBack, charges: Any = CHARGES) -> bool:
        return asyncio.run(self.undoing.undo(wanted, charges))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_of_two_open_holds_under_one_key_the_one_that_the_caller_was_told_of_last_stays(scene: Scene) -> None:
    assert scene.undo(REPEAT) is True
    assert scene.open == {str(LATER)}


@pytest.mark.parametrize(("end", "left"), [("commit", set()), ("release", set()), ("expire", {str(LATER)})])
def test_where_the_first_hold_has_ended_its_end_decides(scene: Scene, end: str, left: set[str]) -> None:
    """Committed or released, the key has had its charge; expired, it took nothing."""
    scene.settle(str(FIRST), end)
    assert scene.undo(REPEAT) is (end != "expire")
    assert scene.open == left


@pytest.mark.parametrize("end", [None, "commit", "release", "expire"])
def test_two_gateways_at_once_undo_a_hold_as_one_does(end: str | None) -> None:
    once, twice = Scene(), Scene()
    for scene in (once, twice):
        if end is not None:
            scene.settle(str(FIRST), end)

    async def both() -> list[bool]:
        return await asyncio.gather(*(twice.undoing.undo(REPEAT, CHARGES) for _ in range(2)))

    did = once.undo(REPEAT)
    assert sorted(asyncio.run(both())) == sorted([False, did])
    assert twice.undo(REPEAT) is False
    assert (twice.open, twice.ended) == (once.open, once.ended)


def test_a_hold_that_was_released_for_a_later_one_is_not_taken_for_released_by_its_caller(scene: Scene) -> None:
    """As where a gateway was killed before it could note that all was done."""
    assert [scene.undo(REPEAT) for _ in range(3)] == [True, False, False]
    assert scene.open == {str(LATER)}


def test_of_which_no_caller_was_told_is_released_itself(scene: Scene) -> None:
    assert scene.undo(replace(REPEAT, reason=NO_CALLER_WAS_TOLD)) is True
    assert scene.open == {str(FIRST)}


def test_a_hold_whose_key_the_ledger_has_forgotten_is_released_itself(scene: Scene) -> None:
    scene.earlier = None
    assert scene.undo(REPEAT) is True
    assert scene.open == {str(FIRST)}


def test_a_repeat_of_a_repeat_waits_for_its_turn(scene: Scene) -> None:
    scene.earlier = EarlierHold(FIRST, "m", waits=True)
    with pytest.raises(CountersUnavailable, match="still to be looked at"):
        scene.undo(REPEAT)
    assert scene.asked == []


def test_a_first_hold_of_another_metric_is_looked_for_there(scene: Scene) -> None:
    scene.earlier = EarlierHold(FIRST, "m2", waits=False)
    scene.undo(REPEAT)
    assert [(each.asked[0].metric, each.asked[0].detail) for each in scene.asked] == [("m2", "1-7")]


@pytest.mark.parametrize("end", ["release", "expire"])
def test_a_later_hold_that_is_settled_already_leaves_nothing_to_do(scene: Scene, end: str) -> None:
    scene.settle(str(FIRST), "commit")
    scene.settle(str(LATER), end)
    assert scene.undo(REPEAT) is False


def test_two_holds_that_were_both_committed_cannot_be_undone(scene: Scene) -> None:
    for place in (FIRST, LATER):
        scene.settle(str(place), "commit")
    with pytest.raises(Conflict, match="committed"):
        scene.undo(REPEAT)


CONSUME = replace(REPEAT, kind="consume")


def test_a_consume_is_given_back_under_the_name_of_its_receipt(scene: Scene) -> None:
    assert scene.undo(CONSUME) is True
    (demand,) = scene.asked
    assert (demand.mode, demand.idempotency_key, demand.receipt) == (Mode.REFUND, "3.2-9", (2, 9))
    assert demand.asked[0].detail == "2-9 5 0 4 - - "


@pytest.mark.parametrize("kind", ["consume", "commit", "hold", "refund", "release"])
def test_what_was_undone_before_is_not_undone_again(scene: Scene, kind: str) -> None:
    scene.records.add("3.2-9")
    assert scene.undo(replace(REPEAT, kind=kind)) is False


def test_what_its_caller_has_given_back_leaves_nothing_to_do(scene: Scene) -> None:
    scene.outcome = Outcome.ALREADY_REFUNDED
    assert scene.undo(CONSUME) is False


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("consume", Outcome.BELOW_ZERO),
        ("commit", Outcome.BELOW_ZERO),
        ("refund", Outcome.CROWDED),
        ("release", Outcome.CROWDED),
    ],
)
def test_what_the_counters_refuse_cannot_be_undone(scene: Scene, kind: str, outcome: Outcome) -> None:
    scene.outcome = outcome
    with pytest.raises(Conflict, match=outcome.value):
        scene.undo(replace(REPEAT, kind=kind))


def test_a_refund_is_charged_again_where_its_units_had_been_counted(scene: Scene) -> None:
    scene.given = [GivenAgain(ACCOUNT, 3, 1_234, MONTH), GivenAgain(AccountName("t", "u", "m2"), 4, 5_678, MONTH)]
    assert scene.undo(replace(REPEAT, kind="refund")) is True
    (demand,) = scene.asked
    assert (demand.mode, demand.receipt) == (Mode.CHARGE, None)
    assert [(each.metric, each.amount, each.detail) for each in demand.asked] == [
        ("m", 3, f"1234 {MONTH}"),
        ("m2", 4, f"5678 {MONTH}"),
    ]


def test_units_of_a_level_are_used_again_now(scene: Scene) -> None:
    assert scene.undo(replace(REPEAT, kind="release")) is True
    assert (scene.asked[0].mode, scene.asked[0].asked[0].amount) == (Mode.CHARGE, 5)
    assert scene.asked[0].asked[0].detail.startswith("42 0 - ~ lifetime")


def test_a_receipt_without_entries_cannot_be_undone(scene: Scene) -> None:
    with pytest.raises(ReceiptNotFound):
        scene.undo(CONSUME, [])


@pytest.mark.parametrize(
    ("outcome", "failure", "level", "words"),
    [
        (Outcome.ALLOWED, None, "warning", "a charge was taken back"),
        (Outcome.ALREADY_REFUNDED, None, "info", "of a charge there was nothing left to take back"),
        (Outcome.BELOW_ZERO, None, "error", "a charge cannot be taken back"),
        (Outcome.ALLOWED, UnknownMetric("the catalog has no metric m"), "error", "a charge cannot be taken back"),
    ],
)
def test_the_log_says_what_came_of_it(
    scene: Scene, outcome: Outcome, failure: Exception | None, level: str, words: str
) -> None:
    scene.outcome, scene.failure = outcome, failure
    with capture_logs() as logs:
        asyncio.run(scene.taking_back.take_back(CONSUME, CHARGES))
    ((told,),) = ([each for each in logs if each["log_level"] == level],)
    assert (told["event"], told["receipt"], told["kind"]) == (words, "3.2-9.1", "consume")
    assert ("why" in told) == (level == "error")


def test_what_must_wait_is_told_to_whoever_asked(scene: Scene) -> None:
    scene.failure = CountersUnavailable("away")
    with pytest.raises(CountersUnavailable):
        asyncio.run(scene.taking_back.take_back(CONSUME, CHARGES))


def test_a_correction_is_taken_back_with_its_place_so_that_no_later_period_pays_for_it(scene: Scene) -> None:
    wanted = replace(REPEAT, kind="correct")
    assert scene.undo(wanted) is True
    assert [(each.mode, each.asked[0].detail) for each in scene.asked] == [(Mode.ADJUST, f"up {LATER}")]
    sealed = Scene(outcome=Outcome.BELOW_ZERO)
    with pytest.raises(Conflict, match="period is over"):
        sealed.undo(wanted)
