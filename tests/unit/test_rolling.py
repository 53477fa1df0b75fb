"""The roll of an account whose period, or a cap's, is over: which windows are opened in its place."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.rolling import Roller
from quota.errors import CountersUnavailable
from quota.formats import CapState, Terms, Window
from quota.keys import AccountName
from quota.periods import PeriodKind, from_rfc3339, period_at
from quota.protocol import Call
from quota.replies import AccountState, Verdict
from quota.rolling import roll_call

NOW_MS = from_rfc3339("2026-03-01T00:00:00Z")
LAST_MONTH = period_at(PeriodKind.MONTH, NOW_MS - 1)
YESTERDAY, WEEK = period_at(PeriodKind.DAY, NOW_MS - 1), period_at(PeriodKind.WEEK, NOW_MS - 1)
TERMS = Terms("pro", PeriodKind.MONTH, None, (80,))
KEY = AccountName("t", "u", "m").key(3)
STATE = AccountState(
    Verdict.PERIOD_OVER,
    KEY,
    1,
    used=9,
    window=Window(LAST_MONTH, TERMS),
    caps=(CapState(YESTERDAY, 5, 4), CapState(WEEK, 20, 9)),
)


def roll_of(state: AccountState, now_ms: int) -> Call:
    return roll_call(3, state.account_key, state.window, state.caps, now_ms)


def test_the_period_that_was_seen_is_closed_and_that_of_now_opened_with_the_same_terms() -> None:
    call = roll_of(STATE, NOW_MS)
    assert (call.script, call.keys[2]) == ("roll", KEY)
    march = period_at(PeriodKind.MONTH, NOW_MS)
    assert call.arguments[:2] == (str(LAST_MONTH.end_ms), str(Window(march, TERMS)))
    assert march.start_ms == NOW_MS == LAST_MONTH.end_ms


def test_every_cap_is_told_its_window_of_now_with_nothing_spent() -> None:
    day, week = period_at(PeriodKind.DAY, NOW_MS), period_at(PeriodKind.WEEK, NOW_MS)
    assert roll_of(STATE, NOW_MS).arguments[2] == f"{CapState(day, 5)};{CapState(week, 20)}"
    assert week == WEEK  # which is not over: the script leaves it as it is
    assert roll_of(replace(STATE, caps=()), NOW_MS).arguments[2] == ""


def test_after_a_year_of_silence_the_period_of_now_is_opened_and_none_between() -> None:
    later_ms = NOW_MS + 400 * 86_400_000
    window = Window.parsed(str(roll_of(STATE, later_ms).arguments[1]))
    assert window.period == period_at(PeriodKind.MONTH, later_ms)


def test_an_anchored_month_goes_on_from_its_anchor() -> None:
    anchor_ms = from_rfc3339("2026-01-31T10:30:00Z")
    terms = replace(TERMS, anchor_ms=anchor_ms)
    over = period_at(PeriodKind.MONTH, from_rfc3339("2026-02-20T00:00:00Z"), anchor_ms)
    assert over.end_ms is not None
    call = roll_of(replace(STATE, window=Window(over, terms)), over.end_ms)
    assert Window.parsed(str(call.arguments[1])).period.end_ms == from_rfc3339("2026-03-31T10:30:00Z")


def test_a_lifetime_with_caps_keeps_its_period_and_opens_the_caps() -> None:
    lifetime = Window(period_at(PeriodKind.LIFETIME, NOW_MS), replace(TERMS, kind=PeriodKind.LIFETIME))
    call = roll_of(replace(STATE, window=lifetime), NOW_MS)
    assert call.arguments[:2] == ("-", str(lifetime))
    assert str(call.arguments[2]).startswith(f"day {NOW_MS} ")


class ListeningCounters:
    """Notes the calls of each trip and answers all of them with the same."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.trips: list[list[str]] = []

    async def run_all(self, calls: list[Call]) -> list[Any]:
        self.trips.append([call.keys[2] for call in calls])
        if isinstance(self.answer, BaseException) and not isinstance(self.answer, CountersUnavailable):
            raise self.answer
        return [self.answer] * len(calls)


def rolled(counters: Any, *keys: str) -> list[BaseException | None]:
    async def ask() -> list[BaseException | None]:
        roller = Roller(counters)
        asked = [roller.roll(3, replace(STATE, account_key=key), NOW_MS) for key in keys]
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)

    return asyncio.run(ask())


def test_rolls_of_one_turn_are_one_trip_and_each_account_is_rolled_once() -> None:
    counters = ListeningCounters(b"rolled")
    assert rolled(counters, "a", "b", "a", "a") == [None] * 4
    assert counters.trips == [["a", "b"]]


@pytest.mark.parametrize("failure", [CountersUnavailable("away"), ValueError("unforeseen")])
def test_whoever_waits_for_a_roll_hears_that_it_failed(failure: Exception) -> None:
    found = rolled(ListeningCounters(failure), "a", "b")
    assert [type(each) for each in found] == [CountersUnavailable] * 2
