"""The lives of a Redis: the time in which one process is the primary. Within a life it never goes back in time; the
next one may begin with an older file, or on a replica that lagged behind. So none is used before somebody who knows the
ledger has looked at it: else it would give out places in the journal a second time.
"""

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from quota import keys, protocol
from quota.errors import CountersUnavailable
from quota.identifiers import MAX_AMOUNT
from quota.journal import Place
from quota.scripts import SCRIPTS

NAMES = re.compile(rb"^(run_id|master_replid):(\w+)", re.MULTILINE)
BEGAN = re.compile(rb"(\d{1,19}) (\d{1,19})-(\d{1,20})")
OF_THE_KEY = re.compile("no such key|WRONGTYPE")
"""What Redis says of a key that is not there, or is something else: no other refusal says anything of the shard."""
HEAD_FIELDS = ("epoch", "fence", "began")
NOWHERE = Place(0, 0)
MAX_EPOCH_DIGITS = 16
"""Of 2^53 - 1: the scripts compare doubles, and the ledger has no number for much larger ones."""
LOOK_WITHIN_S = 2.0
START_WITHIN_S = 5.0

T = TypeVar("T")


class NotLookedAt(RedisConnectionError):
    """A connection to a life of Redis that nobody has looked at yet. Nothing was sent on it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a shard has come in Redis: the epoch in its head, None without one, the last place that its journal has
    given out, and how many entries wait there. `began` is where the journal stood when that epoch began, None if the
    head does not say. `is_damaged`: its journal is something else, and holds up the entries of all shards."""

    epoch: int | None
    last: Place
    waiting: int = 0
    began: Place | None = None
    is_damaged: bool = False

    def is_behind(self, epoch: int, place: Place) -> bool:
        """Whether it was further before: in this epoch, at this place."""
        if self.is_damaged or self.epoch is None or self.epoch < epoch:
            return True
        return self.epoch == place.epoch and self.last < place

    def had_of(self, epoch: int) -> Place | None:
        """How far it still was in this epoch, even where a later one has begun since; None where all was gone."""
        if self.epoch is None or self.is_damaged:
            return None
        if self.epoch <= epoch:
            return self.last
        stood_at = self.last if self.began is None else self.began
        return stood_at if stood_at > NOWHERE and stood_at.epoch <= epoch else None


def name_of(info: bytes) -> str:
    """The name of a life, from what INFO says of the server and its replication: a restart and a fail-over change it.
    ValueError when INFO does not say it."""
    found = dict(NAMES.findall(info))
    if len(found) < 2:
        raise ValueError("INFO tells no run_id and master_replid: a Redis that went back in time could not be told")
    return f"{found[b'run_id'].decode()}.{found[b'master_replid'].decode()}"


class Lives:
    """Which life of Redis the connections of one process may use."""

    def __init__(self) -> None:
        self._looked_at = ""
        self.is_unknown = asyncio.Event()
        """Set while a connection was refused, and nobody has looked since."""

    def may_be_used(self, name: str) -> None:
        """Says that somebody has looked at this life."""
        self._looked_at = name
        self.is_unknown.clear()

    async def admit(self, connection: Any) -> None:
        """What redis-py does with each new connection. NotLookedAt if it leads to a life that may not be used yet."""
        await connection.on_connect()
        await connection.send_command("INFO", "server", "replication")
        if name_of(await connection.read_response(disable_decoding=True)) != self._looked_at:
            self.is_unknown.set()
            raise NotLookedAt("the counters were started anew, and are looked at first; nothing was charged")


class Looking:
    """What is asked of a Redis before it may be used. Every method raises CountersUnavailable when it does not answer.

    `connection` is one that `Lives` does not refuse.
    """

    def __init__(self, connection: "redis.asyncio.Redis") -> None:
        self._connection = connection

    async def name(self) -> str:
        """The name of the life that answers."""
        info: Any = await _told(self._connection.info("server", "replication"))
        return f"{info['run_id']}.{info['master_replid']}"

    async def now_ms(self) -> int:
        """What Redis's clock says."""
        seconds, microseconds = await _told(self._connection.time())
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def standings(self, shards: Sequence[int]) -> dict[int, Standing]:
        pipeline = self._connection.pipeline(transaction=False)
        for shard in shards:
            pipeline.hmget(keys.head(shard), HEAD_FIELDS)
            pipeline.xinfo_stream(keys.journal(shard))
        replies = await _told(pipeline.execute(raise_on_error=False))
        return {
            shard: standing_of(head, journal)
            for shard, head, journal in zip(shards, replies[::2], replies[1::2], strict=True)
        }

    async def begin(self, epochs: Mapping[int, int], store: str) -> None:
        """Gives shards their heads; one that is in a later epoch keeps it."""
        pipeline = self._connection.pipeline(transaction=False)
        for shard, epoch in epochs.items():
            call = protocol.begin_epoch(shard, epoch, store)
            pipeline.eval(SCRIPTS[call.script].text, len(call.keys), *call.keys, *call.arguments)
        await _told(pipeline.execute())

    async def stores(self, shards: Sequence[int]) -> set[str]:
        """The names of the ledgers that the shards' heads say they belong to."""
        pipeline = self._connection.pipeline(transaction=False)
        for shard in shards:
            pipeline.hget(keys.head(shard), "store")
        return {name.decode() for name in await _told(pipeline.execute()) if name}

    async def info(self) -> tuple[dict[str, object], str | None]:
        """What the server says of itself, and its appendfsync; None where CONFIG may not be read."""
        try:
            async with asyncio.timeout(START_WITHIN_S):
                return await self._connection.info(), await self._appendfsync()
        except TimeoutError as error:
            raise CountersUnavailable(f"Redis did not answer within {START_WITHIN_S:.0f} s") from error
        except RedisError as error:  # told to whoever starts a process, who needs the address
            raise CountersUnavailable(f"Redis cannot be reached: {error}") from error

    async def _appendfsync(self) -> str | None:
        try:
            return (await self._connection.config_get("appendfsync")).get("appendfsync")
        except RedisError:
            return None  # managed servers forbid it; INFO has told the rest

    async def close(self) -> None:
        await self._connection.aclose()


def standing_of(head: Any, journal: Any) -> Standing:
    """From the HEAD_FIELDS of a head, and XINFO of its journal. CountersUnavailable when one was not told."""
    for reply in (head, journal):
        if isinstance(reply, Exception) and not OF_THE_KEY.search(str(reply)):
            raise CountersUnavailable("the counters cannot be looked at") from reply
    epoch = epoch_in(head)
    if isinstance(journal, Exception):
        return Standing(epoch, NOWHERE, began=_began(head, epoch), is_damaged="WRONGTYPE" in str(journal))
    last = Place.parsed(journal["last-generated-id"].decode())
    return Standing(epoch, last, journal["length"], _began(head, epoch))


def epoch_in(head: Any) -> int | None:
    """Of a head's epoch and fence; None of a head that is not there. One that nobody can read is none either: its shard
    begins an epoch, and so gets another."""
    if isinstance(head, Exception):
        return None
    epoch, fence, *_ = head
    is_whole = (epoch or b"").isdigit() and len(epoch) <= MAX_EPOCH_DIGITS and (fence or b"0").isdigit()
    return int(epoch) if is_whole and int(epoch) <= MAX_AMOUNT else None


def _began(head: Any, epoch: int | None) -> Place | None:
    found = None if epoch is None else BEGAN.fullmatch(head[2] or b"")
    # Where somebody has written the head by hand, it speaks of another epoch than its own.
    return Place(int(found[2]), int(found[3])) if found and int(found[1]) == epoch else None


async def _told(answer: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(LOOK_WITHIN_S):
            return await answer
    except (RedisError, TimeoutError) as error:
        raise CountersUnavailable("the counters cannot be looked at; nothing was charged") from error
