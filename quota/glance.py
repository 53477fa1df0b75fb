"""A glance at a Redis that serves: how much waits for the ledger, since when, its memory, and some accounts.

It costs two cheap commands a shard, one an account that is asked for, and two more, in two trips; it looks for no keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis import Redis

from quota import keys
from quota.buckets import is_past
from quota.formats import NONE, number
from quota.journal import Place, parsed_entry

MAX_ACCOUNTS = 100


@dataclass(frozen=True)
class Glance:
    """`lag_ms` is the age of the oldest entry that the ledger has not got. `memory_limit_bytes` 0 is none."""

    waiting: int
    lag_ms: int
    memory_bytes: int
    memory_limit_bytes: int


def glance(connection: "Redis", offsets: Mapping[int, Place]) -> Glance:
    """`offsets` are the ledger's. RedisError."""
    pipeline = connection.pipeline(transaction=False)
    pipeline.time()
    pipeline.info("memory")
    for shard, place in offsets.items():
        pipeline.xlen(keys.journal(shard))
        pipeline.xrange(keys.journal(shard), min=f"({place}", count=1)
    (seconds, microseconds), memory, *replies = pipeline.execute()
    now_ms = int(seconds) * 1000 + int(microseconds) // 1000
    oldest = []
    for shard, items in zip(offsets, replies[1::2], strict=True):
        try:
            oldest += [parsed_entry(shard, items[0][0], items[0][1]).occurred_at_ms] if items else []
        except ValueError:  # the drain sets it aside, and tells
            continue
    return Glance(
        # The journal is trimmed a batch late: where nothing is newer than the offset, nothing waits.
        sum(length for length, items in zip(replies[::2], replies[1::2], strict=True) if items),
        max(0, now_ms - min(oldest, default=now_ms)),
        int(memory["used_memory"]),
        int(memory.get("maxmemory", 0)),
    )


def shares_used(connection: "Redis", names: Sequence[str]) -> list[float | None]:
    """Of each account by its key how much of what it may use is used, its plan's limit and its live grants together; 1
    is all of it. None where there is no limit, or no account."""
    assert len(names) <= MAX_ACCOUNTS, f"a glance is at {MAX_ACCOUNTS} accounts at most"
    if not names:
        return []
    pipeline = connection.pipeline(transaction=False)
    pipeline.time()
    for name in names:
        pipeline.hmget(name, ("state", "rule", "grants"))
    (seconds, _), *replies = pipeline.execute()
    return [_share(*reply, now_ms=int(seconds) * 1000) for reply in replies]


def _share(state: bytes | None, rule: bytes | None, grants: bytes | None, *, now_ms: int) -> float | None:
    if state is None or rule is None:
        return None
    used, limit = int(state.decode().split()[0]), rule.decode().split()[5]
    if limit == NONE:
        return None
    most = int(limit)
    for grant in grants.decode().split(";") if grants else ():
        _, _, expires, left, taken, held = grant.split()
        # What has expired goes with what was taken of it, at the account's next touch.
        if is_past(number(expires), now_ms):
            used -= int(taken)
        else:
            most += int(left) + int(taken) + int(held)
    return used / most if most else None
