"""Redis's clock, as a process that is not Redis can know it."""

import time
from dataclasses import dataclass

BACK_BY_MS = 1_000
"""A step back is told from here on: what slews by itself, and what a slow trip leaves open, is far less."""


class RedisClock:
    """What Redis's clock says, as far as its last reply and the time that has passed since tell: late by one trip."""

    def __init__(self) -> None:
        self._ahead_ms = time.time() * 1000 - time.monotonic() * 1000

    def heard(self, redis_ms: int) -> None:
        if redis_ms:
            self._ahead_ms = redis_ms - time.monotonic() * 1000

    def now_ms(self) -> int:
        return int(self._ahead_ms + time.monotonic() * 1000)


@dataclass(frozen=True, slots=True)
class StepBack:
    """Redis's clock is at `is_ms`, although it has been at `was_ms` or beyond."""

    was_ms: int
    is_ms: int

    @property
    def by_ms(self) -> int:
        return self.was_ms - self.is_ms


class SteadyClock:
    """Whether Redis's clock goes on as steadily as a clock that nobody can set. Pure: it is handed both."""

    def __init__(self) -> None:
        self._ahead_ms: float | None = None

    def looked(self, redis_ms: int, asked_ms: float, answered_ms: float) -> StepBack | None:
        """What Redis's clock said between two instants of the steady one. A step back since the last look, if there was
        one for certain: that the answer came late is none."""
        before = self._ahead_ms
        # By so much it is ahead at least: it said so before the answer came.
        self._ahead_ms = redis_ms - answered_ms
        if before is None:
            return None
        least_ms = int(before + asked_ms)
        return StepBack(least_ms, redis_ms) if least_ms - redis_ms >= BACK_BY_MS else None
