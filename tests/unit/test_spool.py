"""The spool: what an outage leaves to be done stands on the disk before anybody hears of it, whatever becomes of the
process.
"""

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
from uuid import uuid4

import pytest

from gateway import spool
from gateway.spool import Spool
from ledger.outages import LetThrough, LostReply, Note
from quota.periods import LATEST_MS
from tests.unit.outage_scene import let_through as entry
from tests.unit.outage_scene import lost_reply, spooled

ROOT = Path(__file__).parents[2]
APPENDING = """
import sys
from pathlib import Path
from gateway.spool import Spool
from tests.unit.outage_scene import let_through
spool = Spool(Path(sys.argv[1]))
spool.append([let_through("of another process")])
print("appended", flush=True)
sys.stdin.read()
"""


def waiting(found: Spool) -> list[str]:
    return [each.request_id for each in spooled(found)]


def file_of(found: Spool) -> tuple[Path, list[Note]]:
    """The only one, which is closed by this, and what stands in it."""
    (path,) = found.close_files()
    return path, found.read(path)


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
        id=str(uuid4()),
        tenant="t",
        subject="org/a:b",
        at_ms=2,
        charges={"a": 5, "b": 1},
        request_id="ü\n\u2028",
        operation="reel",
        metadata={"n": 1.5},
        idempotency_key="k",
        route="consume/batch",
        fingerprint="f",
    )
    lost = LostReply(
        id=str(uuid4()),
        tenant="t",
        subject="u",
        metric="m",
        shard=3,
        request_id="r",
        attempt="p.1#2",
        until_ms=LATEST_MS,
    )
    found.append([whole, lost, entry("3")])
    found.append([lost_reply("4")])
    path, notes = file_of(found)
    assert notes == [whole, lost, entry("3"), lost_reply("4")]
    found.remove(path)
    found.remove(path)
    assert (found.close_files(), found.read(path)) == ([], [])
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_not_there_holds_nothing_and_is_not_made_by_looking(folder: Path) -> None:
    assert (Spool(folder).close_files(), Spool(folder).size()) == ([], 0)
    assert not folder.exists()


def test_the_folder_is_nobody_elses_to_read(folder: Path) -> None:
    found = Spool(folder)
    found.append([entry("1")])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert waiting(found) == ["1"]


def test_its_size_counts_every_byte_from_the_first_append_to_the_last_removal(
    folder: Path, other: "subprocess.Popen[str]"
) -> None:
    found = Spool(folder)
    theirs = found.size()
    assert theirs == len(spool._encode(entry("of another process"))) + 1
    for _ in range(2):
        found.append([entry("1")])
        found.close_files()
    found.append([entry("1")])
    assert found.size() == theirs + 3 * (len(spool._encode(entry("1"))) + 1)
    for path in found.close_files():
        found.remove(path)
    assert found.size() == theirs
    assert other.poll() is None


def test_what_comes_after_a_look_goes_into_a_file_of_its_own(folder: Path) -> None:
    found = Spool(folder)
    found.append([entry("1")])
    first, _ = file_of(found)
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
    assert other.poll() is None


def test_the_file_of_a_process_that_was_killed_is_taken_over(folder: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait(30)
    found = Spool(folder)
    assert waiting(found) == ["of another process"]
    assert list(folder.glob("*.open")) == []
    assert waiting(Spool(folder)) == ["of another process"]


def test_a_file_is_closed_when_it_is_long_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stores it reads it whole."""
    monkeypatch.setattr(spool, "MAX_FILE_BYTES", 2 * (len(spool._encode(entry("1"))) + 1))
    found = Spool(folder)
    for ident in ("1", "2", "3", "4", "5"):
        found.append([entry(ident)])
    assert sorted(path.suffix for path in folder.iterdir()) == [".ndjson", ".ndjson", ".open"]
    assert sorted(waiting(found)) == ["1", "2", "3", "4", "5"]


def test_a_folder_of_somebody_else_is_neither_written_nor_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may make a folder of that name under /var/tmp, and write charges into it."""
    folder.mkdir()
    (folder / "a.v1.ndjson").write_bytes(spool._encode(entry("made up")) + b"\n")
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    found = Spool(folder)
    with pytest.raises(OSError, match="belongs to somebody else"):
        found.append([entry("1")])
    assert (found.close_files(), found.size()) == ([], 0)
    assert [path.name for path in folder.iterdir()] == ["a.v1.ndjson"]


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
        found.close_files()
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
    path = folder / "a.v1.open"
    path.write_bytes(spool._encode(entry("1")) + b"\n")
    with path.open("rb") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        assert waiting(Spool(folder)) == []
    assert waiting(Spool(folder)) == waiting(Spool(folder)) == ["1"]
