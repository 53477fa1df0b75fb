"""Gathers requests into calls. A gateway that serves many requests at once must not make one trip each: what arrives
within one turn of the event loop goes out as one call, in which each request succeeds or fails alone.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from redis.exceptions import ResponseError

from quota.errors import CountersUnavailable
from quota.protocol import Mode, Step
from quota.replies import Reply

MAX_BATCH_STEPS = 128
"""Redis runs one script at a time: a larger batch would hold up everybody else for over a millisecond."""
MAX_CALLS_IN_FLIGHT = 4
"""Beyond a few, more calls at once only make smaller batches."""
MAX_WAITING_STEPS = 20_000
"""What cannot be sent within a deadline or two is better refused at once."""

MODES_TAKEN_BACK = frozenset((Mode.CONSUME, Mode.HOLD, Mode.GIVE, Mode.ADJUST))
"""What is undone when no caller was told of it. The others are done once: a hold is settled once, a level is set, and a
refund gives back no more than is left (a part of it, repeated without a key, may be given back twice)."""

Waiting = tuple[Step, asyncio.Future[Reply]]
E = TypeVar("E", bound=Exception)


class Gathering:
    """Bound to what sends a batch of steps and returns their replies."""

    def __init__(self, send: Callable[[Sequence[Step]], Awaitable[list[Reply]]]) -> None:
        self._send_batch = send
        self._waiting: deque[Waiting] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._flush_is_due = False

    def add(self, step: Step) -> asyncio.Future[Reply]:
        """The reply to a step, which goes out with whatever else is added in this turn of the loop."""
        if len(self._waiting) >= MAX_WAITING_STEPS:
            raise CountersUnavailable(
                f"{MAX_WAITING_STEPS} requests are waiting for Redis already; nothing was charged"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((step, future))
        if not self._flush_is_due:
            self._flush_is_due = True
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._flush_is_due = False
        while self._waiting and len(self._sending) < MAX_CALLS_IN_FLIGHT:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH_STEPS, len(self._waiting)))]
            task = asyncio.get_running_loop().create_task(self._send(batch))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if self._waiting:
            self._flush()

    async def _send(self, batch: list[Waiting]) -> None:
        try:
            replies = await self._send_batch([step for step, _ in batch])
        except Exception as error:  # whatever it was, the callers are waiting for it
            for step, future in batch:
                _fail([(step, future)], told_of(step, error))
            if isinstance(error.__cause__, TimeoutError):
                # Redis hangs: who waited behind this call has waited as long, and must not wait for another.
                waiting, self._waiting = list(self._waiting), deque()
                _fail(waiting, CountersUnavailable("the counters do not answer; nothing was charged"))
            return
        for (_, future), reply in zip(batch, replies, strict=True):
            if not future.done():
                future.set_result(reply)

    async def wait(self, timeout_s: float) -> None:
        """Until what is under way has ended, or so long."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=timeout_s)


def is_of_unknown_outcome(error: Exception) -> bool:
    """Not one that Redis has refused, nor one that was never sent because Redis is known to be away."""
    return isinstance(error, CountersUnavailable) and not isinstance(error.__cause__, ResponseError | None)


def told_of(step: Step, error: E) -> E | CountersUnavailable:
    """The error in the words of one step: what may have come of it, and what its caller can do."""
    if step.mode is Mode.CHECK or not is_of_unknown_outcome(error):
        return error
    if step.record_key is not None:
        advice = "it may have been charged: send it again under the same key"
    elif step.mode in MODES_TAKEN_BACK:
        advice = "whatever was charged without an answer is taken back"
    else:
        advice = "it may have taken effect: look before you send it again, or send it under an idempotency key"
    told = CountersUnavailable(f"{error}; {advice}")
    told.__cause__ = error.__cause__
    return told


def _fail(batch: Iterable[Waiting], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
