"""Which replies that were lost are written down, and with what."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger.outages import LostReply
from quota.demands import Asked, step
from quota.errors import CountersUnavailable
from quota.gathering import told_of
from quota.protocol import Mode
from tests.unit.lost_replies_scene import DEMAND, UNTIL_MS, Scene, lost_step


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "spool")


KEYED: dict[str, Any] = {"idempotency_key": "k", "route": "consume", "fingerprint": "f"}


@pytest.mark.parametrize("mode", list(Mode))
def test_only_what_can_be_undone_and_has_no_key_is_looked_for(scene: Scene, mode: Mode) -> None:
    steps = [lost_step(mode=mode), lost_step(mode=mode, **KEYED), step(replace(DEMAND, mode=mode), (), 3, 1)]
    assert len(scene.heard_of(steps)) == (1 if mode in {Mode.CONSUME, Mode.HOLD, Mode.GIVE, Mode.ADJUST} else 0)


@pytest.mark.parametrize("keyed", [{}, KEYED])
@pytest.mark.parametrize("mode", list(Mode))
def test_exactly_who_is_told_of_it_has_its_charge_taken_back(scene: Scene, mode: Mode, keyed: dict[str, Any]) -> None:
    error, lost = CountersUnavailable("away"), lost_step(mode=mode, **keyed)
    error.__cause__ = TimeoutError()
    assert len(scene.heard_of([lost])) == str(told_of(lost, error)).endswith("is taken back")


def test_what_is_noted_names_the_try_and_one_of_its_accounts(scene: Scene) -> None:
    (noted,) = scene.heard_of([lost_step(attempt="p.1", subject="o/u:1", asked=(Asked("m", 5), Asked("m2", 1)))])
    assert noted == LostReply(
        id=noted.id,
        tenant="t",
        subject="o/u:1",
        metric="m",
        shard=3,
        request_id="r-1",
        attempt="p.1",
        until_ms=UNTIL_MS,
    )


def test_what_nothing_was_lost_of_writes_nothing(scene: Scene) -> None:
    scene.heard_of([lost_step(**KEYED)])
    assert scene.store.asked == []


def test_with_the_ledger_away_it_is_noted_on_the_disk(scene: Scene) -> None:
    scene.store.is_away = True
    scene.heard_of([lost_step(), lost_step(request_id="r-2", mode=Mode.HOLD)])
    scene.store.is_away = False
    asyncio.run(scene.keeping.run_once())
    assert (scene.left(), scene.spool.size()) == (["r-1", "r-2"], 0)
