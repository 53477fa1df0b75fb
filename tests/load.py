"""Many clients at once: a small HTTP/1.1 client, much cheaper than the gateway, that keeps a log of every answer."""

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

NO_ANSWER = 0
"""The status of a request whose answer never came: it may have been charged or not."""
AGAIN_AFTER_S = 0.02


@dataclass(frozen=True)
class Request:
    """One POST. `key` is its idempotency key; `request_id` the one that it carries, if not its own."""

    body: dict[str, Any]
    path: str = "/v1/consume"
    key: str | None = None
    request_id: str | None = None


@dataclass
class Log:
    """What became of each request, by its ident: the request id that it carried, unless it was given another."""

    status: dict[str, int] = field(default_factory=dict)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: list[tuple[int, float, float]] = field(default_factory=list)
    """Of each answer its status, when it was asked for by the monotonic clock, and how many seconds later it came."""
    served: int = 0
    """Answers with 200 so far."""

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
        self._head = f"Host: {self._host}\r\nAuthorization: Bearer {key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, ident: str, request: Request) -> tuple[int, bytes]:
        """Status and body; NO_ANSWER when the connection broke after the request was sent."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        try:
            writer.write(self._bytes_of(ident, request))
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

    def _bytes_of(self, ident: str, request: Request) -> bytes:
        body = json.dumps(request.body).encode()
        head = f"POST {request.path} HTTP/1.1\r\n{self._head}X-Request-Id: {request.request_id or ident}\r\n"
        if request.key is not None:
            head += f"Idempotency-Key: {request.key}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class _Requests:
    """Those that are still to be sent; they are made when they are wanted, so that there may be ever more."""

    def __init__(self, requests: Iterable[Request | dict[str, Any]]) -> None:
        self._fresh: Iterator[tuple[int, Request | dict[str, Any]]] = iter(enumerate(requests))
        self._again: deque[tuple[str, Request]] = deque()

    def next(self) -> tuple[str, Request] | None:
        if self._again:
            return self._again.popleft()
        for place, request in self._fresh:
            return f"r-{place}", request if isinstance(request, Request) else Request(request)
        return None

    def again(self, ident: str, request: Request) -> None:
        self._again.append((ident, request))


async def _work(
    client: _Client, requests: _Requests, log: Log, keep_bodies: bool, until_answered: bool, pause_s: float
) -> None:
    while (wanted := requests.next()) is not None:
        ident, request = wanted
        try:
            log.status.setdefault(ident, NO_ANSWER)
            began = time.monotonic()
            status, answer = await client.post(ident, request)
            log.status[ident] = status
            log.answers.append((status, began, time.monotonic() - began))
            log.served += status == 200
            if keep_bodies:
                log.bodies[ident] = json.loads(answer or b"{}")
        except OSError:
            if not until_answered:
                del log.status[ident]  # could not connect: it was never sent
            status = NO_ANSWER
            requests.again(ident, request)
            await asyncio.sleep(AGAIN_AFTER_S)
            continue
        if until_answered and status in {NO_ANSWER, 503}:
            requests.again(ident, request)
            await asyncio.sleep(AGAIN_AFTER_S)
        elif pause_s:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # or all of them would come at once
    client.close()


def hammer(
    urls: Sequence[str],
    key: str,
    requests: Iterable[Request | dict[str, Any]],
    *,
    clients: int = 64,
    meanwhile: Callable[[Log], Any] | None = None,
    keep_bodies: bool = False,
    until_answered: bool = False,
    pause_s: float = 0.0,
    into: Log | None = None,
) -> Log:
    """Sends every request once, from many clients spread over the gateways; runs `meanwhile` in a thread beside it.

    A request that could not be sent is sent later; one whose answer was lost, or was that it cannot be decided now, is
    sent again only if it is to be sent `until_answered`. `pause_s` is about what a client waits after an answer.
    `into` is a log that has begun, for requests that ask it when to end.
    """
    log = Log() if into is None else into
    waiting = _Requests(requests)

    async def run() -> None:
        beside = asyncio.create_task(asyncio.to_thread(meanwhile, log)) if meanwhile is not None else None
        await asyncio.gather(
            *(
                _work(_Client(urls[each % len(urls)], key), waiting, log, keep_bodies, until_answered, pause_s)
                for each in range(clients)
            )
        )
        if beside is not None:
            await beside

    asyncio.run(run())
    return log
