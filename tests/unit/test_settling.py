"""Once the counters are back: what was let through is charged, once, in the period of its instant."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import outage as outages_module
from gateway.outage import MAX_AT_ONCE
from quota.catalog import Catalog, Metric
from quota.demands import Asked
from quota.errors import CountersUnavailable
from quota.formats import Terms, Window
from quota.periods import DAY_MS, PeriodKind, from_rfc3339, period_at
from quota.protocol import Mode
from quota.replies import Outcome
from tests.unit.outage_scene import AT_MS, DEMAND, KEYED, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "spool")


def test_once_the_counters_are_back_it_is_charged_once_and_settled(scene: Scene) -> None:
    scene.let_through(DEMAND, replace(DEMAND, asked=(), operation="open", metadata={"n": 1}))
    assert scene.run(scene.outage.run_once) == 2
    assert scene.run(scene.outage.run_once) == 0
    one, other = scene.admission.charged
    assert (one.mode, [(each.metric, each.amount) for each in one.asked], one.at_ms) == (Mode.CHARGE, [("a", 5)], AT_MS)
    assert [(each.metric, each.amount) for each in other.asked] == [("a", 5), ("b", 1)]
    assert (other.operation, other.metadata, other.request_id) == ("open", {"n": 1}, "r-1")
    assert scene.kept.settled == dict.fromkeys(scene.kept.entries)


@pytest.mark.parametrize("attempt", [None, "p.1"])
def test_its_charge_is_not_taken_for_that_of_the_try_whose_reply_was_lost(scene: Scene, attempt: str | None) -> None:
    """That one is looked for by its request's id and its try, and taken back."""
    scene.let_through(replace(DEMAND, attempt=attempt))
    scene.run(scene.outage.run_once)
    assert scene.admission.charged[0].attempt not in {attempt, None}


def test_it_is_charged_in_the_period_of_its_instant(scene: Scene) -> None:
    scene.let_through(DEMAND)
    scene.admission.now_ms = AT_MS + DAY_MS  # February, and another plan with an anchor
    scene.admission.terms = Terms("max", PeriodKind.MONTH, from_rfc3339("2026-01-15T00:00:00Z"), ())
    scene.run(scene.outage.run_once)
    at, _, window = scene.admission.charged[0].asked[0].detail.partition(" ")
    terms = scene.admission.terms
    assert (int(at), Window.parsed(window)) == (AT_MS, Window(period_at(terms.kind, AT_MS, terms.anchor_ms), terms))


def test_a_gateway_that_died_between_charge_and_note_does_not_charge_again(scene: Scene) -> None:
    scene.let_through(DEMAND, KEYED)
    scene.run(scene.outage.run_once)
    scene.kept.settled.clear()
    assert scene.run(scene.outage.run_once) == 2
    assert len(scene.admission.charged) == 2


def test_under_a_key_that_was_charged_after_all_nothing_is_charged_again(scene: Scene) -> None:
    """The reply was lost, and not the charge; or the caller has repeated it since."""
    scene.let_through(KEYED)
    scene.admission.records["t", "u", "consume", "k"] = "f"
    assert scene.run(scene.outage.run_once) == 1
    assert scene.admission.charged == []
    assert list(scene.kept.settled.values()) == [None]


def test_a_key_that_was_let_through_with_two_bodies_is_charged_for_both(scene: Scene) -> None:
    scene.let_through(KEYED, replace(KEYED, asked=(Asked("b", 7),), fingerprint="g"))
    scene.run(scene.outage.run_once)
    assert [(each.asked[0].metric, each.route) for each in scene.admission.charged] == [
        ("a", "consume"),
        ("b", "outage"),
    ]
    scene.kept.settled.clear()
    scene.run(scene.outage.run_once)
    assert len(scene.admission.charged) == 2


@pytest.mark.parametrize("where", ["in the ledger", "on the disk"])
def test_a_key_keeps_the_scope_of_its_route(scene: Scene, where: str) -> None:
    """A batch and a consume may use the same key, and what was charged under one is not charged again under it."""
    item = replace(KEYED, route="consume/batch", fingerprint="g")
    scene.store.is_away = where == "on the disk"
    scene.let_through(KEYED, item)
    scene.store.is_away = False
    scene.run(scene.outage._store_spooled)
    scene.admission.records["t", "u", "consume/batch", "k"] = "g"
    assert scene.run(scene.outage.run_once) == 2
    assert [each.route for each in scene.admission.charged] == ["consume"]


def test_one_key_let_through_twice_is_charged_once(scene: Scene) -> None:
    scene.let_through(KEYED, KEYED)
    assert scene.run(scene.outage.run_once) == 2
    assert len(scene.admission.charged) == 1


def test_what_can_never_be_charged_is_settled_with_the_reason(scene: Scene) -> None:
    scene.let_through(DEMAND)
    scene.admission.catalogs.newest = Catalog(metrics={"b": Metric()})
    scene.run(scene.outage.run_once)
    (reason,) = scene.kept.settled.values()
    assert reason == "the catalog has no metric a"


def test_a_charge_that_the_counters_refuse_is_not_taken_for_one_that_was_made(scene: Scene) -> None:
    scene.let_through(DEMAND)
    scene.admission.outcome = Outcome.CROWDED
    scene.run(scene.outage.run_once)
    assert (list(scene.kept.settled.values()), scene.admission.charged) == (["more than can be counted"], [])


def test_one_account_that_cannot_be_charged_keeps_no_other_waiting(scene: Scene) -> None:
    scene.let_through(replace(DEMAND, subject="damaged"), DEMAND)
    scene.admission.unreachable = {"damaged"}
    with pytest.raises(CountersUnavailable):
        scene.run(scene.outage.run_once)
    assert [each.subject for each in scene.admission.charged] == ["u"]
    assert len(scene.kept.settled) == 1
    scene.admission.unreachable = set()
    assert scene.run(scene.outage.run_once) == 1


def test_while_the_counters_are_away_it_waits(scene: Scene) -> None:
    scene.let_through(DEMAND)
    scene.admission.is_away = True
    with pytest.raises(CountersUnavailable):
        scene.run(scene.outage.run_once)
    assert scene.kept.settled == {}


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - what runs beside it tells nobody
            await asyncio.sleep(0.005)


def test_what_the_disk_kept_goes_to_the_ledger_once_and_is_charged(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages_module, "SETTLE_EVERY_S", 0.001)
    monkeypatch.setattr(outages_module, "MAX_STORED_AT_ONCE", 10)
    scene.store.is_away = True
    scene.let_through(*(replace(DEMAND, subject=f"u{n}") for n in range(25)))

    async def come_back() -> None:
        going_on = asyncio.create_task(scene.outage.keep_going())
        await _until(lambda: len(scene.store.asked) > 3)
        assert len(list(scene.spool._folder.glob("*.open"))) == 1  # nothing is closed or read while it is away
        scene.store.is_away = False
        await _until(lambda: len(scene.kept.settled) == 25)
        going_on.cancel()

    asyncio.run(come_back())
    assert scene.kept.writes == [10, 10, 5]
    assert len(scene.admission.charged) == 25
    assert not scene.spool.has_any()


def test_nothing_unforeseen_ends_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages_module, "SETTLE_EVERY_S", 0.001)
    scene.let_through(*(replace(DEMAND, subject=f"u{n}") for n in range(MAX_AT_ONCE + 1)))

    async def fail() -> None:
        scene.store.failure = ZeroDivisionError()
        going_on = asyncio.create_task(scene.outage.keep_going())
        await _until(lambda: len(scene.store.asked) > 3)
        scene.store.failure = None
        await _until(lambda: len(scene.kept.settled) == MAX_AT_ONCE + 1)
        going_on.cancel()

    asyncio.run(fail())


def test_while_the_counters_are_known_to_be_away_none_of_them_is_asked(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages_module, "SETTLE_EVERY_S", 0.001)
    scene.counters.are_away = True
    scene.store.is_away = True
    scene.let_through(DEMAND)
    scene.store.is_away = False

    async def wait() -> None:
        going_on = asyncio.create_task(scene.outage.keep_going())
        await _until(lambda: not scene.spool.has_any())  # what the disk kept is stored all the same
        assert scene.admission.charged == []
        scene.counters.are_away = False
        await _until(lambda: len(scene.admission.charged) == 1)
        going_on.cancel()

    asyncio.run(wait())
