"""Once the counters are back: what was let through is charged, once, in the period of its instant."""

import asyncio
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY

from gateway import settling as module
from gateway.settling import MAX_AT_ONCE
from quota.catalog import Catalog, Metric
from quota.demands import Asked
from quota.errors import LedgerUnavailable
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
    assert scene.run(scene.settling.run_once) == 2
    assert scene.run(scene.settling.run_once) == 0
    one, other = scene.admission.charged
    assert (one.mode, [(each.metric, each.amount) for each in one.asked], one.at_ms) == (Mode.CHARGE, [("a", 5)], AT_MS)
    assert [(each.metric, each.amount) for each in other.asked] == [("a", 5), ("b", 1)]
    assert (other.operation, other.metadata, other.request_id) == ("open", {"n": 1}, "r-1")
    assert scene.kept.settled == dict.fromkeys(scene.kept.entries)
    assert scene.kept.settlings == [2]


@pytest.mark.parametrize("attempt", [None, "p.1"])
def test_its_charge_is_not_taken_for_that_of_the_try_whose_reply_was_lost(scene: Scene, attempt: str | None) -> None:
    """That one is looked for by its request's id and its try, and taken back."""
    scene.let_through(replace(DEMAND, attempt=attempt))
    scene.run(scene.settling.run_once)
    assert scene.admission.charged[0].attempt not in {attempt, None}


def test_it_is_charged_in_the_period_of_its_instant(scene: Scene) -> None:
    scene.let_through(DEMAND)
    scene.admission.at_ms = AT_MS + 20 * DAY_MS  # February, and another plan with an anchor
    scene.admission.terms = Terms("max", PeriodKind.MONTH, from_rfc3339("2026-01-15T00:00:00Z"), ())
    scene.run(scene.settling.run_once)
    at, _, window = scene.admission.charged[0].asked[0].detail.partition(" ")
    terms = scene.admission.terms
    assert (int(at), Window.parsed(window)) == (AT_MS, Window(period_at(terms.kind, AT_MS, terms.anchor_ms), terms))


def test_a_gateway_that_died_between_charge_and_note_does_not_charge_again(scene: Scene) -> None:
    scene.let_through(DEMAND, KEYED)
    scene.run(scene.settling.run_once)
    scene.kept.settled.clear()
    scene.kept.make_due()
    assert scene.run(scene.settling.run_once) == 2
    assert len(scene.admission.charged) == 2


def test_under_a_key_that_was_charged_after_all_nothing_is_charged_again(scene: Scene) -> None:
    """The reply was lost, and not the charge; or the caller has repeated it since."""
    scene.let_through(KEYED)
    scene.admission.records["t", "u", "consume", "k"] = "f"
    assert scene.run(scene.settling.run_once) == 1
    assert scene.admission.charged == []
    assert list(scene.kept.settled.values()) == [None]


def test_a_key_that_was_let_through_with_two_bodies_is_charged_for_both(scene: Scene) -> None:
    scene.let_through(KEYED, replace(KEYED, asked=(Asked("b", 7),), fingerprint="g"))
    scene.run(scene.settling.run_once)
    assert [(each.asked[0].metric, each.route) for each in scene.admission.charged] == [
        ("a", "consume"),
        ("b", "outage"),
    ]
    scene.kept.settled.clear()
    scene.kept.make_due()
    scene.run(scene.settling.run_once)
    assert len(scene.admission.charged) == 2


@pytest.mark.parametrize("where", ["in the ledger", "on the disk"])
def test_a_key_keeps_the_scope_of_its_route(scene: Scene, where: str) -> None:
    """A batch and a consume may use the same key, and what was charged under one is not charged again under it."""
    item = replace(KEYED, route="consume/batch", fingerprint="g")
    scene.store.is_away = where == "on the disk"
    scene.let_through(KEYED, item)
    scene.store.is_away = False
    scene.run(scene.keeping.run_once)
    scene.admission.records["t", "u", "consume/batch", "k"] = "g"
    assert scene.run(scene.settling.run_once) == 2
    assert [each.route for each in scene.admission.charged] == ["consume"]


def test_one_key_let_through_twice_is_charged_once(scene: Scene) -> None:
    scene.let_through(KEYED, KEYED)
    assert scene.run(scene.settling.run_once) == 2
    assert len(scene.admission.charged) == 1


def test_what_can_never_be_charged_is_settled_with_the_reason(scene: Scene) -> None:
    scene.let_through(DEMAND, replace(DEMAND, subject="v", asked=(Asked("b", 1),)))
    scene.admission.catalogs.newest = Catalog(metrics={"b": Metric()})
    told = told_while(lambda: scene.run(scene.settling.run_once))
    assert list(scene.kept.settled.values()) == ["the catalog has no metric a", None]
    assert scene.kept.settlings == [2]
    assert [each.subject for each in scene.admission.charged] == ["v"]
    assert [(each["log_level"], each["requests"], each.get("reason")) for each in told] == [
        ("warning", 1, None),
        ("error", 1, "the catalog has no metric a"),
    ]


def told_while(work: Callable[[], object]) -> list[MutableMapping[str, Any]]:
    with structlog.testing.capture_logs() as told:
        work()
    return told


def test_a_charge_that_the_counters_refuse_is_not_taken_for_one_that_was_made(scene: Scene) -> None:
    scene.let_through(DEMAND)
    scene.admission.outcome = Outcome.CROWDED
    scene.run(scene.settling.run_once)
    assert (list(scene.kept.settled.values()), scene.admission.charged) == (["more than can be counted"], [])


def test_one_account_that_cannot_be_charged_keeps_no_other_waiting(scene: Scene) -> None:
    scene.let_through(replace(DEMAND, subject="damaged"), DEMAND)
    scene.admission.unreachable = {"damaged"}
    told = told_while(lambda: scene.run(scene.settling.run_once))
    assert [each.subject for each in scene.admission.charged] == ["u"]
    assert list(scene.kept.settled.values()) == [None]
    assert told[-1]["requests"] == 1
    scene.admission.unreachable = set()
    scene.kept.make_due()
    assert scene.run(scene.settling.run_once) == 1
    assert len(scene.kept.settled) == 2


def test_one_tenant_for_whom_nothing_can_be_charged_keeps_no_other_waiting(scene: Scene) -> None:
    scene.let_through(*(replace(DEMAND, tenant=tenant) for tenant in ("c", "b", "a", "b")))
    scene.admission.broken_tenants = {"b"}
    with pytest.raises(ZeroDivisionError):
        scene.run(scene.settling.run_once)
    assert [each.tenant for each in scene.admission.charged] == ["a", "c"]
    assert scene.kept.settlings == [2]


def test_those_of_one_tenant_are_asked_together(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two calls, for what the accounts look like and for the charges, however many there are."""
    asked: list[int] = []
    whole = scene.settling._ask

    async def ask(demands: Any) -> Any:
        asked.append(len(demands))
        return await whole(demands)

    monkeypatch.setattr(scene.settling, "_ask", ask)
    scene.let_through(*(replace(DEMAND, subject=f"u{n}", tenant=f"t{n % 2}") for n in range(20)))
    scene.run(scene.settling.run_once)
    assert [each for each in asked if each] == [10, 10] * 2


def test_what_cannot_be_noted_as_charged_is_not_charged_again(scene: Scene) -> None:
    scene.let_through(DEMAND)
    settle = scene.kept.settle

    def fail(_: Any) -> None:
        raise LedgerUnavailable("the ledger cannot be reached")

    statements: Any = scene.store.statements
    name = next(each for each, stand_in in statements.items() if stand_in == settle)
    statements[name] = fail
    with pytest.raises(LedgerUnavailable):
        scene.run(scene.settling.run_once)
    statements[name] = settle
    scene.kept.make_due()
    scene.run(scene.settling.run_once)
    assert (len(scene.admission.charged), list(scene.kept.settled.values())) == (1, [None])


def test_what_the_counters_did_not_take_waits(scene: Scene) -> None:
    scene.let_through(DEMAND, KEYED)
    scene.admission.is_away = True
    assert scene.run(scene.settling.run_once) == 2
    assert (scene.kept.settled, scene.kept.settlings) == ({}, [])


def test_while_the_counters_are_known_to_be_away_nobody_is_asked(scene: Scene) -> None:
    scene.let_through(DEMAND)
    scene.counters.are_away = True
    asked = len(scene.store.asked)
    scene.run(scene.settling.run)
    assert (len(scene.store.asked), scene.kept.claimed) == (asked, set())
    assert REGISTRY.get_sample_value("quotagate_counters_away") == 1
    scene.counters.are_away = False
    scene.run(scene.settling.run)
    assert len(scene.admission.charged) == 1
    assert REGISTRY.get_sample_value("quotagate_counters_away") == 0


def test_it_goes_on_until_nothing_is_due(scene: Scene) -> None:
    scene.let_through(*(replace(DEMAND, subject=f"u{n}") for n in range(MAX_AT_ONCE + 1)))
    scene.run(scene.settling.run)
    assert scene.kept.settlings == [MAX_AT_ONCE, 1]


def test_it_stops_as_soon_as_the_counters_are_away(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 2)
    scene.let_through(*(replace(DEMAND, subject=f"u{n}") for n in range(5)))
    settle = scene.kept.settle

    def settle_and_lose(refusals: Any) -> None:
        settle(refusals)
        scene.counters.are_away = True

    statements: Any = scene.store.statements
    statements[next(each for each, stand_in in statements.items() if stand_in == settle)] = settle_and_lose
    scene.run(scene.settling.run)
    assert scene.kept.settlings == [2]


def test_nothing_unforeseen_ends_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_EVERY_S", 0.001)
    scene.let_through(DEMAND)

    async def fail() -> None:
        asked = len(scene.store.asked)
        scene.store.failure = ZeroDivisionError()
        going_on = asyncio.create_task(scene.settling.keep_going())
        await _until(lambda: len(scene.store.asked) > asked + 3)
        scene.store.failure = None
        await _until(lambda: len(scene.kept.settled) == 1)
        going_on.cancel()

    asyncio.run(fail())


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - what runs beside it tells nobody
            await asyncio.sleep(0.005)
