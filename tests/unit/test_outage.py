"""While the counters are away: what is refused, what is let through, and where that is kept."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import outage as outages_module
from ledger.outages import LetThrough
from quota.demands import Asked, Demand
from quota.errors import CountersUnavailable
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


def test_what_is_let_through_is_kept_before_it_is_answered(scene: Scene) -> None:
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

        scene.outage._store = Slow(scene.kept.statements())  # type: ignore[assignment]
        answered = asyncio.create_task(scene.outage.let_through(DEMAND, AWAY))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not answered.done()
        may_go_on.set()
        await answered
        assert len(scene.kept.entries) == 1

    asyncio.run(ask())


def test_those_of_one_turn_are_written_together(scene: Scene) -> None:
    charges = scene.let_through(*(replace(DEMAND, subject=f"u{n}") for n in range(50)))
    assert (scene.kept.writes, len(charges), len(scene.kept.entries)) == ([50], 50, 50)


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


def test_with_the_ledger_away_too_it_is_kept_on_the_disk(scene: Scene) -> None:
    scene.store.is_away = True
    assert scene.let_through(DEMAND, KEYED) == [(Asked("a", 5),)] * 2
    assert [entry.idempotency_key for entry in scene.spooled()] == [None, "k"]


def test_a_ledger_that_hangs_counts_as_away(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages_module, "KEEP_WITHIN_S", 0.01)

    class Hanging(FakeStore):
        async def run(self, *_: Any) -> Any:
            await asyncio.Event().wait()

    scene.outage._store = Hanging({})  # type: ignore[assignment]
    scene.let_through(DEMAND)
    assert len(scene.spooled()) == 1


def test_where_nothing_can_keep_it_the_request_is_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(scene.spool, "append", append)
    scene.store.is_away = True
    with pytest.raises(CountersUnavailable, match="neither the counters nor the ledger nor a disk"):
        scene.let_through(DEMAND)


def test_a_failure_that_nobody_foresaw_reaches_every_caller(scene: Scene) -> None:
    scene.store.failure = ZeroDivisionError()

    async def ask() -> list[tuple[Asked, ...] | BaseException]:
        both = (scene.outage.let_through(each, AWAY) for each in (DEMAND, KEYED))
        return await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), 5)

    assert [type(each) for each in asyncio.run(ask())] == [ZeroDivisionError] * 2
