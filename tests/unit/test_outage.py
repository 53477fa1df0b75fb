"""While the counters are away: what is refused, and what is let through and kept."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger.outages import LetThrough
from quota.demands import Asked, Demand
from quota.errors import CountersDamaged, CountersUnavailable
from quota.protocol import Mode
from tests.unit.fakes import FakeStore
from tests.unit.outage_scene import AT_MS, AWAY, DEMAND, KEYED, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "spool")


@pytest.mark.parametrize(
    "demand",
    [
        replace(DEMAND, asked=(Asked("strict", 1),)),
        replace(DEMAND, asked=(Asked("a", 1), Asked("strict", 1))),
        replace(DEMAND, asked=(), operation="mixed"),
        replace(DEMAND, asked=(), operation="unheard_of"),
        replace(DEMAND, asked=(Asked("unheard_of", 1),)),
        replace(DEMAND, asked=(), together=(DEMAND, replace(DEMAND, asked=(Asked("strict", 1),)))),
        replace(DEMAND, asked=(), together=(DEMAND, replace(DEMAND, asked=(), operation="unheard_of"))),
    ],
)
def test_where_any_metric_says_deny_or_is_not_known_the_request_is_refused(scene: Scene, demand: Demand) -> None:
    with pytest.raises(CountersUnavailable) as refused:
        scene.let_through(demand)
    assert refused.value is AWAY
    assert (scene.kept.entries, scene.spooled()) == ({}, [])


def test_a_gateway_that_has_read_no_catalog_refuses(tmp_path: Path) -> None:
    with pytest.raises(CountersUnavailable):
        Scene(tmp_path, catalog=None).let_through(DEMAND)


def test_counters_that_answer_and_are_damaged_are_no_outage(scene: Scene) -> None:
    """Nobody could charge it later either."""
    damaged = CountersDamaged("the counters refuse: the account is damaged")
    with pytest.raises(CountersDamaged) as refused:
        asyncio.run(scene.outage.let_through(DEMAND, damaged))
    assert refused.value is damaged
    assert scene.kept.entries == {}


def test_what_is_let_through_is_kept_with_all_that_its_charge_will_need(scene: Scene) -> None:
    (charges,) = scene.let_through(replace(KEYED, metadata={"n": 1}))
    (entry,) = scene.kept.entries.values()
    assert replace_id(entry) == LetThrough(
        id="",
        tenant="t",
        subject="u",
        at_ms=AT_MS,
        charges={"a": 5},
        request_id="r-1",
        metadata={"n": 1},
        idempotency_key="k",
        route="consume",
        fingerprint="f",
    )
    assert charges == (Asked("a", 5),)


def replace_id(entry: LetThrough) -> LetThrough:
    return msgspec.structs.replace(entry, id="")


def test_nobody_is_answered_while_the_ledger_has_not_got_it(scene: Scene) -> None:
    async def ask() -> None:
        may_go_on = asyncio.Event()

        class Slow(FakeStore):
            async def run(self, tenant: str, function: Callable[..., Any], *arguments: Any) -> Any:
                await may_go_on.wait()
                return await super().run(tenant, function, *arguments)

        scene.keeping._store = Slow(scene.kept.statements())  # type: ignore[assignment]
        answered = asyncio.create_task(scene.outage.let_through(DEMAND, AWAY))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not answered.done()
        may_go_on.set()
        await answered
        assert len(scene.kept.entries) == 1

    asyncio.run(ask())


def test_an_operation_is_kept_with_its_charges_of_now(scene: Scene) -> None:
    (charges,) = scene.let_through(replace(DEMAND, asked=(), operation="open", quantity=2))
    (entry,) = scene.kept.entries.values()
    assert (entry.operation, entry.charges) == ("open", {"a": 10, "b": 2})
    assert charges == (Asked("a", 10), Asked("b", 2))


def test_demands_that_are_made_as_one_are_kept_as_one(scene: Scene) -> None:
    whole = replace(KEYED, asked=(), together=(DEMAND, replace(DEMAND, asked=(), operation="open")))
    (charges,) = scene.let_through(whole)
    (entry,) = scene.kept.entries.values()
    assert (entry.charges, entry.operation, entry.idempotency_key) == ({"a": 10, "b": 1}, None, "k")
    assert charges == (Asked("a", 10), Asked("b", 1))


@pytest.mark.parametrize(
    ("demand", "charges"),
    [
        (replace(DEMAND, mode=Mode.CHECK, asked=(Asked("a", 0),)), (Asked("a", 0),)),
        (replace(DEMAND, asked=(), operation="free"), ()),
        (replace(KEYED, asked=(), operation="free"), ()),
    ],
)
def test_what_charges_nothing_is_let_through_and_nothing_is_kept(
    scene: Scene, demand: Demand, charges: tuple[Asked, ...]
) -> None:
    assert scene.let_through(demand) == [charges]
    assert (scene.kept.writes, scene.spooled()) == ([], [])


def test_where_nothing_can_keep_it_the_request_is_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(scene.spool, "append", append)
    scene.store.is_away = True
    with pytest.raises(CountersUnavailable, match="neither the counters nor the ledger nor a disk"):
        scene.let_through(DEMAND)
