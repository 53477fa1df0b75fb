"""What was let through in an outage, on this machine's own disk: the last resort when Postgres is away as well.

Lines of JSON, flushed to the disk before the caller hears of it. A process appends to one file `*.open`, which it keeps
locked, and closes it by renaming it to `*.ndjson`; one whose process is gone is closed by whoever looks next.
"""

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from uuid import uuid4

import msgspec

from ledger.outages import LetThrough

MAX_SPOOL_BYTES = 256 * 1024 * 1024
"""Of one folder: some hours of a busy process; beyond it requests are refused."""
DEFAULT_PARENT = Path("/var/tmp")  # noqa: S108 - it outlives a restart of the machine, and the folder in it is closed

OPEN, CLOSED = ".open", ".ndjson"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LetThrough).decode


def default_folder() -> Path:
    """Where nothing else is said."""
    return DEFAULT_PARENT / f"quotagate-{os.getuid()}"


class Spool:
    """The files of one folder. Thread-safe; every method blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._path = folder
        self._other_bytes = 0

    def append(self, entries: Sequence[LetThrough]) -> None:
        """Returns once the entries are on the disk; OSError when they cannot be."""
        with self._lock:
            file = self._file or self._opened()
            begin = file.tell()
            if self._other_bytes + begin > MAX_SPOOL_BYTES:
                raise OSError(f"{self._folder} holds as much as it may")
            lines = b"".join(_encode(entry) + b"\n" for entry in entries)
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

    def _opened(self) -> FileIO:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._is_own():
            raise OSError(f"{self._folder} belongs to somebody else")
        self._other_bytes = sum(_size(path) for path in self._folder.glob(f"*{CLOSED}"))
        # Locked before anybody else can see it as one that is open.
        path = self._folder / f"let-through-{uuid4()}"
        file = FileIO(path, "xb")  # unbuffered: what could not be written must not be written later
        fcntl.flock(file, fcntl.LOCK_EX)
        path.rename(path.with_suffix(OPEN))
        _flush_folder(self._folder)
        self._file, self._path = file, path.with_suffix(OPEN)
        return file

    def _is_own(self) -> bool:
        return self._folder.is_dir() and self._folder.stat().st_uid == os.getuid()

    def has_any(self) -> bool:
        """Whether there is a file of any process."""
        return self._is_own() and any(True for suffix in (OPEN, CLOSED) for _ in self._folder.glob(f"*{suffix}"))

    def waiting(self) -> list[tuple[Path, list[LetThrough]]]:
        """Every file that no process appends to any more, this one's own too, and what stands in it."""
        if not self._is_own():
            return []  # and nobody else's word is taken for what was let through
        with self._lock:
            if self._file is not None:
                self._path.rename(self._path.with_suffix(CLOSED))
                self._file.close()
                self._file = None
        for path in self._folder.glob(f"*{OPEN}"):
            _close_if_abandoned(path)
        return [(path, list(_read(path))) for path in sorted(self._folder.glob(f"*{CLOSED}"))]

    def remove(self, path: Path) -> None:
        """After everything in it was stored elsewhere."""
        path.unlink(missing_ok=True)


def _close_if_abandoned(path: Path) -> None:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rename(path.with_suffix(CLOSED))
    except (BlockingIOError, FileNotFoundError):
        return  # its process lives, or another one was faster


def _read(path: Path) -> Iterator[LetThrough]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return  # another process has stored it
    for line in lines:
        with suppress(msgspec.MsgspecError):  # the process died in the middle of this line: nobody was told of it
            yield _decode(line)


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
