"""What this machine's disk kept while the ledger was away goes to the ledger."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from gateway import keeping as module
from ledger import outages
from ledger.outages import Note
from quota.errors import LedgerUnavailable
from tests.unit.keeping_scene import Scene, run, scene_in
from tests.unit.outage_scene import let_through


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with scene_in(tmp_path, monkeypatch) as scene:
        yield scene


def test_it_goes_to_the_ledger_in_pieces_and_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 10)
    names = [f"{n}" for n in range(25)]
    scene.disk.append([let_through(each) for each in names])
    run(scene.keeping.run_once())
    run(scene.keeping.run_once())
    assert scene.ledger.writes == [names[:10], names[10:20], names[20:]]
    assert scene.disk.size() == 0


def test_while_the_ledger_is_away_no_file_is_closed_and_none_is_read(scene: Scene) -> None:
    scene.disk.append([let_through("1")])
    scene.ledger.is_away = True
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            run(scene.keeping.run_once())
    assert [path.suffix for path in scene.disk._folder.iterdir()] == [".open"]


def test_a_ledger_that_goes_away_meanwhile_gets_the_whole_file_once_more(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", 1)
    scene.disk.append([let_through("1"), let_through("2")])
    keep = scene.ledger._keep

    def break_down(notes: Sequence[Note]) -> None:
        keep(notes)
        scene.ledger.is_away = bool(notes)

    scene.ledger.statements = {outages.keep: break_down}
    with pytest.raises(LedgerUnavailable):
        run(scene.keeping.run_once())
    scene.ledger.is_away, scene.ledger.statements = False, {outages.keep: keep}
    run(scene.keeping.run_once())
    assert scene.ledger.writes == [["1"], ["1"], ["2"]]
    assert scene.disk.size() == 0


def test_a_file_that_cannot_be_stored_keeps_no_other_waiting(scene: Scene) -> None:
    for ident in ("bad", "1", "bad", "2"):
        scene.disk.append([let_through(ident)])
        scene.disk.close_files()
    keep = scene.ledger._keep

    def refuse(notes: Sequence[Note]) -> None:
        if any(each.request_id == "bad" for each in notes):
            raise ZeroDivisionError
        keep(notes)

    scene.ledger.statements = {outages.keep: refuse}
    with pytest.raises(ZeroDivisionError):
        run(scene.keeping.run_once())
    assert sorted(scene.ledger.writes) == [["1"], ["2"]]
    assert scene.spooled() == ["bad"] * 2


def test_how_much_waits_is_told(scene: Scene) -> None:
    scene.disk.append([let_through("1")])
    scene.ledger.is_away = True
    with pytest.raises(LedgerUnavailable):
        run(scene.keeping.run_once())
    assert REGISTRY.get_sample_value("quotagate_spooled_bytes") == scene.disk.size() > 0


def test_while_nothing_is_there_nobody_is_asked(scene: Scene) -> None:
    run(scene.keeping.run_once())
    assert scene.ledger.begun == 0


def test_it_is_looked_for_for_as_long_as_the_process_lives(scene: Scene) -> None:
    async def come_back() -> None:
        scene.ledger.is_away = True
        await scene.told("1")
        going_on = asyncio.create_task(scene.keeping.keep_going())
        await asyncio.sleep(10)
        scene.ledger.is_away = False
        await asyncio.sleep(1)
        going_on.cancel()

    run(come_back())
    assert scene.ledger.writes == [["1"]]
