"""The lag of each entry: from the instant of its answer, by Redis's clock, to the moment when the ledger had it.

The shards' offsets move in the transaction that writes the entries; so whoever looks at them again and again sees what
any reader of the ledger would see, and at most LOOK_EVERY_S too late.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

LOOK_EVERY_S = 0.02
_OFFSETS = "SELECT shard, offset_epoch, offset_n FROM shards"
_ENTRIES = """
SELECT shard, epoch, n, extract(epoch FROM occurred_at)::float8 FROM entries WHERE occurred_at >= to_timestamp(%s)
"""
Seen = dict[int, list[tuple[tuple[int, int], float]]]
"""Of each shard its offsets, and when each was seen first."""


@contextmanager
def lags_s(database_url: str) -> Iterator[list[float]]:
    """Looks while the block runs, and fills in the lags when it ends; by then the journals must be drained."""
    found: list[float] = []
    seen: Seen = {}
    stop = threading.Event()
    thread = threading.Thread(target=_look, args=(database_url, seen, stop))
    began_s = time.time()
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
    with psycopg.connect(database_url) as connection:
        for shard, epoch, n, at_s in connection.execute(_ENTRIES, [began_s]):
            offsets = seen[shard]
            _, seen_at_s = offsets[bisect_left(offsets, (epoch, n), key=lambda each: each[0])]
            found.append(max(0.0, seen_at_s - at_s))


def _look(database_url: str, seen: Seen, stop: threading.Event) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        is_last = False
        while not is_last:
            is_last = stop.wait(LOOK_EVERY_S)
            for shard, epoch, n in connection.execute(_OFFSETS):
                offsets = seen.setdefault(shard, [])
                if not offsets or offsets[-1][0] != (epoch, n):
                    offsets.append(((epoch, n), time.time()))
