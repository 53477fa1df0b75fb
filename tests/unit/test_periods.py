"""Periods against a corpus of calendar cases, and as a tiling of all time."""

from calendar import monthrange
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.errors import InvalidRequest
from quota.periods import DAY_MS, EARLIEST_MS, LATEST_MS, WEEK_MS, Period, PeriodKind, period_at
from quota.periods import from_rfc3339 as ms
from quota.periods import to_rfc3339 as text

# kind, anchor or None, instant, expected start, expected end
CORPUS = """
day   -                        2026-11-01T00:00:00Z     2026-11-01T00:00:00Z     2026-11-02T00:00:00Z
day   -                        2026-11-01T23:59:59.999Z 2026-11-01T00:00:00Z     2026-11-02T00:00:00Z
day   -                        2024-02-28T12:00:00Z     2024-02-28T00:00:00Z     2024-02-29T00:00:00Z
day   -                        2023-02-28T12:00:00Z     2023-02-28T00:00:00Z     2023-03-01T00:00:00Z
day   -                        2026-12-31T23:59:59.999Z 2026-12-31T00:00:00Z     2027-01-01T00:00:00Z
day   2026-01-15T09:30:00Z     2026-11-01T08:00:00Z     2026-11-01T00:00:00Z     2026-11-02T00:00:00Z
day   -                        1969-12-31T23:59:59.999Z 1969-12-31T00:00:00Z     1970-01-01T00:00:00Z
week  -                        1970-01-01T00:00:00Z     1969-12-29T00:00:00Z     1970-01-05T00:00:00Z
week  -                        2026-11-02T00:00:00Z     2026-11-02T00:00:00Z     2026-11-09T00:00:00Z
week  -                        2026-11-01T23:59:59.999Z 2026-10-26T00:00:00Z     2026-11-02T00:00:00Z
week  -                        2026-12-31T12:00:00Z     2026-12-28T00:00:00Z     2027-01-04T00:00:00Z
week  -                        2027-01-03T23:59:59.999Z 2026-12-28T00:00:00Z     2027-01-04T00:00:00Z
week  -                        2024-02-29T12:00:00Z     2024-02-26T00:00:00Z     2024-03-04T00:00:00Z
week  2026-01-14T09:30:00Z     2026-11-02T00:00:00Z     2026-11-02T00:00:00Z     2026-11-09T00:00:00Z
month -                        2026-01-31T23:59:59.999Z 2026-01-01T00:00:00Z     2026-02-01T00:00:00Z
month -                        2026-02-01T00:00:00Z     2026-02-01T00:00:00Z     2026-03-01T00:00:00Z
month -                        2024-02-29T23:59:59.999Z 2024-02-01T00:00:00Z     2024-03-01T00:00:00Z
month -                        2000-02-29T00:00:00Z     2000-02-01T00:00:00Z     2000-03-01T00:00:00Z
month -                        2100-02-28T23:59:59.999Z 2100-02-01T00:00:00Z     2100-03-01T00:00:00Z
month -                        2026-04-30T23:59:59.999Z 2026-04-01T00:00:00Z     2026-05-01T00:00:00Z
month -                        2026-12-31T23:59:59.999Z 2026-12-01T00:00:00Z     2027-01-01T00:00:00Z
month 2026-01-15T00:00:00Z     2026-11-14T23:59:59.999Z 2026-10-15T00:00:00Z     2026-11-15T00:00:00Z
month 2026-01-15T00:00:00Z     2026-11-15T00:00:00Z     2026-11-15T00:00:00Z     2026-12-15T00:00:00Z
month 2026-01-15T00:00:00Z     2026-12-20T00:00:00Z     2026-12-15T00:00:00Z     2027-01-15T00:00:00Z
month 2026-01-15T00:00:00Z     2027-01-02T00:00:00Z     2026-12-15T00:00:00Z     2027-01-15T00:00:00Z
month 2026-01-31T00:00:00Z     2026-02-27T23:59:59.999Z 2026-01-31T00:00:00Z     2026-02-28T00:00:00Z
month 2026-01-31T00:00:00Z     2026-02-28T00:00:00Z     2026-02-28T00:00:00Z     2026-03-31T00:00:00Z
month 2026-01-31T00:00:00Z     2026-03-31T00:00:00Z     2026-03-31T00:00:00Z     2026-04-30T00:00:00Z
month 2026-01-31T00:00:00Z     2026-05-01T00:00:00Z     2026-04-30T00:00:00Z     2026-05-31T00:00:00Z
month 2024-01-31T00:00:00Z     2024-02-29T00:00:00Z     2024-02-29T00:00:00Z     2024-03-31T00:00:00Z
month 2023-12-30T00:00:00Z     2024-02-29T00:00:00Z     2024-02-29T00:00:00Z     2024-03-30T00:00:00Z
month 2023-12-30T00:00:00Z     2023-02-28T00:00:00Z     2023-02-28T00:00:00Z     2023-03-30T00:00:00Z
month 2024-02-29T00:00:00Z     2023-02-28T00:00:00Z     2023-02-28T00:00:00Z     2023-03-29T00:00:00Z
month 2024-02-29T00:00:00Z     2026-05-28T23:59:59.999Z 2026-04-29T00:00:00Z     2026-05-29T00:00:00Z
month 2024-02-29T00:00:00Z     2100-03-28T00:00:00Z     2100-02-28T00:00:00Z     2100-03-29T00:00:00Z
month 2024-01-31T10:20:30.456Z 2026-02-28T10:20:30.455Z 2026-01-31T10:20:30.456Z 2026-02-28T10:20:30.456Z
month 2024-01-31T10:20:30.456Z 2026-02-28T10:20:30.456Z 2026-02-28T10:20:30.456Z 2026-03-31T10:20:30.456Z
month 2024-01-31T23:59:59.999Z 2026-05-01T00:00:00Z     2026-04-30T23:59:59.999Z 2026-05-31T23:59:59.999Z
month 2031-08-31T06:00:00Z     2026-02-28T05:59:59.999Z 2026-01-31T06:00:00Z     2026-02-28T06:00:00Z
month 1960-03-31T06:00:00Z     2026-04-30T06:00:00Z     2026-04-30T06:00:00Z     2026-05-31T06:00:00Z
year  -                        2026-01-01T00:00:00Z     2026-01-01T00:00:00Z     2027-01-01T00:00:00Z
year  -                        2026-12-31T23:59:59.999Z 2026-01-01T00:00:00Z     2027-01-01T00:00:00Z
year  2024-02-29T00:00:00Z     2025-02-27T23:59:59.999Z 2024-02-29T00:00:00Z     2025-02-28T00:00:00Z
year  2024-02-29T00:00:00Z     2027-06-01T00:00:00Z     2027-02-28T00:00:00Z     2028-02-29T00:00:00Z
year  2024-02-29T00:00:00Z     2028-02-28T23:59:59.999Z 2027-02-28T00:00:00Z     2028-02-29T00:00:00Z
year  2024-02-29T00:00:00Z     2028-02-29T00:00:00Z     2028-02-29T00:00:00Z     2029-02-28T00:00:00Z
year  1996-02-29T00:00:00Z     2000-02-29T00:00:00Z     2000-02-29T00:00:00Z     2001-02-28T00:00:00Z
year  2096-02-29T00:00:00Z     2100-02-28T00:00:00Z     2100-02-28T00:00:00Z     2101-02-28T00:00:00Z
year  2020-12-31T23:59:59.999Z 2026-12-31T23:59:59.998Z 2025-12-31T23:59:59.999Z 2026-12-31T23:59:59.999Z
year  2020-12-31T23:59:59.999Z 2026-12-31T23:59:59.999Z 2026-12-31T23:59:59.999Z 2027-12-31T23:59:59.999Z
year  2040-07-04T12:00:00Z     2026-07-04T11:59:59.999Z 2025-07-04T12:00:00Z     2026-07-04T12:00:00Z
"""

ANCHORED = (PeriodKind.MONTH, PeriodKind.YEAR)
BOUNDED = tuple(kind for kind in PeriodKind if kind is not PeriodKind.LIFETIME)

instants = st.integers(ms("1970-01-01T00:00:00Z"), ms("2200-12-31T23:59:59.999Z"))
# Half of them on the days at which calendars go wrong.
month_end_anchors = st.builds(
    lambda year, month, back, time_ms: ms(f"{year:04}-{month:02}-01T00:00:00Z") - back * DAY_MS + time_ms,
    st.integers(1900, 2300),
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(0, DAY_MS - 1),
)
anchors = st.none() | instants | month_end_anchors


@pytest.mark.parametrize("case", CORPUS.strip().splitlines())
def test_the_calendar_corpus_holds(case: str) -> None:
    kind, anchor, at, start, end = case.split()
    period = period_at(PeriodKind(kind), ms(at), None if anchor == "-" else ms(anchor))
    assert (period.kind, text(period.start_ms), text(period.end_ms or 0)) == (kind, start, end)


@given(kind=st.sampled_from(BOUNDED), at_ms=instants, anchor_ms=anchors)
def test_periods_tile_time_without_gap_or_overlap(kind: PeriodKind, at_ms: int, anchor_ms: int | None) -> None:
    period = period_at(kind, at_ms, anchor_ms)
    assert period.end_ms is not None
    assert period.start_ms <= at_ms < period.end_ms
    assert period_at(kind, period.start_ms, anchor_ms) == period
    assert period_at(kind, period.end_ms - 1, anchor_ms) == period
    assert period_at(kind, period.end_ms, anchor_ms).start_ms == period.end_ms
    assert period_at(kind, period.start_ms - 1, anchor_ms).end_ms == period.start_ms


@given(kind=st.sampled_from(ANCHORED), anchor_ms=instants | month_end_anchors)
def test_a_period_starts_at_the_anchor_itself(kind: PeriodKind, anchor_ms: int) -> None:
    assert period_at(kind, anchor_ms, anchor_ms).start_ms == anchor_ms


@pytest.mark.parametrize("day", [1, 28, 29, 30, 31])
def test_every_month_from_1970_to_2200_starts_on_the_anchors_day_or_its_own_last(day: int) -> None:
    anchor_ms = ms(f"2020-01-{day:02}T13:14:15.167Z")
    at_ms = ms(f"1970-01-{day:02}T13:14:15.167Z")
    for index in range(1970 * 12, 2201 * 12):
        year, month = index // 12, index % 12 + 1
        start = datetime(year, month, min(day, monthrange(year, month)[1]), 13, 14, 15, 167_000, UTC)
        period = period_at(PeriodKind.MONTH, at_ms, anchor_ms)
        assert period.start_ms == at_ms == round(start.timestamp() * 1000)
        assert period.end_ms is not None
        at_ms = period.end_ms


def test_a_day_has_24_hours_and_a_week_seven_days_always() -> None:
    for at_ms in range(ms("1999-12-25T00:00:00Z"), ms("2000-03-05T00:00:00Z"), DAY_MS):
        day, week = period_at(PeriodKind.DAY, at_ms), period_at(PeriodKind.WEEK, at_ms)
        assert (day.end_ms, week.end_ms) == (day.start_ms + DAY_MS, week.start_ms + WEEK_MS)
        assert datetime.fromtimestamp(week.start_ms / 1000, UTC).weekday() == 0


@pytest.mark.parametrize("at_ms", [0, 1, 2**53 - 1])
def test_a_lifetime_has_no_end_at_any_instant(at_ms: int) -> None:
    assert period_at(PeriodKind.LIFETIME, at_ms, 12345) == Period(PeriodKind.LIFETIME, 0, None)


@pytest.mark.parametrize("kind", BOUNDED)
def test_an_instant_at_the_rim_of_the_calendar_has_a_period_that_can_be_written(kind: PeriodKind) -> None:
    for at_ms in (EARLIEST_MS, LATEST_MS):
        for anchor in (None, "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"):
            period = period_at(kind, at_ms, None if anchor is None else ms(anchor))
            assert text(period.start_ms) < text(period.end_ms or 0)


@pytest.mark.parametrize("kind", BOUNDED)
@pytest.mark.parametrize("at_ms", [EARLIEST_MS - 1, LATEST_MS + 1, 2**63])
def test_an_instant_beyond_the_calendar_is_an_invalid_request(kind: PeriodKind, at_ms: int) -> None:
    with pytest.raises(InvalidRequest, match="years 0002 to 9998"):
        period_at(kind, at_ms)


@given(instant_ms=st.integers(ms("0001-01-01T00:00:00Z"), ms("9999-12-31T23:59:59.999Z")))
def test_an_instant_survives_being_written_and_read(instant_ms: int) -> None:
    assert ms(text(instant_ms)) == instant_ms


def test_milliseconds_are_written_only_when_there_are_any() -> None:
    assert text(ms("2026-11-01T00:00:00Z")) == "2026-11-01T00:00:00Z"
    assert text(ms("2026-11-01T00:00:00.120Z")) == "2026-11-01T00:00:00.120Z"
    assert text(-1) == "1969-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    ("written", "in_utc"),
    [
        ("2026-11-01T02:00:00+02:00", "2026-11-01T00:00:00Z"),
        ("2026-10-31T18:30:00-05:30", "2026-11-01T00:00:00Z"),
        ("2026-11-01T00:00:00-00:00", "2026-11-01T00:00:00Z"),
        ("2026-11-01t00:00:00z", "2026-11-01T00:00:00Z"),
        ("2026-11-01T00:00:00.1Z", "2026-11-01T00:00:00.100Z"),
        ("2026-11-01T00:00:00.123999999Z", "2026-11-01T00:00:00.123Z"),
        ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
    ],
)
def test_an_instant_is_read_in_utc_whatever_its_offset(written: str, in_utc: str) -> None:
    assert text(ms(written)) == in_utc


@pytest.mark.parametrize(
    "written",
    [
        *("", "now", "2026-11-01", "2026-11-01T00:00:00", "2026-11-01 00:00:00Z", "2026-11-01T00:00Z"),
        *("2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-11-01T24:00:00Z"),
        *("2026-11-01T00:60:00Z", "2016-12-31T23:59:60Z", "0000-01-01T00:00:00Z", "2026-11-01T00:00:00.Z"),
        *("2026-11-01T00:00:00+24:00", "2026-11-01T00:00:00+01:60", "2026-11-01T00:00:00+0100"),
        *("0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "2026-11-01T00:00:00.1234567890Z"),
        *("2026-11-01T00:00:00Z\n", " 2026-11-01T00:00:00Z", "\u0662026-11-01T00:00:00Z", "20261101T000000Z"),
    ],
)
def test_an_instant_without_a_zone_or_out_of_the_calendar_is_an_invalid_request(written: str) -> None:
    with pytest.raises(InvalidRequest, match="instant"):
        ms(written)
