"""Drains that die where they are told to: `python -m tests.faults.dying_drain`. Its environment names the stores.

Each line that it reads names a point, and the process of the server that dies there, if one does. For each it runs the
real drain in a process of its own, forked, because a new one would be a second of imports; that kills itself, or the
server, at the point. What it says: what was under way then, and the exit status of that process.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import psutil
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Connection

import workers.drain
from ledger import staging
from ledger.store import connect
from quota.errors import LedgerUnavailable
from quota.journal import Entry, Item, Journal, Place
from quota.logs import configure
from workers.drain import Drain

REACHED_WITHIN_S = 15.0
NOT_REACHED, OUTLIVED = 1, 3
"""The exit statuses of a drain that was never at its point, and of one whose server died in its place."""

real_stage, real_trim = staging.stage, Journal.trim
real_read, real_write = Drain._read, Drain._write


def say(words: str) -> None:
    os.write(sys.stdout.fileno(), f"{words}\n".encode())


def die(words: str) -> None:
    say(words)
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_reading() -> None:
    def stage(_connection: Connection, batch: Sequence[Entry], _rows: Sequence[str]) -> None:
        die(f"{len(batch)} entries were read, and none staged")

    workers.drain.stage = stage


def die_copying() -> None:
    def stage(connection: Connection, batch: Sequence[Entry], rows: Sequence[str]) -> None:
        def half() -> Iterator[str]:
            for number, row in enumerate(rows):
                if number >= len(batch) / 2 > 1:
                    die(f"{number} of {len(batch)} entries were copied")
                yield row

        real_stage(connection, batch, half())

    workers.drain.stage = stage


def die_before_trimming() -> None:
    def trim(_journal: Journal, shard: int, last: Item) -> None:
        die(f"shard {shard} was committed through {last[0].decode()}, and not trimmed")

    Journal.trim = trim  # type: ignore[method-assign]


def die_trimming() -> None:
    shards: list[int] = []
    trimmed: list[int] = []

    def read(drain: Drain, connection: Connection, offsets: dict[int, Place], most: int) -> Any:
        found = real_read(drain, connection, offsets, most)
        shards[:], trimmed[:] = found.looked_at, []
        return found

    def trim(journal: Journal, shard: int, last: Item) -> bool:
        if len(trimmed) >= len(shards) / 2 >= 1:
            die(f"{len(trimmed)} of {len(shards)} shards were trimmed")
        trimmed.append(shard)
        return real_trim(journal, shard, last)

    Drain._read = read  # type: ignore[method-assign]
    Journal.trim = trim  # type: ignore[method-assign]


def kill_postgres(server: psutil.Process) -> None:
    def write(drain: Drain, connection: Connection, found: Any) -> int:
        inserted = real_write(drain, connection, found)
        if server.is_running():
            backends = server.children()
            for each in (server, *backends):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            say(f"Postgres died: {inserted} entries were inserted, and not committed")
        return inserted

    Drain._write = write  # type: ignore[method-assign]


def kill_redis(server: psutil.Process) -> None:
    def write(drain: Drain, connection: Connection, found: Any) -> int:
        if server.is_running():
            server.kill()
            say(f"Redis died: {len(found.batch)} entries were read, and not committed")
        return real_write(drain, connection, found)

    Drain._write = write  # type: ignore[method-assign]


DRAINS: dict[str, Callable[[], None]] = {
    "read": die_after_reading,
    "copying": die_copying,
    "committed": die_before_trimming,
    "trimming": die_trimming,
}
SERVERS: dict[str, Callable[[psutil.Process], None]] = {"database": kill_postgres, "redis": kill_redis}
"""By the name that a system has for its address."""


def drain_until(point: str, victim: str) -> int:
    """The real drain on the real stores; comes back only if it was a server that died, or nothing did."""
    drain = Drain(
        Journal(Redis.from_url(os.environ["REDIS_URL"], socket_timeout=5.0)), connect(os.environ["LEDGER_URL"])
    )
    if point in DRAINS:
        DRAINS[point]()
    else:
        SERVERS[point](psutil.Process(int(victim)))
    try:
        drain.run(REACHED_WITHIN_S, lambda: False, lambda _: None)
    except (LedgerUnavailable, RedisError):
        return OUTLIVED
    return NOT_REACHED


def main() -> None:
    configure("critical", "dying-drain")
    for line in sys.stdin:
        point, _, victim = line.strip().partition(" ")
        child = os.fork()
        if child == 0:
            status = NOT_REACHED
            try:
                status = drain_until(point, victim)
            finally:
                os._exit(status)
        say(f"status {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")


if __name__ == "__main__":
    main()
