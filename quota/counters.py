"""Counters: the one door to Redis's counters."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError

from quota import keys, protocol
from quota.acknowledged import Acknowledged
from quota.errors import CountersUnavailable
from quota.gathering import MAX_BATCH_STEPS, MAX_CALLS_IN_FLIGHT, Gathering, is_of_unknown_outcome, told_of
from quota.journal import Entry, parsed_entry
from quota.lives import epoch_in
from quota.protocol import Call, Mode, Step
from quota.redis_clock import RedisClock
from quota.replies import Outcome, Reply, parsed_reply
from quota.scripts import SCRIPTS
from quota.trips import Trips

MAX_PIPELINED_CALLS = 100
MAX_ENTRIES_A_TRIP = 1_000
MAX_ENTRIES_SINCE = 200_000
MAX_WAITING_BATCHES = 100
CHARGE_WITHIN_MS = 1_000
"""A call that Redis begins later than this charges nothing: its callers were told long ago that it did not answer."""


class Counters:
    """Async face of the scripts.

    `connection` must not retry: a request whose reply was lost would be charged again. Every method raises
    CountersUnavailable when Redis has not answered within `deadline_s` or refuses to write; the outcome of a `decide`
    is then unknown, unless the error says otherwise. `on_lost` hears of the steps whose outcome is unknown, and until
    which instant of Redis's clock they may still be charged.
    """

    def __init__(self, connection: "redis.asyncio.Redis", *, deadline_s: float, record_ttl_s: int) -> None:
        self._connection = connection
        self._deadline_s = deadline_s
        self.record_ttl_ms = record_ttl_s * 1000
        self._gathering = Gathering(self._decide)
        self._trips = Trips(deadline_s, self._probe)
        self.clock = RedisClock()
        self.acknowledged = Acknowledged()
        self._batches = asyncio.Semaphore(MAX_CALLS_IN_FLIGHT)
        self._batches_waiting = 0
        self.journal_is_full = False
        """Set by whoever looks at how much waits for the ledger."""
        self.damage: str | None = None
        """What is wrong in Redis and not mended yet, set by whoever looks."""
        self.on_lost: Callable[[Sequence[Step], int], None] = lambda _steps, _until_ms: None

    @property
    def are_away(self) -> bool:
        """Whether Redis is known not to answer."""
        return self._trips.are_refused

    def decide(self, step: Step) -> asyncio.Future[Reply]:
        """The reply to a step, together with whatever else is asked in this turn of the loop."""
        self._trips.refuse_while_away()
        self._refuse_when_full([step])
        return self._gathering.add(step)

    async def decide_in_order(self, steps: Sequence[Step]) -> list[Reply | CountersUnavailable]:
        """The replies to at most MAX_BATCH_STEPS steps, decided one after the other in one call of their own; where
        that has none, what each step is told instead. It raises only if nothing was sent.
        """
        assert len(steps) <= MAX_BATCH_STEPS, "the caller cuts a batch into calls"
        self._trips.refuse_while_away()
        self._refuse_when_full(steps)
        if self._batches_waiting >= MAX_WAITING_BATCHES:
            raise CountersUnavailable(
                f"{MAX_WAITING_BATCHES} batches are waiting for Redis already; nothing was charged"
            )
        self._batches_waiting += 1
        try:
            async with self._batches:
                self._trips.refuse_while_away()  # it may have gone away while this batch waited
                try:
                    return list(await self._decide(steps))
                except CountersUnavailable as error:
                    return [told_of(step, error) for step in steps]
        finally:
            self._batches_waiting -= 1

    def _refuse_when_full(self, steps: Sequence[Step]) -> None:
        if self.journal_is_full and any(step.mode is not Mode.CHECK for step in steps):
            raise CountersUnavailable(
                "the ledger has been away for so long that the journal is full; nothing was charged"
            )

    async def _decide(self, steps: Sequence[Step]) -> list[Reply]:
        not_after_ms = self.clock.now_ms() + CHARGE_WITHIN_MS
        try:
            call = protocol.consume(steps, self.record_ttl_ms, not_after_ms)
            texts = await self._trips.told(self._run(call))
        except CountersUnavailable as error:
            lost = [step for step in steps if step.mode is not Mode.CHECK]
            if lost and is_of_unknown_outcome(error):
                self.on_lost(lost, not_after_ms)
            raise
        replies = [_read(text) for text in texts]
        for step, reply in zip(steps, replies, strict=True):
            self.acknowledged.heard(step.shard, reply)
        # The first answer under an idempotency key has the instant of that answer.
        self.clock.heard(max((reply.now_ms for reply in replies if not reply.replayed), default=0))
        return replies

    async def run(self, call: Call) -> Any:
        """Runs one script within the deadline."""
        return await self._trips.in_turn(self._run(call))

    async def _probe(self) -> None:
        self.clock.heard(await self._trips.within_deadline(_time_ms(self._connection)))

    async def _run(self, call: Call) -> Any:
        script = SCRIPTS[call.script]
        try:
            return await self._connection.evalsha(script.sha, len(call.keys), *call.keys, *call.arguments)
        except NoScriptError:
            return await self._connection.eval(script.text, len(call.keys), *call.keys, *call.arguments)

    async def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Runs independent scripts, a hundred a trip; a call that failed has its RedisError in place of a reply."""
        replies: list[Any] = []
        for first in range(0, len(calls), MAX_PIPELINED_CALLS):
            chunk = calls[first : first + MAX_PIPELINED_CALLS]
            pipeline = self._connection.pipeline(transaction=False)
            for call in chunk:
                pipeline.evalsha(SCRIPTS[call.script].sha, len(call.keys), *call.keys, *call.arguments)
            found = await self._trips.in_turn(pipeline.execute(raise_on_error=False))
            for call, reply in zip(chunk, found, strict=True):
                replies.append(await self.run(call) if isinstance(reply, NoScriptError) else reply)
        return replies

    async def epochs(self, shards: list[int]) -> dict[int, int | None]:
        """The epoch in each shard's head, None where there is no head."""
        pipeline = self._connection.pipeline(transaction=False)
        for shard in shards:
            pipeline.hmget(keys.head(shard), ("epoch", "fence"))
        found = await self._trips.in_turn(pipeline.execute())
        return {shard: epoch_in(head) for shard, head in zip(shards, found, strict=True)}

    async def has_record(self, record_key: str) -> bool:
        """Whether an answer is remembered under this name."""
        return await self._trips.in_turn(_exists(self._connection, record_key))

    async def entries(self, shard: int, first: str, last: str, count: int) -> list[Entry]:
        """At most `count` entries that the shard's journal still holds, from one place to another, both included."""
        found: list[Entry] = []
        while len(found) < count:
            page = min(MAX_ENTRIES_A_TRIP, count - len(found))
            items = await self._trips.in_turn(_range(self._connection, keys.journal(shard), first, last, page))
            found += [parsed_entry(shard, item[0], item[1]) for item in items]
            if len(items) < page:
                break
            first = f"({found[-1].place}"
        return found

    async def entries_since(self, shard: int, from_ms: int) -> list[Entry]:
        """The entries that the shard's journal still holds of what happened since an instant, the latest first.

        CountersUnavailable when they are more than can be looked through: then many of them are on their way out.
        """
        found: list[Entry] = []
        last = "+"
        while len(found) < MAX_ENTRIES_SINCE:
            items = await self._trips.in_turn(
                _range_back(self._connection, keys.journal(shard), last, MAX_ENTRIES_A_TRIP)
            )
            page = [parsed_entry(shard, item[0], item[1]) for item in items]
            found += [entry for entry in page if entry.occurred_at_ms >= from_ms]
            if len(page) < MAX_ENTRIES_A_TRIP or page[-1].occurred_at_ms < from_ms:
                return found
            last = f"({page[-1].place}"
        raise CountersUnavailable("the journal is longer than can be looked through")

    async def ping(self) -> None:
        """Raises CountersUnavailable when Redis does not answer, or what it has cannot be used."""
        await self._trips.told(self._probe())
        if self.damage is not None:
            raise CountersUnavailable(self.damage)

    async def close(self) -> None:
        """Waits for what is under way, then closes the connections."""
        self._trips.close()
        await self._gathering.wait(self._deadline_s)
        await self._connection.aclose()


def _read(text: bytes) -> Reply:
    # One account with a text that nobody can read must not fail the others of its call.
    try:
        return parsed_reply(text.decode())
    except ValueError as error:
        return Reply(Outcome.FAILED, reason=f"the reply cannot be read ({error}), and it may have been charged")


async def _time_ms(connection: redis.asyncio.Redis) -> int:
    seconds, microseconds = await connection.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def _exists(connection: redis.asyncio.Redis, name: str) -> bool:
    return bool(await connection.exists(name))


async def _range(connection: redis.asyncio.Redis, stream: str, first: str, last: str, count: int) -> list[Any]:
    found: Any = await connection.xrange(stream, min=first, max=last, count=count)
    return list(found)


async def _range_back(connection: redis.asyncio.Redis, stream: str, last: str, count: int) -> list[Any]:
    found: Any = await connection.xrevrange(stream, max=last, count=count)
    return list(found)
