"""What an outage leaves to be done, on this machine's own disk: the last resort when Postgres is away as well.

Lines of JSON, flushed to the disk before the caller hears of it. A process appends to one file `*.open`, which it keeps
locked, and closes it by renaming it to `*.ndjson`; one whose process is gone is closed by whoever looks next. A line
that cannot be read is set aside in `*.unreadable`, for people; only the last of a file may be torn.
"""

import fcntl
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from uuid import uuid4

import msgspec
import structlog

from ledger.outages import Note

MAX_SPOOL_BYTES = 256 * 1024 * 1024
"""Of one folder: some hours of a busy process; beyond it requests are refused."""
MAX_FILE_BYTES = 8 * 1024 * 1024
"""Whoever stores a file reads it whole."""
DEFAULT_PARENT = Path("/var/tmp")  # noqa: S108 - it outlives a restart of the machine, and the folder in it is closed

OPEN, CLOSED, UNREADABLE = ".v1.open", ".v1.ndjson", ".v1.unreadable"
"""With the version of what stands in them, so that an older process leaves a newer one's files alone."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Note).decode

log = structlog.get_logger()


def folder_of(store_id: str, parent: str) -> Path:
    """Of one ledger: what was let through for another one would be charged in the wrong place."""
    return Path(parent) / store_id if parent else DEFAULT_PARENT / f"quotagate-{os.getuid()}-{store_id}"


class Spool:
    """The files of one folder. Thread-safe; every method blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._path = folder
        self._other_bytes = 0

    def append(self, notes: Sequence[Note]) -> None:
        """Returns once the notes are on the disk; OSError when they cannot be."""
        with self._lock:
            file = self._file or self._opened()
            begin = file.tell()
            if self._other_bytes + begin > MAX_SPOOL_BYTES:
                raise OSError(f"{self._folder} holds as much as it may")
            lines = b"".join(_encode(note) + b"\n" for note in notes)
            try:
                if file.write(lines) != len(lines):
                    raise OSError(f"{file.name} took only a part")
                os.fsync(file.fileno())
            except OSError:
                # Nobody is told that these are kept, and nothing is appended to a file whose end is not known.
                self._file = None
                with file, suppress(OSError):
                    file.truncate(begin)
                raise
            if file.tell() >= MAX_FILE_BYTES:
                self._close()

    def _opened(self) -> FileIO:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._is_own():
            raise OSError(f"{self._folder} belongs to somebody else")
        self._other_bytes = sum(_size(path) for path in self._folder.glob(f"*{CLOSED}"))
        # Locked before anybody else can see it as one that is open.
        name = str(uuid4())
        path, opened = self._folder / name, self._folder / f"{name}{OPEN}"
        file = FileIO(path, "xb")  # unbuffered: what could not be written must not be written later
        fcntl.flock(file, fcntl.LOCK_EX)
        path.rename(opened)
        _flush_folder(self._folder)
        self._file, self._path = file, opened
        return file

    def _close(self) -> None:
        if self._file is not None:
            self._path.rename(_renamed(self._path, OPEN, CLOSED))
            self._file.close()
            self._file = None

    def _is_own(self) -> bool:
        return self._folder.is_dir() and self._folder.stat().st_uid == os.getuid()

    def size(self) -> int:
        """Bytes of the files of all processes."""
        if not self._is_own():
            return 0
        return sum(_size(path) for suffix in (OPEN, CLOSED) for path in self._folder.glob(f"*{suffix}"))

    def close_files(self) -> list[Path]:
        """Every file that no process appends to any more, this one's own too."""
        if not self._is_own():
            return []  # and nobody else's word is taken for what is to be charged
        with self._lock:
            self._close()
        for path in self._folder.glob(f"*{OPEN}"):
            _close_if_abandoned(path)
        return sorted(self._folder.glob(f"*{CLOSED}"))

    def read(self, path: Path) -> list[Note]:
        """What stands in a closed file."""
        try:
            *lines, _ = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []  # another process has stored it
        # What follows the last line's end was being written when its process died: nobody was told of it.
        found, unreadable = [], []
        for line in lines:
            try:
                found.append(_decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                unreadable.append(line)
        if unreadable:
            aside = _renamed(path, CLOSED, UNREADABLE)
            with FileIO(aside, "wb") as file:
                file.write(b"\n".join(unreadable) + b"\n")
                os.fsync(file.fileno())  # the other file goes away as soon as the rest of it is stored
            _flush_folder(self._folder)
            log.error(
                "lines of an outage cannot be read: somebody must look at them", lines=len(unreadable), file=str(aside)
            )
        return found

    def remove(self, path: Path) -> None:
        """After everything in it was stored elsewhere."""
        path.unlink(missing_ok=True)


def _renamed(path: Path, old: str, new: str) -> Path:
    return path.with_name(path.name.removesuffix(old) + new)


def _close_if_abandoned(path: Path) -> None:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rename(_renamed(path, OPEN, CLOSED))
    except (BlockingIOError, FileNotFoundError):
        return  # its process lives, or another one was faster


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # another process has stored it


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
