"""Many clients at once: a small HTTP/1.1 client, much cheaper than the gateway, that keeps a log of every answer."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

NO_ANSWER = 0
"""The status of a request whose answer never came: it may have been charged or not."""


@dataclass
class Log:
    """What became of each request, by the request id that it carried."""

    status: dict[str, int] = field(default_factory=dict)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def counts(self) -> Counter[int]:
        return Counter(self.status.values())

    def acknowledged(self) -> set[str]:
        return {ident for ident, status in self.status.items() if status == 200}

    def attempted(self) -> set[str]:
        return set(self.status)


class _Client:
    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._head = f"POST /v1/consume HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def consume(self, ident: str, body: bytes) -> tuple[int, bytes]:
        """Status and body; NO_ANSWER when the connection broke after the request was sent."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        try:
            head = f"{self._head}X-Request-Id: {ident}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            status = int((await reader.readline()).split(b" ")[1])
            length = 0
            while (line := await reader.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            return status, await reader.readexactly(length)
        except (OSError, IndexError, ValueError, asyncio.IncompleteReadError):
            self.close()
            return NO_ANSWER, b""

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _work(client: _Client, bodies: deque[tuple[str, bytes]], log: Log, keep_bodies: bool) -> None:
    while bodies:
        ident, body = bodies.popleft()
        try:
            log.status[ident] = NO_ANSWER
            log.status[ident], answer = await client.consume(ident, body)
            if keep_bodies:
                log.bodies[ident] = json.loads(answer or b"{}")
        except OSError:
            del log.status[ident]  # could not connect: it was never sent
            bodies.append((ident, body))
            await asyncio.sleep(0.02)
    client.close()


def hammer(
    urls: Sequence[str],
    key: str,
    requests: Sequence[dict[str, Any]],
    *,
    clients: int = 64,
    meanwhile: Callable[[Log], Any] | None = None,
    keep_bodies: bool = False,
) -> Log:
    """Sends every request once, from many clients spread over the gateways; runs `meanwhile` in a thread beside it.

    A request that could not be sent is sent later; one whose answer was lost is not sent again.
    """
    log = Log()
    bodies = deque((f"r-{place}", json.dumps(request).encode()) for place, request in enumerate(requests))

    async def run() -> None:
        beside = asyncio.create_task(asyncio.to_thread(meanwhile, log)) if meanwhile is not None else None
        workers = [_work(_Client(urls[each % len(urls)], key), bodies, log, keep_bodies) for each in range(clients)]
        await asyncio.gather(*workers)
        if beside is not None:
            await beside

    asyncio.run(run())
    return log
