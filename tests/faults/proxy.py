"""A TCP proxy that breaks what goes through it: between a gateway and one of its stores."""

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

MAX_CHUNK_BYTES = 64 * 1024
SCRIPT = b"EVALSHA"


@dataclass
class Faults:
    """What happens to each connection from now on; may be set at any time, from any thread.

    `drop_chance` is the share of the replies to scripts that are not passed on: the connection is closed instead, after
    the server has done what was asked. `drop_next` so many replies to scripts are lost for certain, after `pass_next`
    that are not. `delay_chance` is the share of them that are passed on after `delay_s`.
    """

    drop_chance: float = 0.0
    pass_next: int = 0
    drop_next: int = 0
    delay_chance: float = 0.0
    delay_s: float = 0.0
    swallows: bool = False
    """Takes requests and answers none: a black hole."""
    refuses: bool = False


@dataclass
class Counts:
    """What came, whether it went through or not."""

    connections: int = 0
    requests: int = 0
    scripts: int = 0
    dropped: int = 0
    delayed: int = 0

    @property
    def trips(self) -> int:
        """Whatever the gateway tried to send, be it no more than a new connection."""
        return self.connections + self.requests


class Proxy:
    """Listens on a free port of 127.0.0.1 in a thread of its own, and passes on to `port` what its faults let through.
    New connections go to `target`, which is that port until another is set.

    `seed` decides which replies are lost.
    """

    def __init__(self, port: int, seed: int = 1) -> None:
        self.target = port
        self._random = random.Random(seed)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.faults = Faults()
        self.counts = Counts()

    def start(self) -> "Proxy":
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10), "the proxy does not listen"
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def open_connections(self) -> int:
        return len(self._writers)

    def heal(self) -> None:
        """Passes everything on again. What was swallowed stays so: its connections are closed."""
        was_broken, self.faults = self.faults, Faults()
        if was_broken.swallows:
            self.cut()

    def cut(self) -> None:
        """Breaks every connection that there is."""
        self._loop.call_soon_threadsafe(self._close_all)

    @contextmanager
    def broken(self, **faults: float) -> Iterator[Counts]:
        """With these faults inside the block, and with none after it."""
        self.faults = Faults(**faults)  # type: ignore[arg-type]
        if self.faults.refuses:
            self.cut()
        try:
            yield self.counts
        finally:
            self.heal()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=2048))
        self.port = self._server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._close_all()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _close_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts.connections += 1
        if self.faults.refuses:
            writer.transport.abort()
            return
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        _Pair(self, (reader, writer), upstream).begin(self._tasks, self._writers)

    def fate_of_a_script(self) -> float | None:
        """None: its reply is dropped; else by how many seconds it is delayed."""
        if self.faults.pass_next > 0:
            self.faults.pass_next -= 1
            return 0.0
        if self.faults.drop_next > 0:
            self.faults.drop_next -= 1
            self.counts.dropped += 1
            return None
        if self._random.random() < self.faults.drop_chance:
            self.counts.dropped += 1
            return None
        if self._random.random() < self.faults.delay_chance:
            self.counts.delayed += 1
            return self.faults.delay_s
        return 0.0


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pair:
    """One connection and its other half."""

    def __init__(self, proxy: Proxy, client: Streams, server: Streams) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._fate: float | None = 0.0

    def begin(self, tasks: set[asyncio.Task[None]], writers: set[asyncio.StreamWriter]) -> None:
        own = {self._client[1], self._server[1]}
        writers |= own
        for task in (asyncio.create_task(self._ask()), asyncio.create_task(self._answer())):
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: writers.difference_update(own))

    async def _ask(self) -> None:
        with suppress(OSError):
            while chunk := await self._client[0].read(MAX_CHUNK_BYTES):
                counts = self._proxy.counts
                counts.requests += 1
                if SCRIPT in chunk:
                    counts.scripts += 1
                    self._fate = self._proxy.fate_of_a_script()
                if not self._proxy.faults.swallows:
                    self._server[1].write(chunk)
                    await self._server[1].drain()
        self._close()

    async def _answer(self) -> None:
        with suppress(OSError):
            while chunk := await self._server[0].read(MAX_CHUNK_BYTES):
                if self._fate is None:
                    break
                if self._fate:
                    delay_s, self._fate = self._fate, 0.0
                    await asyncio.sleep(delay_s)
                if not self._proxy.faults.swallows:
                    self._client[1].write(chunk)
                    await self._client[1].drain()
        self._close()

    def _close(self) -> None:
        for _, writer in (self._client, self._server):
            writer.transport.abort()
