"""Counters on a client that counts its trips, and servers that do not answer."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from quota import keys
from quota.counters import Counters
from quota.protocol import Charge, Mode, Step
from quota.replies import Reply
from quota.scripts import SCRIPTS
from quotagate.data_folder import remembered_port
from quotagate.embedded import valkey_part, valkey_url
from quotagate.supervisor import Supervisor

LONG_DEADLINE_S = 10.0
DEADLINE_S = 0.2
"""Long enough that a busy machine does not reach it by itself, short enough to wait for it some times."""
T = TypeVar("T")


class CountedRedis(redis.asyncio.Redis):
    """Notes how many steps each consume had, how many calls were on their way at once, and every command."""

    batches: list[int]
    commands: list[str]
    under_way = most_under_way = 0

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        self.commands.append(str(arguments[0]))
        return await super().execute_command(*arguments, **options)

    async def evalsha(self, sha: str, numkeys: int, *arguments: Any) -> Any:
        if sha == SCRIPTS["consume"].sha:
            self.batches.append(arguments[numkeys])
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await super().evalsha(sha, numkeys, *arguments)
        finally:
            self.under_way -= 1


@asynccontextmanager
async def counting(
    url: str, deadline_s: float = LONG_DEADLINE_S, max_connections: int = 64
) -> AsyncIterator[tuple[Counters, CountedRedis]]:
    """Counters on a client that is set as the gateway's is."""
    connection: Any = CountedRedis.from_url(
        url, socket_timeout=None, retry=Retry(NoBackoff(), 0), max_connections=max_connections
    )
    connection.batches, connection.commands = [], []
    held = Counters(connection, deadline_s=deadline_s, record_ttl_s=60)
    try:
        yield held, connection
    finally:
        await held.close()


def within(trip: Coroutine[Any, Any, T], deadline_s: float = 30.0) -> T:
    """Runs it in a loop of its own; a hang is an error."""
    return asyncio.run(asyncio.wait_for(trip, deadline_s))


async def until(is_so: Callable[[], bool], deadline_s: float = 10.0) -> float:
    """How many seconds it took to be so; TimeoutError beyond the deadline."""
    started = time.monotonic()
    async with asyncio.timeout(deadline_s):
        while not is_so():  # noqa: ASYNC110 - what it waits for tells nobody
            await asyncio.sleep(0.002)
    return time.monotonic() - started


async def answers(asked: list[asyncio.Future[Reply]]) -> list[Reply | BaseException]:
    return await asyncio.gather(*asked, return_exceptions=True)


class Silent:
    """A server that takes every connection and never says a word."""

    async def __aenter__(self) -> str:
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while await reader.read(65_536):
            pass

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()


A_STEP = Step(0, Mode.CONSUME, keys.catalog_field("t"), 1, (Charge("qg:{0}:a:t:u:m", 1),), b"{}")


class PrivateServer:
    """A Valkey that a test may stop and kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._supervisors = ExitStack()
        self._port = remembered_port(folder, "valkey")
        self.url = valkey_url(self._port, "test")
        self.pid = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.go_on()
        self._supervisors.close()

    def start(self) -> None:
        """Also once more, after it was killed."""
        supervisor = self._supervisors.enter_context(Supervisor())
        log = self._folder / "valkey.log"
        supervisor.start(valkey_part(self._folder / "valkey", self._port, log, password="test"))
        with redis.Redis.from_url(self.url) as connection:
            supervisor.wait_until("valkey", connection.ping, 30)
        self.pid = supervisor.pid("valkey") or 0
        assert self.pid

    def stop(self) -> None:
        """It takes connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
