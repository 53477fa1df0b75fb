"""Rows of the ledger's reports as callers read them: entries, sums, balances at an instant, sealed periods. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway import csv_cells
from gateway.answers import period_document
from ledger.instants import from_timestamp
from ledger.reports import usage_end_ms
from ledger.sealed_reports import SealedPeriod
from quota.handles import Receipt
from quota.periods import Period, PeriodKind, to_rfc3339

ENTRY_MEMBERS = (
    *("id", "at", "subject", "metric", "kind", "amount", "change", "used_after", "receipt", "request_id"),
    *("idempotency_key", "plan", "period_start", "reason", "metadata"),
)
JSON = "application/json"
CSV = "text/csv"
NDJSON = "application/x-ndjson"
_WITH_RECEIPT = {"consume", "commit"}

_encoder = msgspec.json.Encoder()


def entry_id(shard: int, epoch: int, n: int) -> str:
    return f"{shard}.{epoch}-{n}"


def entry_document(row: Any) -> dict[str, Any]:
    """One line of the ledger. Only what was taken has a receipt that something can be given back by."""
    place = (row.shard, row.epoch, row.receipt_first_n, row.receipt_count)
    is_lifetime = row.period_kind == PeriodKind.LIFETIME
    return {
        "id": entry_id(row.shard, row.epoch, row.n),
        "at": to_rfc3339(from_timestamp(row.occurred_at)),
        "subject": row.subject,
        "metric": row.metric,
        "kind": row.kind,
        "amount": row.amount,
        "change": row.change,
        "used_after": row.used_after,
        "receipt": str(Receipt(*place)) if row.kind in _WITH_RECEIPT else None,
        "request_id": row.request_id,
        "idempotency_key": row.idempotency_key,
        "plan": row.plan,
        "period_start": None if is_lifetime else to_rfc3339(from_timestamp(row.period_start)),
        "reason": row.reason,
        "metadata": row.metadata,
    }


def usage_document(row: Any, by: str) -> dict[str, Any]:
    """One metric's sums of one hour, day or month."""
    start_ms = from_timestamp(row.start)
    return {
        "metric": row.metric,
        "start": to_rfc3339(start_ms),
        "end": to_rfc3339(usage_end_ms(by, start_ms)),
        "used": int(row.used),
        "consumed": int(row.consumed),
        "given_back": int(row.given_back),
        "entries": row.entries,
    }


def standing_document(row: Any) -> dict[str, Any]:
    """One account as it stood at an instant."""
    return {
        "metric": row.metric,
        "plan": row.plan,
        "used": int(row.used),
        "held": int(row.held),
        "period": _period(row),
        "entry": entry_id(row.shard, row.epoch, row.n),
    }


def seal_document(sealed: SealedPeriod) -> dict[str, Any]:
    """One sealed period: its closing balance, what went on from it, and what was booked into it afterwards."""
    row, change = sealed.row, int(sealed.row.late_change)
    return {
        "subject": row.subject,
        "metric": row.metric,
        "plan": row.plan,
        "period": _period(row),
        "closed_at": to_rfc3339(from_timestamp(row.closed_at)),
        "sealed_at": to_rfc3339(from_timestamp(row.sealed_at)),
        "entry": entry_id(row.shard, row.epoch, row.n) if row.entries else None,
        "used": row.used,
        "stated": row.stated,
        "entries": row.entries,
        "rolled_over": row.rolled_over,
        "adjustments": {
            "entries": row.late_entries,
            "change": change,
            "items": [entry_document(each) for each in sealed.adjustments],
        },
        "used_adjusted": row.used + change,
    }


def _period(row: Any) -> dict[str, Any]:
    end_ms = None if row.period_end is None else from_timestamp(row.period_end)
    return period_document(Period(PeriodKind(row.period_kind), from_timestamp(row.period_start), end_ms))


def csv_of_entries(rows: Sequence[Any]) -> bytes:
    """Lines without the header; metadata is one cell of JSON."""
    return csv_cells.lines(map(_csv_row, rows))


def ndjson_of_entries(rows: Sequence[Any]) -> bytes:
    """Each entry a line of JSON."""
    return _encoder.encode_lines([entry_document(row) for row in rows])


def _csv_row(row: Any) -> list[str | int | None]:
    document = entry_document(row)
    if row.metadata is not None:
        document["metadata"] = _encoder.encode(row.metadata).decode()
    return list(document.values())


@dataclass(frozen=True, slots=True)
class Streamed:
    """How a list is streamed in one type: the file that it makes, what comes first, and how rows are written."""

    media: str
    file_name: str
    head: bytes
    write: Callable[[Sequence[Any]], bytes]


STREAMED = {
    CSV: Streamed(CSV, "entries.csv", csv_cells.lines([ENTRY_MEMBERS]), csv_of_entries),
    NDJSON: Streamed(NDJSON, "entries.ndjson", b"", ndjson_of_entries),
}
"""Of each type that entries are streamed in."""
