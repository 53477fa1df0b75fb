"""Notices that Redis's clock went back: by a clock that nobody can set while this process looks, and by what the ledger
has when it begins to.

Nothing is undone because of it. Redis decides the time: periods that were closed stay closed (lua/roll.lua), and
entries have the instants that the clock tells. People on call are told, because reports by time show a stretch twice.
"""

import time
from collections.abc import Callable

import structlog

from gateway import metrics
from ledger import incidents, shards
from ledger.store import ALL_TENANTS, Store
from quota.lives import Looking
from quota.redis_clock import BACK_BY_MS, RedisClock, SteadyClock, StepBack

log = structlog.get_logger()


class ClockSteps:
    """Looks at the clock of one Redis for one process."""

    def __init__(
        self, looking: Looking, clock: RedisClock, store: Store, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._looking = looking
        self._clock = clock
        self._store = store
        self._now_s = now_s
        self._steady = SteadyClock()
        self._is_first = True
        self._untold: StepBack | None = None

    async def look(self) -> None:
        """CountersUnavailable when Redis does not answer."""
        asked_ms = self._now_s() * 1000
        redis_ms = await self._looking.now_ms()
        # A step of its own accord reaches the counters with their next reply; then they know it before that.
        self._clock.heard(redis_ms)
        step = self._steady.looked(redis_ms, asked_ms, self._now_s() * 1000)
        if step is not None:
            self._count(step)
            # Of several while the ledger is away, the one from the latest instant: no entry is later than that.
            if self._untold is None or step.was_ms > self._untold.was_ms:
                self._untold = step

    async def tell(self) -> None:
        """Writes down what was seen, once for all processes. LedgerUnavailable: then the next call does."""
        if self._is_first:
            newest_ms = await self._store.run(ALL_TENANTS, shards.newest_ms)
            now_ms = self._clock.now_ms()
            step = StepBack(newest_ms, now_ms)
            if newest_ms - now_ms >= BACK_BY_MS and await self._wrote(step, was_seen=False):
                self._count(step)
            self._is_first = False
        if self._untold is not None:
            await self._wrote(self._untold, was_seen=True)
            self._untold = None

    async def _wrote(self, step: StepBack, *, was_seen: bool) -> bool:
        return await self._store.run(ALL_TENANTS, incidents.tell_of_clock, step.was_ms, step.is_ms, was_seen)

    def _count(self, step: StepBack) -> None:
        metrics.clock_steps.inc()
        log.error("Redis's clock went back", by_ms=step.by_ms, was_ms=step.was_ms, is_ms=step.is_ms)
