"""Redis's clock went back: noticed by a clock that nobody can set, told once, and never of a trip that was slow."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import metrics
from gateway.clock_steps import ClockSteps
from ledger import incidents, shards
from quota.errors import LedgerUnavailable
from quota.redis_clock import BACK_BY_MS, RedisClock, SteadyClock, StepBack
from tests.unit.fakes import FakeStore

NOW_MS = 1_800_000_000_000


class FakeRedis:
    """A clock that goes on with the steady one, is `ahead_ms` of it, and is read in the middle of a trip."""

    def __init__(self) -> None:
        self.steady_s = 50.0
        self.ahead_ms = NOW_MS
        self.trip_s = 0.0

    async def now_ms(self) -> int:
        self.steady_s += self.trip_s / 2
        said = int(self.ahead_ms + self.steady_s * 1000)
        self.steady_s += self.trip_s / 2
        return said


class Scene:
    def __init__(self, newest_ms: int = 0) -> None:
        self.redis = FakeRedis()
        self.told: list[tuple[int, int, bool]] = []
        self.store = FakeStore({shards.newest_ms: lambda: newest_ms, incidents.tell_of_clock: self._tell})
        self.clock = RedisClock()
        redis: Any = self.redis
        store: Any = self.store
        self.steps = ClockSteps(redis, self.clock, store, lambda: self.redis.steady_s)

    def _tell(self, was_ms: int, is_ms: int, was_seen: bool) -> bool:
        self.told.append((was_ms, is_ms, was_seen))
        return True

    def look(self, *, after_s: float = 2.0) -> None:
        self.redis.steady_s += after_s

        async def both() -> None:
            await self.steps.look()
            await self.steps.tell()

        asyncio.run(both())


def counted(do: Callable[[], None]) -> float:
    before = metrics.clock_steps._value.get()
    do()
    return float(metrics.clock_steps._value.get() - before)


def test_a_step_back_is_told_with_its_size_at_the_next_look() -> None:
    scene = Scene()
    scene.look()
    scene.redis.ahead_ms -= 3_600_000
    assert counted(scene.look) == 1
    ((was_ms, is_ms, was_seen),) = scene.told
    assert was_ms - is_ms == 3_600_000
    assert was_seen
    assert counted(scene.look) == 0, "it goes on from there"
    assert len(scene.told) == 1


def test_a_look_comes_often_enough_to_notice_it_within_5_s() -> None:
    from gateway.epochs import LOOK_EVERY_S
    from quota.lives import LOOK_WITHIN_S

    assert LOOK_EVERY_S + LOOK_WITHIN_S < 5


def test_a_steady_clock_is_never_told_however_slow_the_trips_are() -> None:
    scene = Scene()
    for trip_s in (0, 0.001, 1.9, 0, 1.9, 1.9, 0.3, 0):
        scene.redis.trip_s = trip_s
        scene.look()
    assert scene.told == []


@given(st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 2_000), st.integers(-2, 2)), max_size=20))
def test_no_trips_however_they_come_make_a_step_of_a_clock_that_slews(trips: list[tuple[int, int, int]]) -> None:
    steady, asked_ms, ahead_ms = SteadyClock(), 0, NOW_MS
    for there_ms, back_ms, slewed_ms in trips:
        ahead_ms += slewed_ms
        answered_ms = asked_ms + there_ms + back_ms
        assert steady.looked(ahead_ms + asked_ms + there_ms, asked_ms, answered_ms) is None
        asked_ms = answered_ms + 2_000


@given(st.integers(BACK_BY_MS + 101, 10**10), st.integers(0, 50), st.integers(0, 50))
def test_every_step_beyond_a_second_is_seen_through_trips_within_the_deadline(
    by_ms: int, there_ms: int, back_ms: int
) -> None:
    steady, trip_ms = SteadyClock(), there_ms + back_ms
    assert steady.looked(NOW_MS + there_ms, 0, trip_ms) is None
    step = steady.looked(NOW_MS + 2_000 + there_ms - by_ms, 2_000, 2_000 + trip_ms)
    assert step is not None
    assert by_ms - trip_ms <= step.by_ms <= by_ms


@pytest.mark.parametrize("by_ms", [-3_600_000, -999, 0, 999])
def test_a_step_forward_or_a_small_one_is_not_told(by_ms: int) -> None:
    scene = Scene()
    scene.look()
    scene.redis.ahead_ms -= by_ms
    scene.look()
    assert scene.told == []


def test_what_the_counters_take_for_redis_s_time_follows_at_once() -> None:
    """Else a call could be charged, or a lost reply be looked for, an hour late by a clock that is gone."""
    scene = Scene()
    scene.look()
    for by_ms in (-3_600_000, 7_200_000):
        scene.redis.ahead_ms += by_ms
        scene.look()
        assert abs(scene.clock.now_ms() - (scene.redis.ahead_ms + scene.redis.steady_s * 1000)) < 500


def test_a_process_that_begins_after_the_step_knows_it_from_the_ledger() -> None:
    scene = Scene(newest_ms=NOW_MS + 60_000_000)
    assert counted(scene.look) == 1
    ((was_ms, _, was_seen),) = scene.told
    assert (was_ms, was_seen) == (NOW_MS + 60_000_000, False)
    scene.look()
    assert len(scene.told) == 1, "it is asked once"


def test_what_the_ledger_could_not_be_told_is_told_when_it_is_back() -> None:
    scene = Scene()
    scene.look()
    scene.store.is_away = True
    for by_ms in (5_000, 3_000):
        scene.redis.ahead_ms -= by_ms
        with pytest.raises(LedgerUnavailable):
            scene.look()
    scene.store.is_away = False
    scene.look()
    ((was_ms, is_ms, _),) = scene.told
    assert was_ms - is_ms == 5_000


def test_the_size_of_a_step_is_what_lies_between() -> None:
    assert StepBack(5_000, 2_000).by_ms == 3_000
