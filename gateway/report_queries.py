"""What the reports are asked for: query parameters, each checked. Pure."""

from dataclasses import dataclass

from litestar.datastructures import MultiDict

from gateway.bodies import MAX_REASON_CHARACTERS
from gateway.paging import single
from ledger.acts import ACTS
from quota.errors import InvalidRequest
from quota.identifiers import checked_identifier
from quota.journal import KINDS
from quota.periods import DAY_MS, EARLIEST_MS, LATEST_MS, from_rfc3339

MOST_DAYS_BY = {"hour": 31, "day": 366, "month": 3_660}
"""How long a time usage is summed up for: a thousand sums a metric at the most, and a scan of its entries to match."""
DEFAULT_DAYS_BY = {"hour": 1, "day": 30, "month": 365}
DEFAULT_BY = "day"


@dataclass(frozen=True, slots=True)
class Range:
    """From an instant, with it, to another, without it; None is open."""

    from_ms: int | None
    to_ms: int | None


def reason_in(query: MultiDict[str]) -> str | None:
    """Why something is done, None if it was left out. InvalidRequest."""
    value = single(query, "reason")
    if value is not None and (not 1 <= len(value) <= MAX_REASON_CHARACTERS or "\0" in value):
        words = f"a reason has 1 to {MAX_REASON_CHARACTERS} characters, and no U+0000 among them"
        raise InvalidRequest(words, field="reason")
    return value


def flag_in(query: MultiDict[str], name: str) -> bool:
    """Whether something is wanted; it is not if it was left out. InvalidRequest."""
    value = single(query, name)
    if value not in {None, "true", "false"}:
        raise InvalidRequest(f"{name} is true or false", field=name)
    return value == "true"


def identifier_in(query: MultiDict[str], name: str) -> str | None:
    """An identifier, None if it was left out. InvalidRequest."""
    value = single(query, name)
    return None if value is None else checked_identifier(value, name)


def kind_in(query: MultiDict[str]) -> str | None:
    """A kind of entry, None if it was left out. InvalidRequest."""
    value = single(query, "kind")
    if value is not None and value not in KINDS:
        raise InvalidRequest(f"kind is one of {', '.join(KINDS)}", field="kind")
    return value


def act_in(query: MultiDict[str]) -> str | None:
    """A kind of administrative act, None if it was left out. InvalidRequest."""
    value = single(query, "act")
    if value is not None and value not in ACTS:
        raise InvalidRequest(f"act is one of {', '.join(ACTS)}", field="act")
    return value


def by_in(query: MultiDict[str]) -> str:
    """How usage is summed up. InvalidRequest."""
    value = single(query, "by")
    if value is not None and value not in MOST_DAYS_BY:
        raise InvalidRequest(f"by is one of {', '.join(MOST_DAYS_BY)}", field="by")
    return value or DEFAULT_BY


def instant_in(query: MultiDict[str], name: str) -> int | None:
    """An instant in Unix milliseconds, None if it was left out. InvalidRequest."""
    text = single(query, name)
    if text is None:
        return None
    try:
        instant_ms = from_rfc3339(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {error}", field=name) from error
    if not EARLIEST_MS <= instant_ms <= LATEST_MS:
        raise InvalidRequest(f"{name}: an instant must lie in the years 0002 to 9998", field=name)
    return instant_ms


def past_instant_in(query: MultiDict[str], name: str, now_ms: int) -> int | None:
    """An instant that is not to come, None if it was left out. InvalidRequest."""
    instant_ms = instant_in(query, name)
    if instant_ms is not None and instant_ms > now_ms:
        raise InvalidRequest(f"{name} lies in the future", field=name)
    return instant_ms


def range_in(query: MultiDict[str]) -> Range:
    """`from` and `to`. InvalidRequest."""
    found = Range(instant_in(query, "from"), instant_in(query, "to"))
    _check_order(found.from_ms, found.to_ms)
    return found


def usage_range_in(query: MultiDict[str], by: str, now_ms: int) -> tuple[int, int]:
    """`from` and `to`, of which both may be left out; not longer than sums by `by` may reach. InvalidRequest."""
    to_ms = instant_in(query, "to")
    to_ms = now_ms if to_ms is None else to_ms
    from_ms = instant_in(query, "from")
    from_ms = max(EARLIEST_MS, to_ms - DEFAULT_DAYS_BY[by] * DAY_MS) if from_ms is None else from_ms
    _check_order(from_ms, to_ms)
    if to_ms - from_ms > MOST_DAYS_BY[by] * DAY_MS:
        raise InvalidRequest(f"by {by}, from and to may lie {MOST_DAYS_BY[by]} days apart at most", field="from")
    return from_ms, to_ms


def _check_order(from_ms: int | None, to_ms: int | None) -> None:
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise InvalidRequest("from must lie before to", field="from")
