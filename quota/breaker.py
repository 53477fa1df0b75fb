"""A circuit breaker: while Redis is known to be away, nobody waits a deadline to learn it again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

FAILURES_TO_OPEN = 8
"""Trips that failed one after another, with none that succeeded meanwhile. A hiccup fails all that are in flight at
once, which are four: so it takes twice as many."""
PROBE_EVERY_S = 0.1
"""How soon after its return Redis is used again."""

log = structlog.get_logger()


class Breaker:
    """Opens after some failures in a row, and closes as soon as `probe` succeeds; it probes while it is open."""

    def __init__(self, probe: Callable[[], Awaitable[None]]) -> None:
        self._probe = probe
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._probing is not None

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES_TO_OPEN and self._probing is None:
            log.error("the counters do not answer: requests are refused at once until they do")
            self._probing = asyncio.create_task(self._probe_until_it_answers())

    async def _probe_until_it_answers(self) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            with suppress(Exception):  # whatever it is: not back yet
                await self._probe()
                break
        self._failures, self._probing = 0, None
        log.warning("the counters answer again")

    def close(self) -> None:
        """Stops probing."""
        if self._probing is not None:
            self._probing.cancel()
