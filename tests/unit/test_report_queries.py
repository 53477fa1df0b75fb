"""What reports may be asked for, and what is refused."""

import pytest
from litestar.datastructures import MultiDict

from gateway import report_queries
from gateway.report_queries import DEFAULT_DAYS_BY, MOST_DAYS_BY, Range
from quota.errors import InvalidRequest
from quota.periods import DAY_MS, from_rfc3339, to_rfc3339

NOW_MS = from_rfc3339("2026-11-22T10:00:00Z")


def query(**words: str) -> MultiDict[str]:
    return MultiDict([(name.rstrip("_"), value) for name, value in words.items()])


def refusal(function: object, *args: object) -> str:
    with pytest.raises(InvalidRequest) as refused:
        function(*args)  # type: ignore[operator]
    assert refused.value.extra["field"] in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "yesterday",
            "2026-11-01",
            "2026-11-01T00:00:00",
            "1767225600",
            "2026-02-30T00:00:00Z",
            "2026-11-01T0:0Z",
        ),
        *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-01T00:00:00Z\n", "9" * 1_000),
    ],
)
def test_an_instant_that_is_none_is_refused_by_the_name_of_its_parameter(text: str) -> None:
    assert refusal(report_queries.instant_in, query(at=text), "at").startswith("at: ")
    for name in ("from_", "to"):
        assert refusal(report_queries.range_in, query(**{name: text})).startswith(name.rstrip("_"))


def test_a_parameter_that_comes_twice_is_refused() -> None:
    twice = MultiDict([("from", "2026-11-01T00:00:00Z"), ("from", "2026-11-02T00:00:00Z")])
    assert refusal(report_queries.range_in, twice) == "send from once"


def test_an_end_that_does_not_lie_after_the_beginning_is_refused() -> None:
    for to in ("2026-11-01T00:00:00Z", "2026-10-31T23:59:59.999Z", "2026-11-01T01:00:00+02:00"):
        asked = query(from_="2026-11-01T00:00:00Z", to=to)
        assert refusal(report_queries.range_in, asked) == "from must lie before to"
        assert refusal(report_queries.usage_range_in, asked, "day", NOW_MS) == "from must lie before to"


def test_either_end_of_a_range_may_be_left_out() -> None:
    instant = "2026-11-01T00:00:00Z"
    assert report_queries.range_in(query()) == Range(None, None)
    assert report_queries.range_in(query(from_=instant)) == Range(from_rfc3339(instant), None)
    assert report_queries.range_in(query(to=instant)) == Range(None, from_rfc3339(instant))


@pytest.mark.parametrize("by", MOST_DAYS_BY)
def test_usage_reaches_as_far_as_its_sums_are_wide_and_the_refusal_says_how_far(by: str) -> None:
    start_ms = from_rfc3339("2020-01-01T00:00:00Z")
    end_ms = start_ms + MOST_DAYS_BY[by] * DAY_MS
    longest = query(from_=to_rfc3339(start_ms), to=to_rfc3339(end_ms))
    assert report_queries.usage_range_in(longest, by, NOW_MS) == (start_ms, end_ms)
    longer = query(from_=to_rfc3339(start_ms), to=to_rfc3339(end_ms + 1))
    said = refusal(report_queries.usage_range_in, longer, by, NOW_MS)
    assert f"by {by}" in said and f"{MOST_DAYS_BY[by]} days" in said


@pytest.mark.parametrize("by", MOST_DAYS_BY)
def test_usage_without_a_range_is_that_of_the_days_before_now(by: str) -> None:
    expected = (NOW_MS - DEFAULT_DAYS_BY[by] * DAY_MS, NOW_MS)
    assert report_queries.usage_range_in(query(), by, NOW_MS) == expected


def test_an_instant_to_come_is_refused_where_only_the_past_is_known() -> None:
    at = query(at=to_rfc3339(NOW_MS))
    assert report_queries.past_instant_in(at, "at", NOW_MS) == NOW_MS
    assert refusal(report_queries.past_instant_in, at, "at", NOW_MS - 1) == "at lies in the future"


@pytest.mark.parametrize("text", ["", "spend", "Consume", "consume,refund"])
def test_a_kind_that_is_none_is_refused_with_those_that_are(text: str) -> None:
    assert "consume, refund" in refusal(report_queries.kind_in, query(kind=text))


@pytest.mark.parametrize("text", ["", "week", "year", "HOUR"])
def test_sums_are_by_hour_day_or_month_alone(text: str) -> None:
    assert refusal(report_queries.by_in, query(by=text)) == "by is one of hour, day, month"


@pytest.mark.parametrize("text", ["", "a b", "ü", "a" * 201, "a\n"])
def test_a_name_that_is_no_identifier_is_refused(text: str) -> None:
    for name in ("metric", "subject"):
        refusal(report_queries.identifier_in, query(**{name: text}), name)
