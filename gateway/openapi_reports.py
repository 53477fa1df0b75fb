"""The OpenAPI document's words for reports: their query parameters, and the schemas of what they answer."""

from gateway.openapi_answers import COUNT, IDENTIFIER, INSTANT, TEXT, Schema, array, closed, or_null, reference
from gateway.report_queries import DEFAULT_BY, DEFAULT_DAYS_BY, MOST_DAYS_BY
from ledger.acts import ACTS
from quota.identifiers import MAX_AMOUNT
from quota.journal import KINDS

_CHANGE: Schema = {"type": "integer", "minimum": -MAX_AMOUNT, "maximum": MAX_AMOUNT}
_SUM: Schema = {"type": "integer", "description": "A sum may be larger than any amount"}
_METADATA: Schema = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
_DAYS = ", ".join(f"{days} days by {by}" for by, days in MOST_DAYS_BY.items())
_DEFAULT_DAYS = ", ".join(f"{days} by {by}" for by, days in DEFAULT_DAYS_BY.items())


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "required": False, "schema": schema}


_METRIC = _query("metric", "This metric alone; of one that has left the catalog, entries remain", IDENTIFIER)
_BOUNDS = [
    _query("from", "Entries of this instant and later", INSTANT),
    _query("to", "Entries before this instant", INSTANT),
]
AT = _query("at", "The balances as they stood at this instant, from the ledger; the status now if left out", INSTANT)
OF_USAGE = [
    _METRIC,
    _query("from", f"From this instant; so many days before `to` if left out: {_DEFAULT_DAYS}", INSTANT),
    _query("to", f"Up to this instant; now if left out. Not further from `from` than {_DAYS}", INSTANT),
    _query("by", "In UTC", {"enum": list(MOST_DAYS_BY), "default": DEFAULT_BY}),
]
OF_ENTRIES = [
    *_BOUNDS,
    _query("subject", "This subject alone, in the order of its journal", IDENTIFIER),
    _METRIC,
    _query("kind", "This kind alone", {"enum": list(KINDS)}),
]
OF_PERIODS = [
    _METRIC,
    _query("from", "Periods that began at this instant and later", INSTANT),
    _query("to", "Periods that began before this instant", INSTANT),
]
OF_ACTS = [
    _query("from", "Acts of this instant and later", INSTANT),
    _query("to", "Acts before this instant", INSTANT),
    _query("subject", "What was done to this subject alone", IDENTIFIER),
    _query("act", "This kind of act alone", {"enum": list(ACTS)}),
    _query("actor", "What this one did alone: a key's id, `cli`, `settings`", IDENTIFIER),
]
STREAMS = {"text/csv": {"schema": TEXT}, "application/x-ndjson": {"schema": TEXT}}
"""What `Accept` may ask for in place of pages: the whole list in one stream, cut off without its end if it fails."""

_ENTRY_ID = {**TEXT, "pattern": r"^[0-9]+\.[0-9]+-[0-9]+$"}
_PAGE = {"next_cursor": or_null(TEXT)}


_STANDING = {
    "metric": IDENTIFIER,
    "plan": or_null(IDENTIFIER),
    "used": COUNT,
    "held": COUNT,
    "period": reference("Period"),
    "entry": _ENTRY_ID,
}


def _of_entries() -> Schema:
    entry = {
        "id": _ENTRY_ID,
        "at": INSTANT,
        "subject": IDENTIFIER,
        "metric": IDENTIFIER,
        "kind": {"enum": list(KINDS)},
        "amount": COUNT,
        "change": _CHANGE,
        "used_after": COUNT,
        "receipt": or_null(TEXT),
        "request_id": or_null(TEXT),
        "idempotency_key": or_null(TEXT),
        "plan": or_null(IDENTIFIER),
        "period_start": or_null(INSTANT),
        "reason": or_null(TEXT),
        "metadata": or_null(_METADATA),
    }
    return {"Entry": closed(entry), "Entries": closed({"items": array(reference("Entry")), **_PAGE})}


def _of_usage() -> Schema:
    summed = {
        "metric": IDENTIFIER,
        "start": INSTANT,
        "end": INSTANT,
        "used": {**_SUM, "description": "By how much the entries of this time changed what was used, in all"},
        "consumed": _SUM,
        "given_back": _SUM,
        "entries": {**COUNT, "description": "Of those that changed anything"},
    }
    head = {"subject": IDENTIFIER, "by": {"enum": list(MOST_DAYS_BY)}, "from": INSTANT, "to": INSTANT}
    return {"UsageSum": closed(summed), "Usage": closed({**head, "items": array(reference("UsageSum")), **_PAGE})}


def _of_periods() -> Schema:
    sealed = {
        "subject": IDENTIFIER,
        "metric": IDENTIFIER,
        "plan": or_null(IDENTIFIER),
        "period": reference("Period"),
        "closed_at": INSTANT,
        "sealed_at": INSTANT,
        "entry": or_null(_ENTRY_ID),
        "used": {**COUNT, "description": "The closing balance: what its entries add up to"},
        "stated": {**or_null(COUNT), "description": "What the counters said when they closed it, if they did"},
        "entries": COUNT,
        "rolled_over": {**COUNT, "description": "Units that went on into the period that followed, as a grant"},
        "adjustments": {
            **closed({"entries": COUNT, "change": _CHANGE, "items": array(reference("Entry"))}),
            "description": "What was booked into the period after it was sealed; of many, the first are listed",
        },
        "used_adjusted": {"type": "integer", "description": "The closing balance with the adjustments"},
    }
    pages = closed({"items": array(reference("SealedPeriod")), **_PAGE})
    return {"SealedPeriod": closed(sealed), "SealedPeriods": pages}


def _of_acts() -> Schema:
    act = {
        "id": TEXT,
        "at": INSTANT,
        "act": {"enum": list(ACTS)},
        "actor": {**TEXT, "description": "The id of the key that asked, `cli` for an operator, or a part of ours"},
        "origin": or_null({**TEXT, "description": "From where: an address, or a person and a machine"}),
        "request_id": or_null(TEXT),
        "reason": or_null(TEXT),
        "subject": or_null(IDENTIFIER),
        "object": or_null({**TEXT, "description": "To which thing: a metric, a plan, the id of a key"}),
        "before": or_null({"type": "object"}),
        "after": or_null({"type": "object"}),
    }
    return {"Act": closed(act), "Acts": closed({"items": array(reference("Act")), **_PAGE})}


def schemas() -> Schema:
    """What the routes of reports answer, by name."""
    then = {"subject": IDENTIFIER, "at": INSTANT, "metrics": array(closed(_STANDING))}
    now_or_then = {"anyOf": [reference("Status"), reference("StatusThen")]}
    of_status = {"StatusThen": closed(then), "StatusNowOrThen": now_or_then}
    return _of_entries() | _of_usage() | of_status | _of_periods() | _of_acts()
