"""Where an export goes: a file, which is cut off where a job that goes on had come, or standard output."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from gateway import csv_cells
from gateway.report_documents import ENTRY_MEMBERS, entry_document
from quota.errors import InvalidRequest

MEMBERS = ("tenant", *ENTRY_MEMBERS, "late")
_encoder = msgspec.json.Encoder()


class Output:
    """Bound to a file, or to standard output if it is None; counts what it writes."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._stream: IO[bytes] = sys.stdout.buffer
        self.written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.file is not None and self._stream is not sys.stdout.buffer:
            self._stream.close()

    def begin(self, written: int) -> None:
        """Opens the file; what stands there behind so many bytes was not noted, and is written again."""
        self.written = written
        if self.file is None:
            return
        try:
            self._stream = self.file.open("r+b" if written else "wb")
            if self._stream.seek(0, 2) < written:
                raise InvalidRequest(f"{self.file} is shorter than what was written of this export: name the same file")
            self._stream.truncate(written)
            self._stream.seek(written)
        except OSError as error:
            raise InvalidRequest(f"cannot write {self.file}: {error.strerror}") from error

    def write(self, rows: Sequence[Any], form: str) -> None:
        """Adds entries; it is written when this returns."""
        documents = [{"tenant": row.tenant, **entry_document(row), "late": row.is_late} for row in rows]
        if form == "csv":
            header = csv_cells.lines([MEMBERS]) if self.written == 0 else b""
            page = header + csv_cells.lines([_cells(each) for each in documents])
        else:
            page = _encoder.encode_lines(documents)
        self._stream.write(page)
        self._stream.flush()
        self.written += len(page)


def _cells(document: dict[str, Any]) -> list[str | int | None]:
    words = document | {"late": "true" if document["late"] else "false"}
    if document["metadata"] is not None:
        words["metadata"] = _encoder.encode(document["metadata"]).decode()
    return [words[name] for name in MEMBERS]
