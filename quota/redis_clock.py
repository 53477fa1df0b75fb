"""Redis's clock, as a process that is not Redis can know it."""

import time


class RedisClock:
    """What Redis's clock says, as far as its last reply and the time that has passed since tell: late by one trip."""

    def __init__(self) -> None:
        self._ahead_ms = time.time() * 1000 - time.monotonic() * 1000

    def heard(self, redis_ms: int) -> None:
        if redis_ms:
            self._ahead_ms = redis_ms - time.monotonic() * 1000

    def now_ms(self) -> int:
        return int(self._ahead_ms + time.monotonic() * 1000)
