"""What a receipt or a reservation names: in the journal while it is young, then in the ledger, and nobody else's."""

import asyncio
from typing import Any

import pytest

from gateway import lookups
from gateway.lookups import Lookups
from ledger import earlier_uses, holds, receipts
from ledger.earlier_uses import GivenBack
from ledger.receipts import Taken
from quota.errors import CountersUnavailable, ReceiptNotFound
from quota.formats import Part
from quota.handles import Receipt, Reservation
from quota.journal import Entry, Place
from quota.keys import AccountName
from tests.unit.entries import MONTH, entry
from tests.unit.fakes import SHARDS, FakeCounters, FakeStore

ACCOUNT, OTHER = AccountName("t", "u", "m"), AccountName("t", "u", "m2")
PAIR: dict[str, Any] = {"receipt_first_n": 7, "receipt_count": 2}
RECEIPT = Receipt(3, 1, 7, 2)
HOLD = Reservation(1, 7, "u", "m")


def old(place: Place, account: AccountName) -> Taken:
    return Taken(place, account, "consume", 5, "5", "-", late=None, sealed=None, refunded=2)


OLD = [old(Place(1, 7), ACCOUNT), old(Place(1, 8), OTHER)]


class Scene:
    """Both stores. `old` is what the ledger has of a receipt, by tenant; `settled_by` of a hold, by account; `refunded`
    of a key, by its scope and since when. `begun`: the shards in which an epoch was begun."""

    def __init__(self) -> None:
        self.counters = FakeCounters()
        self.old: dict[str, list[Taken]] = {}
        self.settled_by: dict[AccountName, str] = {}
        self.begun: list[int] = []
        self.refunded: dict[tuple[Any, ...], list[GivenBack]] = {}
        self.store = FakeStore(
            {
                earlier_uses.refund: lambda *wanted: self.refunded.get(wanted, []),
                holds.amount_of: lambda account, shard, place, start_ms: (
                    8 if (account, shard, place, start_ms) == (ACCOUNT, 3, "1-7", MONTH.period.start_ms) else 0
                ),
                receipts.find: lambda tenant, *_: self.old.get(tenant, []),
                holds.settled_by: lambda account, shard, place: (
                    self.settled_by.get(account) if (shard, place) == (3, "1-7") else None
                ),
            }
        )
        parts: Any = (self.counters, self.store, self, SHARDS)
        self.lookups = Lookups(*parts)

    async def begin(self, shard: int) -> None:
        """What stands in for Epochs."""
        self.begun.append(shard)
        self.counters.epoch = 5

    def journal(self, *entries: Entry) -> None:
        self.counters.journal[3] = list(entries)

    def taken(self, receipt: Receipt = RECEIPT, tenant: str = "t") -> tuple[int, list[Taken]]:
        return asyncio.run(self.lookups.taken(tenant, receipt))

    def first_refund(self, key: str = "k") -> list[GivenBack]:
        return asyncio.run(self.lookups.first_refund("t", 3, "u", key))

    def held(self, start_ms: int = MONTH.period.start_ms, name: Reservation = HOLD) -> int:
        return asyncio.run(self.lookups.held("t", 3, name, start_ms))

    def end(self, tenant: str = "t", name: Reservation = HOLD) -> str | None:
        return asyncio.run(self.lookups.end_of_hold(tenant, 3, name))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_young_receipt_is_found_in_the_journal_without_asking_the_ledger(scene: Scene) -> None:
    parts, caps = (Part(3), Part(2, 9, 0, None)), (("day", 42),)
    scene.journal(entry(6), entry(7, **PAIR), entry(8, account=OTHER, parts=parts, cap_windows=caps, **PAIR), entry(9))
    epoch, (first, second) = scene.taken()
    assert epoch == 1
    assert first == Taken(Place(1, 7), ACCOUNT, "consume", 5, "-", "-", late=None, sealed=None, refunded=0)
    assert (second.account, second.parts, second.caps) == (OTHER, "3,9:0:-:2", "day:42")
    assert scene.store.asked == []
    assert scene.counters.looks == [(3, "1-7", "1-8")]


def test_one_that_was_booked_late_says_into_which_window(scene: Scene) -> None:
    scene.journal(entry(7, used_after=None))
    (found,) = scene.taken(Receipt(3, 1, 7, 1))[1]
    assert found.late == str(MONTH)


def test_an_old_receipt_is_found_in_the_ledger(scene: Scene) -> None:
    scene.old["t"] = OLD
    scene.counters.epoch = 4
    assert scene.taken() == (4, OLD)


def test_one_that_is_half_trimmed_is_in_the_ledger_whole(scene: Scene) -> None:
    scene.journal(entry(8, account=OTHER, **PAIR))
    scene.old["t"] = OLD
    assert scene.taken()[1] == OLD


def test_one_that_is_on_its_way_is_neither_found_nor_denied(scene: Scene) -> None:
    scene.journal(entry(8, account=OTHER, **PAIR))
    with pytest.raises(CountersUnavailable, match="on its way into the ledger"):
        scene.taken()


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [entry(7), entry(8)],
        [entry(7, receipt_first_n=6, receipt_count=2), entry(8, receipt_first_n=6, receipt_count=2)],
        [entry(7, **PAIR), entry(8, "warned", **PAIR)],
        [entry(7, "refund", **PAIR), entry(8, "refund", **PAIR)],
        [entry(7, "hold", **PAIR), entry(8, "hold", **PAIR)],
        [entry(7, account=AccountName("t2", "u", "m"), **PAIR), entry(8, account=AccountName("t2", "u", "m2"), **PAIR)],
    ],
)
def test_what_was_never_given_out_to_this_tenant_is_not_found(scene: Scene, entries: list[Entry]) -> None:
    scene.journal(*entries)
    scene.old["t2"] = OLD
    with pytest.raises(ReceiptNotFound):
        scene.taken()


@pytest.mark.parametrize(
    "entries",
    [
        [entry(7), entry(8)],
        [entry(8, **{**PAIR, "receipt_first_n": 8})],
        [entry(8, account=AccountName("t2", "u", "m"), **PAIR)],
        [entry(7, receipt_count=5), entry(8, receipt_count=5)],
    ],
)
def test_a_receipt_with_a_wrong_count_is_not_on_its_way(scene: Scene, entries: list[Entry]) -> None:
    """Nobody is told to come back for what will never be there."""
    scene.journal(*entries)
    with pytest.raises(ReceiptNotFound):
        scene.taken(Receipt(3, 1, 7, 20))


def test_a_commit_has_a_receipt_too(scene: Scene) -> None:
    scene.journal(entry(7, "commit"))
    assert scene.taken(Receipt(3, 1, 7, 1))[1][0].kind == "commit"


def test_a_shard_that_does_not_exist_is_not_looked_at(scene: Scene) -> None:
    with pytest.raises(ReceiptNotFound):
        scene.taken(Receipt(SHARDS, 1, 7, 1))
    assert (scene.counters.looks, scene.store.asked) == ([], [])


def test_without_an_epoch_one_is_begun(scene: Scene) -> None:
    """Nobody else may come by who begins one: a refund must not wait for a consume."""
    scene.counters.epoch, scene.old["t"] = None, OLD
    assert scene.taken() == (5, OLD)
    assert scene.begun == [3]


def test_the_epoch_is_read_before_anything_else(scene: Scene) -> None:
    """What was given back in this epoch and is not in the ledger yet is remembered as long as this epoch lasts."""

    async def epochs(shards: list[int]) -> dict[int, int | None]:
        assert (scene.counters.looks, scene.store.asked) == ([], [])
        return dict.fromkeys(shards, 1)

    scene.counters.epochs = epochs  # type: ignore[method-assign]
    scene.old["t"] = OLD
    assert scene.taken() == (1, OLD)


@pytest.mark.parametrize("kind", ["commit", "release", "expire"])
def test_how_a_hold_ended_is_known_to_the_ledger_or_to_the_journal(scene: Scene, kind: str) -> None:
    scene.settled_by[ACCOUNT] = kind
    assert scene.end() == kind
    scene.settled_by[ACCOUNT] = "open"
    scene.journal(entry(9, "consume"), entry(10, kind, detail="1-7"))
    assert scene.end() == kind
    scene.settled_by.clear()
    scene.journal(entry(7, "hold"), entry(8, "commit", detail="1-6"), entry(10, kind, detail="1-7"))
    assert scene.end() == kind


def test_a_hold_of_which_no_end_is_found_has_expired(scene: Scene) -> None:
    scene.settled_by[ACCOUNT] = "open"
    assert scene.end() == "expire"
    scene.settled_by.clear()
    scene.journal(entry(7, "hold"))
    assert scene.end() == "expire"


@pytest.mark.parametrize("kind", ["commit", "open"])
def test_what_leaves_the_journal_between_two_looks_is_found_in_the_ledger(scene: Scene, kind: str) -> None:
    """The drain is as quick as a look: the hold alone may have left the journal, or its end with it."""
    scene.journal(*([] if kind == "commit" else [entry(10, "commit", detail="1-7")]))
    answers = iter([None, kind])
    scene.store.statements[holds.settled_by] = lambda *_: next(answers)
    assert scene.end() == "commit"


def test_of_a_hold_that_the_ledger_knows_to_be_settled_the_journal_is_not_read(scene: Scene) -> None:
    scene.settled_by[ACCOUNT] = "release"
    assert (scene.end(), scene.counters.looks) == ("release", [])


def test_while_more_waits_than_can_be_looked_through_no_hold_is_told_to_have_expired(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who hears that of a hold which was committed would pay for it once more."""
    monkeypatch.setattr(lookups, "MAX_YOUNG_ENTRIES", 3)
    scene.journal(entry(7, "hold"), entry(8), entry(9), entry(10, "commit", detail="1-7"))
    with pytest.raises(CountersUnavailable, match="longer than"):
        scene.end()
    monkeypatch.setattr(lookups, "MAX_YOUNG_ENTRIES", 4)
    assert scene.end() == "commit"


OTHERS = [OTHER, AccountName("t", "u2", "m"), AccountName("t2", "u", "m")]


@pytest.mark.parametrize(
    "entries", [[], [entry(7)], [entry(8, "hold")], *([entry(7, "hold", account=other)] for other in OTHERS)]
)
def test_a_hold_that_this_account_never_made_is_not_known(scene: Scene, entries: list[Entry]) -> None:
    """A name that was put together by hand may have the place of another subject's or another metric's hold."""
    ends = [entry(each.place.n + 1, "commit", account=each.account, detail="1-7") for each in entries]
    scene.journal(*entries, *ends)
    scene.settled_by |= dict.fromkeys(OTHERS, "commit")
    assert scene.end() is None


GIVEN = [GivenBack(Place(1, 7), 3, 5)]
SINCE_MS = 900_000
"""As long before the counters' clock as a key is remembered."""


def test_a_refund_whose_record_redis_has_lost_is_found_in_the_ledger(scene: Scene) -> None:
    scene.refunded["t", "u", "refunds", "k", SINCE_MS] = GIVEN
    assert (scene.first_refund(), scene.first_refund("other")) == (GIVEN, [])
    assert scene.store.asked == [("t", "refund")] * 2


def test_a_refund_that_redis_remembers_is_not_looked_for(scene: Scene) -> None:
    scene.counters.records.add("qg:{3}:i:t:u:refunds:k")
    scene.refunded["t", "u", "refunds", "k", SINCE_MS] = GIVEN
    assert (scene.first_refund(), scene.store.asked) == ([], [])


def test_while_the_ledger_is_away_no_refund_is_known_and_none_is_kept_from_being_done(scene: Scene) -> None:
    scene.store.is_away = True
    assert scene.first_refund() == []


def test_a_ledger_that_hangs_holds_no_refund_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(lookups, "LOOK_WITHIN_S", 0.01)
    scene.store.run = hang  # type: ignore[method-assign]
    assert scene.first_refund() == []


def test_what_was_held_is_known_to_the_journal_or_to_the_ledger(scene: Scene) -> None:
    assert scene.held() == 8
    scene.journal(entry(7, "hold", amount=9))
    assert scene.held() == 9
    assert len(scene.store.asked) == 1


def test_what_was_held_in_another_period_is_not_held_in_this_one(scene: Scene) -> None:
    assert scene.held(0) == 0
    scene.journal(entry(7, "hold", amount=9))
    assert scene.held(0) == 0


@pytest.mark.parametrize("is_hold", [False, True])
def test_what_cannot_be_looked_up_is_told_as_nothing_held(scene: Scene, is_hold: bool) -> None:
    scene.store.is_away = True
    scene.journal(entry(7, "hold" if is_hold else "consume", amount=9))
    assert scene.held() == (9 if is_hold else 0)
