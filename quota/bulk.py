"""What jobs ask of many shards and accounts at once. Blocking; for workers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

from quota import keys
from quota.formats import NONE, CapState, Window, number
from quota.journal import Place
from quota.lives import HEAD_FIELDS, NOWHERE, Standing, epoch_in, standing_of
from quota.protocol import Call
from quota.scripts import SCRIPTS, run

MAX_PIPELINED_CALLS = 32


@dataclass(frozen=True, slots=True)
class Head:
    """What a shard's head says: its epoch (0: there is no head), its fence, and the epoch that was `rebuilt` last; and
    whether the ledger has all of the epochs before, which it is to be asked for only then. `last` is the place that its
    journal has given out last."""

    epoch: int
    fence: str
    rebuilt: int
    is_drained: bool = True
    last: Place = NOWHERE

    def is_behind(self, epoch: int, place: Place) -> bool:
        """Whether Redis has lost something of what the ledger, asked before, had at this place: the gateways are about
        to begin an epoch, and nothing is to be written meanwhile."""
        return Standing(self.epoch or None, self.last).is_behind(epoch, place)


@dataclass(frozen=True, slots=True)
class Running:
    """An account as a reset must know it: the epoch that it was brought in, the version of its terms and when they end
    by themselves, the window that it is in, its caps, and the entry that it stands at, if any."""

    epoch: int
    version: int
    until_ms: int | None
    window: Window
    caps: tuple[CapState, ...]
    entry: Place | None

    def is_over(self, now_ms: int) -> bool:
        end_ms = self.window.period.end_ms
        return end_ms is not None and end_ms <= now_ms


class Bulk:
    """Bound to one Redis."""

    def __init__(self, connection: "Redis") -> None:
        self._connection = connection

    def now_ms(self) -> int:
        """Redis's clock."""
        seconds, microseconds = self._connection.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def heads(self, shards: Iterable[int]) -> dict[int, Head]:
        shards = list(shards)
        pipeline = self._connection.pipeline(transaction=False)
        for shard in shards:
            pipeline.hmget(keys.head(shard), (*HEAD_FIELDS, "rebuilt"))
            pipeline.xrange(keys.journal(shard), count=1)
            pipeline.xinfo_stream(keys.journal(shard))
        replies = pipeline.execute(raise_on_error=False)
        return {
            shard: _head(*found)
            for shard, *found in zip(shards, replies[::3], replies[1::3], replies[2::3], strict=True)
        }

    def note_rebuilt(self, epochs: Mapping[int, int]) -> None:
        """Notes in the heads that every account of these epochs was looked at."""
        pipeline = self._connection.pipeline(transaction=False)
        for shard, epoch in epochs.items():
            pipeline.hset(keys.head(shard), "rebuilt", epoch)
        pipeline.execute()

    def epochs_of(self, account_keys: Sequence[str]) -> list[int]:
        """The epoch that each account was brought in, 0 for one that is not there, or that nobody can read."""
        by_tag: dict[str, list[str]] = {}
        for key in account_keys:
            by_tag.setdefault(keys.tag_of(key), []).append(key)
        # After a loss none of a shard's accounts is there, and one question for all of them is enough to know it.
        pipeline = self._connection.pipeline(transaction=False)
        for some in by_tag.values():
            pipeline.exists(*some)
        there = [key for some, count in zip(by_tag.values(), pipeline.execute(), strict=True) if count for key in some]
        pipeline = self._connection.pipeline(transaction=False)
        for key in there:
            pipeline.hget(key, "rule")
        rules = dict(zip(there, pipeline.execute(raise_on_error=False), strict=True))
        return [_epoch_in(rules.get(key)) for key in account_keys]

    def running(self, account_keys: Sequence[str]) -> list[Running | None]:
        """The accounts of these keys; None of one that is not there, or that nobody can read."""
        pipeline = self._connection.pipeline(transaction=False)
        for key in account_keys:
            pipeline.hmget(key, ("rule", "window", "state", "caps"))
        return [_running(fields) for fields in pipeline.execute(raise_on_error=False)]

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """The replies of independent scripts, some a trip."""
        replies: list[Any] = []
        for first in range(0, len(calls), MAX_PIPELINED_CALLS):
            chunk = calls[first : first + MAX_PIPELINED_CALLS]
            pipeline = self._connection.pipeline(transaction=False)
            for call in chunk:
                pipeline.evalsha(SCRIPTS[call.script].sha, len(call.keys), *call.keys, *call.arguments)
            for call, reply in zip(chunk, pipeline.execute(raise_on_error=False), strict=True):
                if isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
                    raise reply
                # Of a script that was forgotten nothing had run.
                replies.append(_decoded(run(self._connection, call) if isinstance(reply, NoScriptError) else reply))
        return replies


def _epoch_in(rule: Any) -> int:
    word = rule.partition(b" ")[0] if isinstance(rule, bytes) else b""
    return int(word) if word.isdigit() else 0


def _head(fields: Any, oldest: Any, journal: Any) -> Head:
    standing = standing_of(fields, journal)
    if standing.epoch is None or standing.is_damaged:
        return Head(0, "0", 0)  # its next epoch is about to begin
    if isinstance(oldest, Exception):
        raise oldest
    _, fence, _, rebuilt = fields
    is_drained = not oldest or Place.parsed(oldest[0][0].decode()).epoch >= standing.epoch
    was_rebuilt = epoch_in((rebuilt, None)) or 0
    return Head(standing.epoch, (fence or b"0").decode(), was_rebuilt, is_drained, standing.last)


def _running(fields: Any) -> Running | None:
    if isinstance(fields, Exception) or None in fields[:3]:
        return None
    rule, window, state, caps = ((field or b"").decode(errors="replace") for field in fields)
    try:
        epoch, version, _, _, until, *_ = rule.split(" ")
        place = state.split(" ")[1]
        entry = None if place == NONE else Place.parsed(place)
        found = tuple(CapState.parsed(text) for text in caps.split(";") if text)
        return Running(int(epoch), int(version), number(until), Window.parsed(window), found, entry)
    except (LookupError, ValueError):
        return None


def _decoded(reply: Any) -> Any:
    return [each.decode() for each in reply] if isinstance(reply, list) else reply.decode()
