"""Trips to Redis: a deadline around each, a breaker before all of them, and what went wrong in our own words."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from redis.exceptions import MaxConnectionsError, RedisError, ResponseError

from quota.breaker import Breaker
from quota.errors import CountersUnavailable
from quota.lives import NotLookedAt

LATE_TIMER_S = 0.005
"""A timer of an idle loop fires within one millisecond: later than this, the loop was held up."""
MAX_LOOKS = 10
MAX_IN_TURN = 32
"""Of those that are not gathered: lookups, and scripts for one account. Each has a connection of its own."""
MAX_WAITING = 2_000

T = TypeVar("T")


class Trips:
    """One a process. `probe` succeeds when Redis answers."""

    def __init__(self, deadline_s: float, probe: Callable[[], Awaitable[None]]) -> None:
        self._deadline_s = deadline_s
        self._breaker = Breaker(probe)
        self._turns = asyncio.Semaphore(MAX_IN_TURN)
        self._waiting = 0

    @property
    def are_refused(self) -> bool:
        """Whether Redis is known not to answer."""
        return self._breaker.is_open

    def refuse_while_away(self) -> None:
        if self._breaker.is_open:
            raise CountersUnavailable("the counters do not answer; nothing was charged")

    def close(self) -> None:
        self._breaker.close()

    async def in_turn(self, trip: Coroutine[Any, Any, T]) -> T:
        """One of some trips at a time: a burst must not look like a Redis that cannot be reached."""
        if self._waiting >= MAX_WAITING:
            trip.close()
            raise CountersUnavailable(f"{MAX_WAITING} trips are waiting for Redis already; nothing was charged")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._turns.acquire()
        except TimeoutError:
            trip.close()
            raise CountersUnavailable("too many requests wait for the counters; nothing was charged") from None
        except asyncio.CancelledError:
            trip.close()
            raise
        finally:
            self._waiting -= 1
        try:
            return await self.told(trip)
        finally:
            self._turns.release()

    async def told(self, trip: Coroutine[Any, Any, T]) -> T:
        """What the trip returns. CountersUnavailable when Redis has not answered in time, or refuses."""
        if self._breaker.is_open:
            trip.close()
            self.refuse_while_away()
        try:
            found = await self.within_deadline(trip)
        except TimeoutError as error:
            self._breaker.failed()
            raise CountersUnavailable("the counters did not answer in time") from error
        except ResponseError as error:
            self._breaker.succeeded()
            raise CountersUnavailable("the counters refuse to write; nothing was changed") from error
        except MaxConnectionsError:  # of this process's own making: it says nothing of Redis, and nothing was sent
            raise CountersUnavailable("too many requests wait for the counters; nothing was charged") from None
        except NotLookedAt as error:  # nothing was sent, and it is not away
            raise CountersUnavailable(str(error)) from None
        except RedisError as error:  # its text names our addresses: it is for the log alone
            self._breaker.failed()
            raise CountersUnavailable("the counters cannot be reached") from error
        self._breaker.succeeded()
        return found

    async def within_deadline(self, trip: Coroutine[Any, Any, T]) -> T:
        """The trip's result; TimeoutError when Redis is late.

        Event loops look at their timers before their sockets. When this process itself was held up, a reply that came
        in time lies unread behind the timer: so a timer that fires late grants one more look, a few times at most.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(trip)
        give_up_at = loop.time() + self._deadline_s
        for _ in range(MAX_LOOKS):
            done, _ = await asyncio.wait({task}, timeout=give_up_at - loop.time())
            if done:
                return task.result()
            if loop.time() - give_up_at < LATE_TIMER_S:
                break
            give_up_at = loop.time() + LATE_TIMER_S
        # Some connections answer a cancellation with an error of their own, of which nobody wants to hear.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        task.cancel()
        raise TimeoutError
