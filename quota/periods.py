"""Periods: the windows an allowance holds for, and the instants that bound them.

All of it is integer arithmetic in Unix milliseconds on the proleptic Gregorian calendar in UTC. Leap seconds do not
exist here, as they do not in Redis's TIME.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from quota.errors import InvalidRequest

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
EPOCH_MONDAY_OFFSET_MS = 3 * DAY_MS
"""1 January 1970 was a Thursday: the Monday of its week lies three days before it."""

MONTHS_A_YEAR = 12
FEBRUARY = 2

_EPOCH = datetime(1970, 1, 1)
_EPOCH_ORDINAL = _EPOCH.toordinal()
_DAYS_IN_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

EARLIEST_MS = (date(2, 1, 1).toordinal() - _EPOCH_ORDINAL) * DAY_MS
LATEST_MS = (date(9999, 1, 1).toordinal() - _EPOCH_ORDINAL) * DAY_MS - 1
"""Periods are known from year 2 through 9998: one year less at each end than four digits can write, so that both
bounds of every period can be written."""

# RFC 3339, section 5.6, without its leap second (the calendar here has none). ASCII digits only: \d takes others too.
_rfc3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))\Z"
)


class PeriodKind(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"
    LIFETIME = "lifetime"


@dataclass(frozen=True, slots=True)
class Period:
    """The half-open window [start_ms, end_ms) in Unix milliseconds; a lifetime starts at 0 and has no end."""

    kind: PeriodKind
    start_ms: int
    end_ms: int | None


@lru_cache(maxsize=1_024)  # whoever asks for many accounts asks of one instant
def period_at(kind: PeriodKind, at_ms: int, anchor_ms: int | None = None) -> Period:
    """The period of this kind that the instant lies in.

    Months and years run from the anchor's day and time of day, in both directions. A day that a month does not have
    becomes its last one, for that month only. Days and weeks are UTC's, with or without an anchor. InvalidRequest
    outside of EARLIEST_MS to LATEST_MS.
    """
    if kind is PeriodKind.LIFETIME:
        return Period(kind, 0, None)
    if not EARLIEST_MS <= at_ms <= LATEST_MS:
        raise InvalidRequest("an instant must lie in the years 0002 to 9998")
    if kind is PeriodKind.DAY:
        start_ms = at_ms - at_ms % DAY_MS
        return Period(kind, start_ms, start_ms + DAY_MS)
    if kind is PeriodKind.WEEK:
        start_ms = at_ms - (at_ms + EPOCH_MONDAY_OFFSET_MS) % WEEK_MS
        return Period(kind, start_ms, start_ms + WEEK_MS)
    # The calendar's own months and years are those anchored at the epoch: 1 January, midnight.
    return _anchored_period(kind, at_ms, 0 if anchor_ms is None else anchor_ms)


def to_rfc3339(instant_ms: int) -> str:
    """Such as 2026-11-01T00:00:00Z, with milliseconds only when there are any."""
    timespec = "milliseconds" if instant_ms % 1000 else "seconds"
    return (_EPOCH + timedelta(milliseconds=instant_ms)).isoformat(timespec=timespec) + "Z"


def from_rfc3339(text: str) -> int:
    """Unix milliseconds of an instant with a Z or an offset; what is finer than a millisecond is cut off.

    InvalidRequest when the zone is missing, or when there is no such instant in the years 0001 to 9999 of UTC.
    """
    match = _rfc3339.match(text)
    if match is None:
        raise InvalidRequest("an instant must look like 2026-11-01T00:00:00Z, with Z or an offset such as +02:00")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    offset = timedelta(hours=int(offset_hours or 0), minutes=int(offset_minutes or 0))
    try:
        local = datetime(year, month, day, hour, minute, second)
        instant = local + offset if sign == "-" else local - offset
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"there is no such instant: {error}") from error
    return (instant - _EPOCH) // timedelta(milliseconds=1) + int((fraction or "0")[:3].ljust(3, "0"))


def _anchored_period(kind: PeriodKind, at_ms: int, anchor_ms: int) -> Period:
    anchor = date.fromordinal(_EPOCH_ORDINAL + anchor_ms // DAY_MS)
    time_of_day_ms = anchor_ms % DAY_MS
    at = date.fromordinal(_EPOCH_ORDINAL + at_ms // DAY_MS)
    if kind is PeriodKind.MONTH:
        step, month = 1, at.month
    else:
        step, month = MONTHS_A_YEAR, anchor.month
    # Months are counted on from year 0, and each bound is made from the anchor, never from the bound before it:
    # that is how a 31st comes back after February.
    index = at.year * MONTHS_A_YEAR + month - 1
    bound_ms = _bound_ms(index, anchor.day, time_of_day_ms)
    if at_ms < bound_ms:
        return Period(kind, _bound_ms(index - step, anchor.day, time_of_day_ms), bound_ms)
    return Period(kind, bound_ms, _bound_ms(index + step, anchor.day, time_of_day_ms))


def _bound_ms(index: int, anchor_day: int, time_of_day_ms: int) -> int:
    year, month = index // MONTHS_A_YEAR, index % MONTHS_A_YEAR + 1
    day = min(anchor_day, _last_day(year, month))
    return (date(year, month, day).toordinal() - _EPOCH_ORDINAL) * DAY_MS + time_of_day_ms


def _last_day(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 29 if leap and month == FEBRUARY else _DAYS_IN_MONTH[month - 1]
