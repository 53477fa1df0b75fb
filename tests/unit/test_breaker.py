"""The circuit breaker, on a clock that nobody waits for; and Redis's clock as another process knows it."""

import asyncio
import time

import pytest

from quota.breaker import FAILURES_TO_OPEN, PROBE_EVERY_S, Breaker
from quota.gathering import MAX_CALLS_IN_FLIGHT
from quota.redis_clock import RedisClock
from tests.unit.virtual_time import run

WITHIN_S = 1.0
"""How soon after its return Redis must be used again."""


class Server:
    """Answers a probe once it is there again."""

    def __init__(self, back_at_s: float = 0.0) -> None:
        self.back_at_s = back_at_s
        self.probed_at_s: list[float] = []

    async def probe(self) -> None:
        now_s = asyncio.get_running_loop().time()
        self.probed_at_s.append(now_s)
        if now_s < self.back_at_s:
            raise ConnectionError("not back yet")


def opened(breaker: Breaker) -> Breaker:
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed()
    return breaker


async def until_closed(breaker: Breaker) -> float:
    """The instant at which it closed."""
    loop = asyncio.get_running_loop()
    while breaker.is_open:  # noqa: ASYNC110 - it tells nobody, and here no time passes
        await asyncio.sleep(PROBE_EVERY_S / 10)
    return loop.time()


def test_it_opens_when_more_have_failed_in_a_row_than_one_hiccup_can_fail() -> None:
    async def fail() -> list[bool]:
        breaker = Breaker(Server(back_at_s=9).probe)
        seen = []
        for _ in range(FAILURES_TO_OPEN):
            seen.append(breaker.is_open)
            breaker.failed()
        return [*seen, breaker.is_open]

    assert FAILURES_TO_OPEN == 2 * MAX_CALLS_IN_FLIGHT
    assert run(fail()) == [False] * FAILURES_TO_OPEN + [True]


def test_a_success_in_between_begins_the_count_anew() -> None:
    async def fail() -> bool:
        breaker = Breaker(Server().probe)
        for _ in range(10):
            for _ in range(FAILURES_TO_OPEN - 1):
                breaker.failed()
            breaker.succeeded()
        return breaker.is_open

    assert not run(fail())


@pytest.mark.parametrize("away_s", [0.0, 0.05, 0.35, 7.77])
def test_it_closes_with_the_first_probe_after_the_return(away_s: float) -> None:
    async def fail() -> float:
        return await until_closed(opened(Breaker(Server(away_s).probe)))

    assert away_s <= run(fail()) <= away_s + PROBE_EVERY_S * 1.2 < away_s + WITHIN_S


def test_one_probe_at_a_time_is_made_and_none_after_the_last() -> None:
    async def fail() -> list[float]:
        server = Server(back_at_s=0.45)
        breaker = opened(Breaker(server.probe))
        for _ in range(100):
            breaker.failed()
        await until_closed(breaker)
        await asyncio.sleep(10)
        return server.probed_at_s

    assert run(fail()) == pytest.approx([PROBE_EVERY_S * n for n in range(1, 6)])


def test_after_a_return_it_takes_as_many_failures_as_at_first() -> None:
    async def fail() -> list[bool]:
        breaker = opened(Breaker(Server().probe))
        await until_closed(breaker)
        seen = []
        for _ in range(FAILURES_TO_OPEN):
            breaker.failed()
            seen.append(breaker.is_open)
        return seen

    assert run(fail()) == [False] * (FAILURES_TO_OPEN - 1) + [True]


def test_a_late_success_of_an_earlier_trip_does_not_close_it() -> None:
    async def fail() -> bool:
        breaker = opened(Breaker(Server(back_at_s=9).probe))
        breaker.succeeded()
        return breaker.is_open

    assert run(fail())


def test_a_probe_that_fails_in_an_unforeseen_way_is_made_again() -> None:
    async def fail() -> float:
        asked: list[int] = []

        async def probe() -> None:
            asked.append(1)
            if len(asked) < 3:
                raise ZeroDivisionError

        return await until_closed(opened(Breaker(probe)))

    assert run(fail()) == pytest.approx(3 * PROBE_EVERY_S, abs=PROBE_EVERY_S / 5)


def test_closed_for_good_it_probes_no_more() -> None:
    async def fail() -> list[float]:
        server = Server(back_at_s=9)
        breaker = opened(Breaker(server.probe))
        await asyncio.sleep(0.25)
        breaker.close()
        await asyncio.sleep(10)
        return server.probed_at_s

    assert len(run(fail())) == 2


class Monotonic:
    """time.monotonic of the test's own, and a wall clock that is 5 s behind Redis."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "time", lambda: 1_795_000_000.0)


def test_before_any_reply_redis_is_taken_to_have_our_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Monotonic(monkeypatch)
    clock = RedisClock()
    assert clock.now_ms() == 1_795_000_000_000
    here.now_s += 1.5
    assert clock.now_ms() == 1_795_000_001_500


@pytest.mark.parametrize("redis_ms", [1_795_000_005_000, 1_794_999_995_000])
def test_after_a_reply_it_goes_on_from_what_redis_said(monkeypatch: pytest.MonkeyPatch, redis_ms: int) -> None:
    here = Monotonic(monkeypatch)
    clock = RedisClock()
    clock.heard(redis_ms)
    assert clock.now_ms() == redis_ms
    here.now_s += 0.25
    assert clock.now_ms() == redis_ms + 250
    here.now_s += 10
    clock.heard(redis_ms + 7)
    assert clock.now_ms() == redis_ms + 7


def test_a_step_of_our_own_wall_clock_does_not_move_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Monotonic(monkeypatch)
    clock = RedisClock()
    clock.heard(42_000)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now_ms() == 42_000


def test_a_reply_without_an_instant_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Monotonic(monkeypatch)
    clock = RedisClock()
    clock.heard(42_000)
    clock.heard(0)
    assert clock.now_ms() == 42_000
