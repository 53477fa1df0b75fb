"""Counters: the one door to Redis's counters. Loads the scripts, gathers requests into calls, bounds the waiting.

A gateway that serves many requests at once must not make one trip each: what arrives within one turn of the event loop
goes out as one call, in which each request succeeds or fails alone.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from hashlib import sha1
from typing import Any, TypeVar

import redis.asyncio
from redis import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

import lua
from quota import keys, protocol
from quota.errors import CountersUnavailable
from quota.protocol import Call, Reply, Step

MAX_BATCH_STEPS = 128
"""Redis runs one script at a time: a larger batch would hold up everybody else for over a millisecond."""
MAX_CALLS_IN_FLIGHT = 4
"""Beyond a few, more calls at once only make smaller batches."""
MAX_WAITING_STEPS = 20_000
"""What cannot be sent within a deadline or two is better refused at once."""


MAX_PIPELINED_CALLS = 100
LATE_TIMER_S = 0.005
"""A timer of an idle loop fires within one millisecond: later than this, the loop was held up."""
MAX_LOOKS = 10

T = TypeVar("T")
Waiting = tuple[Step, asyncio.Future[Reply]]


class Script:
    """A script's text and its name in Redis's cache."""

    __slots__ = ("sha", "text")

    def __init__(self, name: str) -> None:
        self.text = lua.source(name)
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


SCRIPTS = {name: Script(name) for name in ("consume", "provision", "roll", "publish", "begin_epoch")}


def run(connection: Redis, call: Call) -> Any:
    """Runs a script, for callers that may block. A forgotten script is sent again: nothing of it had run."""
    script = SCRIPTS[call.script]
    try:
        return connection.evalsha(script.sha, len(call.keys), *call.keys, *call.arguments)
    except NoScriptError:
        return connection.eval(script.text, len(call.keys), *call.keys, *call.arguments)


class Counters:
    """Async face of the scripts.

    `connection` must not retry: a request whose reply was lost would be charged again. Every method raises
    CountersUnavailable when Redis has not answered within `deadline_s` or refuses to write; the outcome of a `decide`
    is then unknown, unless the error says otherwise.
    """

    def __init__(self, connection: "redis.asyncio.Redis", *, deadline_s: float, record_ttl_s: int) -> None:
        self._connection = connection
        self._deadline_s = deadline_s
        self._record_ttl_ms = record_ttl_s * 1000
        self._waiting: deque[Waiting] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._flush_is_due = False

    def decide(self, step: Step) -> asyncio.Future[Reply]:
        """The reply to a step, together with whatever else is asked in this turn of the loop."""
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
            texts = await self.run(protocol.consume([step for step, _ in batch], self._record_ttl_ms))
            replies = [protocol.parsed_reply(text.decode()) for text in texts]
        except Exception as error:  # whatever it was, the callers are waiting for it
            _fail((each for each in batch if each[0].consumes), _of_unknown_outcome(error))
            _fail((each for each in batch if not each[0].consumes), error)
            if isinstance(error.__cause__, TimeoutError):
                # Redis hangs: who waited behind this call has waited as long, and must not wait for another.
                waiting, self._waiting = list(self._waiting), deque()
                _fail(waiting, CountersUnavailable("the counters do not answer; nothing was charged"))
            return
        for (_, future), reply in zip(batch, replies, strict=True):
            if not future.done():
                future.set_result(reply)

    async def run(self, call: Call) -> Any:
        """Runs one script within the deadline."""
        return await self._told(self._run(call))

    async def _told(self, trip: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._within_deadline(trip)
        except TimeoutError as error:
            raise CountersUnavailable("the counters did not answer in time") from error
        except ResponseError as error:
            raise CountersUnavailable("the counters refuse to write; nothing was changed") from error
        except RedisError as error:  # its text names our addresses: it is for the log alone
            raise CountersUnavailable("the counters cannot be reached") from error

    async def _run(self, call: Call) -> Any:
        script = SCRIPTS[call.script]
        try:
            return await self._connection.evalsha(script.sha, len(call.keys), *call.keys, *call.arguments)
        except NoScriptError:
            return await self._connection.eval(script.text, len(call.keys), *call.keys, *call.arguments)

    async def _within_deadline(self, trip: Coroutine[Any, Any, T]) -> T:
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
        task.cancel()
        raise TimeoutError

    async def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Runs independent scripts, a hundred a trip; a call that failed has its RedisError in place of a reply."""
        replies: list[Any] = []
        for first in range(0, len(calls), MAX_PIPELINED_CALLS):
            chunk = calls[first : first + MAX_PIPELINED_CALLS]
            pipeline = self._connection.pipeline(transaction=False)
            for call in chunk:
                pipeline.evalsha(SCRIPTS[call.script].sha, len(call.keys), *call.keys, *call.arguments)
            found = await self._told(pipeline.execute(raise_on_error=False))
            for call, reply in zip(chunk, found, strict=True):
                replies.append(await self.run(call) if isinstance(reply, NoScriptError) else reply)
        return replies

    async def epochs(self, shards: list[int]) -> dict[int, int | None]:
        """The epoch in each shard's head, None where there is no head."""
        found = await self._heads(shards, "epoch")
        return {shard: None if epoch is None else int(epoch) for shard, epoch in zip(shards, found, strict=True)}

    async def stores(self, shards: list[int]) -> set[str]:
        """The names of the ledgers that the shards' heads say they belong to."""
        return {name.decode() for name in await self._heads(shards, "store") if name}

    async def _heads(self, shards: list[int], field: str) -> list[bytes | None]:
        pipeline = self._connection.pipeline(transaction=False)
        for shard in shards:
            pipeline.hget(keys.head(shard), field)
        return list(await self._told(pipeline.execute()))

    async def ping(self) -> None:
        """Raises CountersUnavailable when Redis does not answer."""
        await self._told(_ping(self._connection))

    async def info(self) -> tuple[dict[str, object], str | None]:
        """What the server says of itself, and its appendfsync; None where CONFIG may not be read."""
        try:
            info = await self._connection.info()
        except RedisError as error:  # told to whoever starts a process, who needs the address
            raise CountersUnavailable(f"Redis cannot be reached: {error}") from error
        try:
            config = await self._connection.config_get("appendfsync")
        except RedisError:
            config = {}  # managed servers forbid it; INFO has told the rest
        return info, config.get("appendfsync")

    async def close(self) -> None:
        """Waits for what is under way, then closes the connections."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=self._deadline_s)
        await self._connection.aclose()


def _of_unknown_outcome(error: Exception) -> Exception:
    if not isinstance(error, CountersUnavailable) or isinstance(error.__cause__, ResponseError):
        return error
    told = CountersUnavailable(f"{error}; whether anything was charged is unknown")
    told.__cause__ = error.__cause__
    return told


def _fail(batch: Iterable[Waiting], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


async def _ping(connection: redis.asyncio.Redis) -> None:
    await connection.ping()
