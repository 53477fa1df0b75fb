"""The lines of a spool's files: what is torn, what nobody can read, and what is for another version."""

import os
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway import spool
from gateway.spool import Spool
from tests.unit.outage_scene import let_through as entry
from tests.unit.outage_scene import spooled


def waiting(found: Spool) -> list[str]:
    return [each.request_id for each in spooled(found)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_a_line_that_was_torn_by_a_death_is_dropped_and_the_others_are_kept(folder: Path) -> None:
    """Nobody was told of it, so nobody need look at it."""
    folder.mkdir()
    whole = b"".join(spool._encode(entry(ident)) + b"\n" for ident in ("1", "2"))
    torn = spool._encode(entry("3"))
    for end in (1, len(torn) // 2, len(torn) - 1, len(torn)):
        (folder / f"{end}.v1.open").write_bytes(whole + torn[:end])
    assert waiting(Spool(folder)) == ["1", "2"] * 4
    assert {path.suffix for path in folder.iterdir()} == {".ndjson"}


BAD_LINES = [b"\0" * 40, b'{"type":"let_through","id":', b"", b'{"type":"unheard_of"}', b"\xff\r"]


def test_lines_that_cannot_be_read_are_set_aside_as_they_are_and_cost_no_other(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.v1.ndjson").write_bytes(
        b"\n".join([spool._encode(entry("1")), *BAD_LINES, spool._encode(entry("2")), b""])
    )
    found = Spool(folder)
    with structlog.testing.capture_logs() as told:
        assert waiting(found) == ["1", "2"]
    aside = folder / "a.v1.unreadable"
    assert [(each["log_level"], each["lines"], each["file"]) for each in told] == [("error", 5, str(aside))]
    assert waiting(found) == ["1", "2"]  # the ledger was away meanwhile: it is read once more
    assert aside.read_bytes() == b"\n".join(BAD_LINES) + b"\n"
    (path,) = found.close_files()
    found.remove(path)
    assert list(folder.iterdir()) == [aside]
    assert (found.close_files(), found.size()) == ([], 0)


def test_what_is_set_aside_is_on_the_disk_before_its_file_goes_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[int, int]] = []

    def fsync(handle: int) -> None:
        flushed.append((os.fstat(handle).st_ino, os.fstat(handle).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    folder.mkdir()
    (folder / "a.v1.ndjson").write_bytes(b"?\n")
    assert waiting(Spool(folder)) == []
    aside = (folder / "a.v1.unreadable").stat()
    assert flushed[0] == (aside.st_ino, aside.st_size)
    assert flushed[1][0] == folder.stat().st_ino  # and its name


@pytest.mark.parametrize("name", ["a.v2.open", "a.v2.ndjson", "a.open", "a.ndjson", "a.v2.unreadable"])
def test_files_of_another_version_are_left_alone(folder: Path, name: str) -> None:
    """What stands in them is for processes that know it."""
    folder.mkdir()
    (folder / name).write_bytes(spool._encode(entry("1")) + b"\n")
    found = Spool(folder)
    assert (found.close_files(), found.size()) == ([], 0)
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "zz000000-0000-0000-0000-000000000000"},
        {"tenant": "a tenant"},
        {"subject": "\x00"},
        {"at_ms": 10**17},
        {"at_ms": -1},
        {"charges": {"m": -5}},
        {"charges": {"m": 2**53}},
        {"metadata": {"a": "\x00"}},
        {"idempotency_key": "\x00"},
    ],
)
def test_a_note_that_no_table_or_script_could_take_is_set_aside(folder: Path, changes: dict[str, Any]) -> None:
    """It is sound JSON, and would keep all of its file from the ledger, or all of its tenant from being charged."""
    found = Spool(folder)
    found.append([entry("1"), entry("damaged", **changes), entry("2")])
    assert waiting(found) == ["1", "2"]
    (aside,) = folder.glob("*.unreadable")
    assert b"damaged" in aside.read_bytes()


def test_a_byte_that_is_no_text_costs_its_line_alone(folder: Path) -> None:
    folder.mkdir()
    lines = [spool._encode(entry(name)) for name in ("1", "damaged", "2")]
    lines[1] = lines[1].replace(b"damaged", b"dama\xffed")
    (folder / "a.v1.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    assert waiting(Spool(folder)) == ["1", "2"]
