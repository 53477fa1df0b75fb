"""The files of archived months: a month's entries as `entries_YYYY_MM.csv.gz`, and `entries_YYYY_MM.json`, which says
what is in it. Both are written under another name, and have their own only once they are whole and on the disk.
"""

import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import msgspec
import psycopg
from psycopg import sql

from ledger.tables import entries
from quota.errors import InvalidRequest

COLUMNS = tuple(str(column.name) for column in entries.columns)
READ_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 16 << 20
MAX_FOLDER_FILES = 10_000
"""Of months: more than eight hundred years."""
ROWS_A_REPORT = 10_000

Report = Callable[[int], None]
"""Is told, now and then, how many entries were copied."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is in a month's file. `sha256` is that of the CSV before it is packed, and `file_sha256` the file's own.
    `store` names the ledger that it comes from; `places` are by shard the ranges of places: epoch, first and last n."""

    store: str
    month: str
    entries: int
    sha256: str
    file_sha256: str
    columns: tuple[str, ...]
    first_at: datetime | None
    last_at: datetime | None
    revision: str
    places: dict[str, list[tuple[int, int, int]]]


@dataclass(frozen=True, slots=True)
class Copied:
    """How many entries were copied, and the sha256 of their CSV."""

    entries: int
    sha256: str


def month_of(word: str) -> date:
    """The first day of a month such as 2026-05. InvalidRequest."""
    try:
        return datetime.strptime(word, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise InvalidRequest(f"a month must look like 2026-05, and {word} does not") from error


def name_of(month: date) -> str:
    """As people write it."""
    return f"{month:%Y-%m}"


def next_month(month: date, months: int = 1) -> date:
    """The first day of the month that comes so many later."""
    counted = month.year * 12 + month.month - 1 + months
    return date(counted // 12, counted % 12 + 1, 1)


def bounds(month: date) -> dict[str, datetime]:
    """The first instant of a month, `since`, and that of the next one, `till`."""
    since, till = (datetime(each.year, each.month, 1, tzinfo=UTC) for each in (month, next_month(month)))
    return {"since": since, "till": till}


def csv_file(folder: Path, month: date) -> Path:
    return folder / f"entries_{month:%Y_%m}.csv.gz"


def manifest_file(folder: Path, month: date) -> Path:
    return folder / f"entries_{month:%Y_%m}.json"


# In an order that depends on the entries alone, and read off the key's index.
_copy = sql.SQL(
    "COPY (SELECT {columns} FROM public.entries WHERE occurred_at >= {since} AND occurred_at < {till} "
    "ORDER BY shard, epoch, n, occurred_at) TO STDOUT WITH (FORMAT csv, HEADER true)"
)


def copied(cursor: "psycopg.Cursor[Any]", month: date, write: Callable[[memoryview], object], report: Report) -> Copied:
    """Hands a month's entries over as CSV, piece by piece; the session must speak UTC and ISO."""
    digest = sha256()
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    within = {name: sql.Literal(instant) for name, instant in bounds(month).items()}
    statement = _copy.format(columns=columns, **within)
    with cursor.copy(statement) as copy:
        for rows, block in enumerate(copy):
            digest.update(block)
            write(memoryview(block))
            if rows % ROWS_A_REPORT == 0:
                report(rows)
    report(cursor.rowcount)
    return Copied(cursor.rowcount, digest.hexdigest())


@contextmanager
def written_whole(file: Path) -> Iterator[IO[bytes]]:
    """A file that has its name only once it is whole and on the disk. InvalidRequest if it cannot be written."""
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InvalidRequest(f"cannot write {file}: {error.strerror}") from error


def write_csv(cursor: "psycopg.Cursor[Any]", folder: Path, month: date, report: Report) -> Copied:
    """Writes a month's entries; the same entries give the same bytes."""
    with (
        written_whole(csv_file(folder, month)) as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
    ):
        return copied(cursor, month, packed.write, report)


def write_manifest(folder: Path, month: date, manifest: Manifest) -> None:
    with written_whole(manifest_file(folder, month)) as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def sha256_of(file: Path) -> str:
    """InvalidRequest if it cannot be read."""
    try:
        with file.open("rb") as opened:
            digest = sha256()
            while block := opened.read(READ_BYTES):
                digest.update(block)
            return digest.hexdigest()
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror}") from error


def blocks(file: Path) -> Iterator[bytes]:
    """What is packed in it. InvalidRequest if that cannot be read."""
    try:
        with gzip.open(file, "rb") as opened:
            while block := opened.read(READ_BYTES):
                yield block
    except (OSError, EOFError) as error:
        raise InvalidRequest(f"cannot read {file}: {error}") from error


def read_manifest(folder: Path, month: date) -> Manifest:
    """InvalidRequest if there is none, or if it is not one of this month."""
    file = manifest_file(folder, month)
    try:
        with file.open("rb") as opened:
            manifest = msgspec.json.decode(opened.read(MAX_MANIFEST_BYTES), type=Manifest)
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{file} is no manifest of an archive: {error}") from error
    if manifest.month != name_of(month):
        raise InvalidRequest(f"{file} is of the month {manifest.month}")
    return manifest


def read_back(folder: Path, month: date) -> Manifest:
    """The manifest of a month, after its file was read through: InvalidRequest if one of the sums is another."""
    manifest, file = read_manifest(folder, month), csv_file(folder, month)
    if sha256_of(file) != manifest.file_sha256:
        raise InvalidRequest(f"{file} is not what its manifest says: its sha256 is another")
    digest = sha256()
    for block in blocks(file):
        digest.update(block)
    if digest.hexdigest() != manifest.sha256:
        raise InvalidRequest(f"{file} is not what its manifest says: the sha256 of its CSV is another")
    return manifest


def months_in(folder: Path) -> list[date]:
    """The months that a folder has manifests of, oldest first. InvalidRequest if it cannot be read."""
    try:
        names = sorted(each.name for each in folder.iterdir())
    except OSError as error:
        raise InvalidRequest(f"cannot read {folder}: {error.strerror}") from error
    if len(names) > MAX_FOLDER_FILES:
        raise InvalidRequest(f"{folder} has more than {MAX_FOLDER_FILES:,} files: it is no folder of archived months")
    found = []
    for name in names:
        word = name.removeprefix("entries_").removesuffix(".json").replace("_", "-")
        if name == f"entries_{word.replace('-', '_')}.json":
            found.append(month_of(word))
    return sorted(found)
