"""A load client in a process of its own: HTTP/1.1 with keep-alive, no more of it than one server's answers need.

Reads a Plan as JSON from stdin and writes an Outcome as JSON to stdout. It must cost far less than what it measures, so
requests are put together beforehand and only the status and the length of an answer are looked at.
"""

import asyncio
import random
import sys
import threading
import time
from array import array
from collections import Counter, deque
from typing import cast

import msgspec
import uvloop


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`rate` None: each connection asks again as soon as it was answered. Else requests are due at a fixed rate,
    whatever becomes of those before, and the time of each counts from when it was due. `once`: each subject, once."""

    host: str
    port: int
    path: str
    api_key: str
    subjects: list[str]
    metric: str
    seconds: float
    connections: int
    rate: float | None = None
    with_idempotency_key: bool = False
    once: bool = False
    seed: int = 0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds` from the first request to the last answer; times in milliseconds; `cpu_s` is the client's own."""

    requests: int
    seconds: float
    statuses: dict[str, int]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    most_ms: float
    cpu_s: float


class Load:
    """One run of a plan."""

    def __init__(self, plan: Plan, loop: asyncio.AbstractEventLoop) -> None:
        self._plan = plan
        self._loop = loop
        self._chance = random.Random(plan.seed)
        self._bodies = [_request(plan, subject) for subject in plan.subjects]
        self._next = 0
        self._due: deque[float] = deque()
        self._idle: deque[Connection] = deque()
        self._under_way = 0
        self._stopping = False
        self._times = array("d")
        self._statuses: Counter[str] = Counter()
        self.finished: asyncio.Future[None] = loop.create_future()

    def request(self) -> bytes:
        """The next request's bytes."""
        if self._plan.once:
            head, rest = self._bodies[self._next]
        else:
            head, rest = self._bodies[self._chance.randrange(len(self._bodies))]
        self._next += 1
        if self._plan.with_idempotency_key:
            return b"%sidempotency-key: bench-%d-%012d\r\n%s" % (head, self._plan.seed, self._next, rest)
        return head + rest

    def begin(self, connections: "list[Connection]") -> None:
        now = time.perf_counter()
        if self._plan.rate is not None:
            self._idle.extend(connections)
            threading.Thread(target=self._pace, args=(now, self._plan.rate), daemon=True).start()
            return
        if not self._plan.once:
            self._loop.call_later(self._plan.seconds, self._stop)
        for connection in connections:
            self._start(connection, now)

    def done(self, connection: "Connection", status: bytes) -> None:
        """Takes an answer, and gives the connection something else to do."""
        now = time.perf_counter()
        self._times.append(now - connection.due)
        self._statuses[status.decode()] += 1
        self._under_way -= 1
        if self._due:
            self._start(connection, self._due.popleft())
        elif self._plan.rate is None and not self._stopping:
            self._start(connection, now)
        else:
            self._idle.append(connection)
            self._maybe_finish()

    def outcome(self, seconds: float, cpu_s: float) -> Outcome:
        times = sorted(self._times)

        def at(part: float) -> float:
            return times[min(len(times) - 1, int(len(times) * part))] * 1000

        return Outcome(
            requests=len(times),
            seconds=seconds,
            statuses=dict(self._statuses),
            p50_ms=at(0.5),
            p90_ms=at(0.9),
            p99_ms=at(0.99),
            most_ms=times[-1] * 1000,
            cpu_s=cpu_s,
        )

    def _start(self, connection: "Connection", due: float) -> None:
        if self._plan.once and self._next >= len(self._bodies):
            self._stopping = True
            self._maybe_finish()
            return
        self._under_way += 1
        connection.ask(due, self.request())

    def _pace(self, began: float, rate: float) -> None:
        # A thread, because the loop's timers are a millisecond coarse, which would be told as the gateway's latency.
        for place in range(int(self._plan.seconds * rate)):
            due = began + place / rate
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)
            self._loop.call_soon_threadsafe(self._fall_due, due)
        self._loop.call_soon_threadsafe(self._stop)

    def _fall_due(self, due: float) -> None:
        if self._idle:
            self._start(self._idle.popleft(), due)
        else:
            self._due.append(due)

    def _stop(self) -> None:
        self._stopping = True
        self._maybe_finish()

    def _maybe_finish(self) -> None:
        if self._stopping and self._under_way == 0 and not self._due and not self.finished.done():
            self.finished.set_result(None)


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it

    def ask(self, due: float, request: bytes) -> None:
        self.due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        head_end = buffer.find(b"\r\n\r\n")
        length_at = buffer.find(b"content-length: ", 0, head_end) + 16
        if head_end < 0 or len(buffer) < head_end + 4 + int(buffer[length_at : buffer.index(b"\r\n", length_at)]):
            self._buffer = buffer
            return
        self._buffer = b""
        self._load.done(self, buffer[9:12])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._load.finished.done():
            self._load.finished.set_exception(exc or ConnectionError("the server closed a connection"))


def _request(plan: Plan, subject: str) -> tuple[bytes, bytes]:
    body = msgspec.json.encode({"subject": subject, "metric": plan.metric, "amount": 1})
    head = (
        f"POST {plan.path} HTTP/1.1\r\nhost: {plan.host}:{plan.port}\r\nauthorization: Bearer {plan.api_key}\r\n"
        "content-type: application/json\r\naccept: */*\r\nuser-agent: bench\r\n"
    )
    return head.encode(), b"content-length: %d\r\n\r\n%s" % (len(body), body)


async def run(plan: Plan) -> Outcome:
    loop = asyncio.get_running_loop()
    load = Load(plan, loop)
    connections = []
    for _ in range(plan.connections):
        _, connection = await loop.create_connection(lambda: Connection(load), plan.host, plan.port)
        connections.append(connection)
    began, cpu_began = time.perf_counter(), time.process_time()
    load.begin(connections)
    await load.finished
    return load.outcome(time.perf_counter() - began, time.process_time() - cpu_began)


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(plan))))


if __name__ == "__main__":
    main()
