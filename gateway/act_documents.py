"""Acts of the audit log as callers read them: lines of CSV and NDJSON. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway import csv_cells
from gateway.report_documents import CSV, NDJSON, Streamed
from ledger.act_reading import MEMBERS, act_document

_encoder = msgspec.json.Encoder()


def csv_row(row: Any) -> list[str | int | None]:
    """One act's cells; before and after are one cell of JSON each."""
    document = act_document(row)
    told = {name: document[name] for name in ("before", "after") if document[name] is not None}
    return list((document | {name: _encoder.encode(value).decode() for name, value in told.items()}).values())


def csv_of_acts(rows: Sequence[Any]) -> bytes:
    """Lines without the header."""
    return csv_cells.lines(map(csv_row, rows))


def ndjson_of_acts(rows: Sequence[Any]) -> bytes:
    """Each act a line of JSON."""
    return _encoder.encode_lines([act_document(row) for row in rows])


STREAMED = {
    CSV: Streamed(CSV, "audit_log.csv", csv_cells.lines([MEMBERS]), csv_of_acts),
    NDJSON: Streamed(NDJSON, "audit_log.ndjson", b"", ndjson_of_acts),
}
"""Of each type that acts are streamed in."""
