"""The spool: what was let through stands on the disk before anybody hears of it, whatever becomes of the process."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from gateway import spool
from gateway.spool import Spool
from ledger.outages import LetThrough

ROOT = Path(__file__).parents[2]
APPENDING = """
import sys
from pathlib import Path
from gateway.spool import Spool
from tests.unit.test_spool import entry
spool = Spool(Path(sys.argv[1]))
spool.append([entry("of another process")])
print("appended", flush=True)
sys.stdin.read()
"""


def entry(ident: str, subject: str = "u") -> LetThrough:
    return LetThrough(id=ident, tenant="t", subject=subject, at_ms=1, charges={"m": 5}, request_id="r")


def waiting(found: Spool) -> list[str]:
    return [each.id for _, entries in found.waiting() for each in entries]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def other(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has appended one entry, and lives."""
    command = [sys.executable, "-c", APPENDING, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "appended\n"
        yield process
        process.kill()


def test_what_was_appended_waits_in_its_order_until_it_is_removed(folder: Path) -> None:
    found = Spool(folder)
    whole = LetThrough(
        id="1",
        tenant="t",
        subject="ü\n\u2028",
        at_ms=2,
        charges={"a": 5, "b": 1},
        request_id="r",
        operation="reel",
        metadata={"n": 1.5},
        idempotency_key="k",
        fingerprint="f",
    )
    found.append([whole, entry("2")])
    found.append([entry("3")])
    ((path, entries),) = found.waiting()
    assert entries == [whole, entry("2"), entry("3")]
    assert waiting(found) == ["1", "2", "3"]
    found.remove(path)
    found.remove(path)
    assert found.waiting() == []
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_not_there_holds_nothing_and_is_not_made_by_looking(folder: Path) -> None:
    assert (Spool(folder).waiting(), Spool(folder).has_any()) == ([], False)
    assert not folder.exists()


def test_the_folder_is_nobody_elses_to_read(folder: Path) -> None:
    found = Spool(folder)
    found.append([entry("1")])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert waiting(found) == ["1"]


def test_there_is_something_from_the_first_append_to_the_last_removal(folder: Path) -> None:
    found = Spool(folder)
    found.append([entry("1")])
    assert found.has_any()
    ((path, _),) = found.waiting()
    assert found.has_any()
    found.remove(path)
    assert not found.has_any()


def test_what_comes_after_a_look_goes_into_a_file_of_its_own(folder: Path) -> None:
    found = Spool(folder)
    found.append([entry("1")])
    ((first, _),) = found.waiting()
    found.append([entry("2")])
    found.remove(first)
    assert waiting(found) == ["2"]


def test_an_append_returns_after_the_disk_has_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[bool, int]] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        flushed.append((stat.S_ISDIR(os.fstat(handle).st_mode), os.fstat(handle).st_size))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    found = Spool(folder)
    found.append([entry("1")])
    assert [is_folder for is_folder, _ in flushed] == [True, False]  # the file's name, then what stands in it
    (file,) = folder.iterdir()
    assert flushed[-1][1] == file.stat().st_size > 0
    found.append([entry("2")])
    assert flushed[-1][1] == file.stat().st_size
    assert len(flushed) == 3
    assert waiting(found) == ["1", "2"]


def test_the_file_of_a_process_that_lives_is_left_alone(folder: Path, other: subprocess.Popen[str]) -> None:
    found = Spool(folder)
    found.append([entry("mine")])
    assert waiting(found) == ["mine"]
    assert len(list(folder.glob("*.open"))) == 1
    assert found.has_any()
    assert other.poll() is None


def test_the_file_of_a_process_that_was_killed_is_taken_over(folder: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait(30)
    found = Spool(folder)
    assert waiting(found) == ["of another process"]
    assert list(folder.glob("*.open")) == []
    assert waiting(Spool(folder)) == ["of another process"]


def test_a_line_that_was_torn_by_a_death_is_dropped_and_the_others_are_kept(folder: Path) -> None:
    folder.mkdir()
    whole = b"".join(spool._encode(entry(ident)) + b"\n" for ident in ("1", "2"))
    torn = spool._encode(entry("3"))
    for end in (1, len(torn) // 2, len(torn) - 1):
        (folder / f"{end}.open").write_bytes(whole + torn[:end])
    assert waiting(Spool(folder)) == ["1", "2"] * 3


def test_a_damaged_line_costs_no_other(folder: Path) -> None:
    folder.mkdir()
    lines = [spool._encode(entry("1")), b"\0" * 40, spool._encode(entry("2"))]
    (folder / "a.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    assert waiting(Spool(folder)) == ["1", "2"]


def test_a_folder_of_somebody_else_is_neither_written_nor_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may make a folder of that name under /var/tmp, and write charges into it."""
    folder.mkdir()
    (folder / "a.ndjson").write_bytes(spool._encode(entry("made up")) + b"\n")
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    found = Spool(folder)
    with pytest.raises(OSError, match="belongs to somebody else"):
        found.append([entry("1")])
    assert (found.waiting(), found.has_any()) == ([], False)
    assert [path.name for path in folder.iterdir()] == ["a.ndjson"]


def test_beyond_its_size_a_spool_refuses_and_what_it_has_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Spool(folder)
    found.append([entry("1")])
    monkeypatch.setattr(spool, "MAX_SPOOL_BYTES", 10)
    with pytest.raises(OSError, match="as much as it may"):
        found.append([entry("2")])
    assert waiting(found) == ["1"]


def test_files_that_were_closed_count_as_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Postgres is away a file is closed at every look: without this, a spool would grow for ever."""
    found = Spool(folder)
    monkeypatch.setattr(spool, "MAX_SPOOL_BYTES", len(spool._encode(entry("1"))) * 3)
    for ident in ("1", "2", "3"):
        found.append([entry(ident)])
        found.waiting()
    with pytest.raises(OSError, match="as much as it may"):
        found.append([entry("4")])
    assert sorted(waiting(found)) == ["1", "2", "3"]


class Full(FileIO):
    """A file on a disk that has room for so many bytes more."""

    room = 0

    def write(self, data: Any) -> int:
        taken = super().write(bytes(data)[: Full.room])
        Full.room -= taken
        if taken == 0:
            raise OSError(28, "No space left on device")
        return taken


@pytest.mark.parametrize("room", [0, 1, 40])
def test_what_did_not_fit_on_the_disk_is_not_kept_in_part_nor_written_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(spool, "FileIO", Full)
    found = Spool(folder)
    Full.room = 10_000
    found.append([entry("1")])
    Full.room = room
    with pytest.raises(OSError):
        found.append([entry("refused")])
    Full.room = 10_000
    found.append([entry("2")])
    assert sorted(waiting(found)) == ["1", "2"]


def test_what_could_not_be_flushed_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Spool(folder)
    found.append([entry("1")])
    real = os.fsync

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output error"):
        found.append([entry("refused")])
    monkeypatch.setattr(os, "fsync", real)
    found.append([entry("2")])
    assert sorted(waiting(found)) == ["1", "2"]


def test_two_that_look_at_once_take_a_file_over_once(folder: Path) -> None:
    folder.mkdir()
    path = folder / "a.open"
    path.write_bytes(spool._encode(entry("1")) + b"\n")
    with path.open("rb") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        assert waiting(Spool(folder)) == []
    assert waiting(Spool(folder)) == waiting(Spool(folder)) == ["1"]
