"""A clock step back on the Redis host: it is noticed, one incident tells of it, and what counts goes on counting."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.app import Gateway
from gateway.clock_steps import ClockSteps
from ledger import incidents, shards
from ledger.store import Store
from quota.formats import CapState, GrantState
from quota.lives import Looking
from quota.periods import DAY_MS, Period, PeriodKind
from quota.protocol import Mode, consume
from quota.redis_clock import RedisClock
from quota.settings import Settings
from tests.conftest import Database, Stores
from tests.integration.counting import until, within
from tests.integration.pipeline import Pipeline
from tests.integration.shard import outcomes
from tests.system import port_of

HOUR_MS = 3_600_000
TIME = re.compile(rb"(\*2\r\n\$10\r\n)(\d{10})(\r\n\$\d+\r\n\d+\r\n)")


class Host:
    """What stands between a process and the server, as a host would whose clock was set: it changes what TIME says."""

    def __init__(self, url: str) -> None:
        self._port = port_of(url)
        self._url = url
        self.ahead_s = 0
        self._passing: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        """Listening; the address to reach the server by."""
        self._passing = []
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield self._url.replace(f":{self._port}/", f":{server.sockets[0].getsockname()[1]}/")
        finally:
            server.close()
            await asyncio.gather(*self._passing)  # each ends with its connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._port)
        self._passing.append(asyncio.create_task(self._pass_on(reader, there)))
        self._passing.append(asyncio.create_task(self._pass_on(there_reader, writer)))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while said := await reader.read(65_536):
                writer.write(TIME.sub(self._shifted, said))
        writer.close()

    def _shifted(self, found: re.Match[bytes]) -> bytes:
        return found[1] + b"%d" % (int(found[2]) + self.ahead_s) + found[3]


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        pipeline.clocked.now_ms()
        yield pipeline


def client(url: str) -> Any:
    return redis.asyncio.Redis.from_url(url, retry=Retry(NoBackoff(), 0))


def test_of_many_gateways_that_see_a_step_one_tells(stores: Stores, database: Database, pipeline: Pipeline) -> None:
    host = Host(stores.redis_url)

    async def ask() -> None:
        store = Store(database.application_url)
        async with host.up() as url:
            lookings = [Looking(client(url)) for _ in range(4)]
            gateways = [ClockSteps(each, RedisClock(), store) for each in lookings]

            async def look() -> None:
                await asyncio.gather(*(each.look() for each in gateways))
                await asyncio.gather(*(each.tell() for each in gateways))

            for ahead_s in (0, 0, -3600, -3600, 7200):
                host.ahead_s = ahead_s
                await look()
            for each in lookings:
                await each.close()
        await store.close()

    within(ask())
    ((_, kind, detail),) = pipeline.incidents()
    assert (kind, detail["shards"]) == ("clock", "all")
    assert HOUR_MS - 500 < detail["by_ms"] <= HOUR_MS
    assert detail["was_ms"] - detail["is_ms"] == detail["by_ms"]


def test_a_gateway_that_begins_after_the_step_tells_unless_it_was_told(
    stores: Stores, database: Database, pipeline: Pipeline
) -> None:
    shard = pipeline.clocked.open()
    shard.set_clock(newest := shard.now_ms() // 1000 * 1000)
    shard.consume(shard.step(1))
    pipeline.drained()
    assert pipeline.call(shards.newest_ms) == newest
    host = Host(stores.redis_url)

    async def begin(ahead_s: int) -> None:
        host.ahead_s = ahead_s
        store = Store(database.application_url)
        async with host.up() as url:
            looking = Looking(client(url))
            steps = ClockSteps(looking, RedisClock(), store)
            await steps.look()
            await steps.tell()
            await looking.close()
        await store.close()

    for ahead_s, told in ((0, 0), (-3600, 1), (-3600, 1), (-7200, 1)):
        within(begin(ahead_s))
        assert len(pipeline.incidents()) == told
    assert pipeline.incidents()[0][2]["was_ms"] == newest
    assert pipeline.call(incidents.counts, 24)["clock"] == 1


def test_a_later_step_of_another_size_is_told_as_well(pipeline: Pipeline) -> None:
    for by_ms, is_new in ((3_000, True), (3_400, False), (8_000, True), (8_000, False)):
        assert pipeline.call(incidents.tell_of_clock, 10**12, 10**12 - by_ms, True) is is_new
    assert [detail["by_ms"] for _, _, detail in pipeline.incidents()] == [3_000, 8_000]


def test_what_was_spent_stays_spent_and_the_ledger_follows(pipeline: Pipeline) -> None:
    """An hour back: caps, grants that have expired, holds and the journal, and nothing drifts or is an incident."""
    shard, now_ms = pipeline.clocked, pipeline.clocked.now_ms()
    today = Period(PeriodKind.DAY, now_ms // DAY_MS * DAY_MS, now_ms // DAY_MS * DAY_MS + DAY_MS)
    shard.set_clock(today.start_ms + 2 * HOUR_MS)
    soon = GrantState(1, 0, shard.now_ms() + 60_000, 5)
    shard.open(limit=10, caps=(CapState(today, 8),), grants=(soon,), journalled_grant=1)
    place = shard.hold(2, ttl_ms=60_000)
    assert outcomes(shard.consume(shard.step(3))) == ["allowed"]
    shard.step_clock(60_000)  # the hold and the grant are over
    (reply,) = shard.consume(shard.step(1))
    assert (reply.accounts[0].used, reply.accounts[0].held, reply.accounts[0].limit) == (4, 0, 10)
    pipeline.drained()
    shard.step_clock(-HOUR_MS)
    (reply,) = shard.consume(shard.step(5))
    assert (reply.outcome.value, reply.accounts[0].caps[0].spent) == ("denied", 4)
    (reply,) = shard.consume(shard.step(4))
    assert (reply.outcome.value, reply.accounts[0].limit) == ("allowed", 10), "the grant does not come back"
    assert shard.do(Mode.COMMIT, (None, place)).outcome.value == "not_held", "nor does the hold"
    pipeline.drained()
    assert pipeline.incidents() == []
    assert pipeline.reconcile().run_once().drifted == 0
    assert pipeline.rows("SELECT used FROM balances") == [(8,)]


def test_a_key_is_charged_once_on_both_sides_of_a_step(pipeline: Pipeline) -> None:
    shard = pipeline.clocked.open()
    (first,) = shard.consume(shard.step(2, key="k"))
    shard.step_clock(-HOUR_MS)
    (again,) = shard.consume(shard.step(2, key="k"))
    assert (again.replayed, again.first_n, shard.used()) == (True, first.first_n, 2)


def test_a_call_from_before_a_step_is_still_charged_once_and_one_that_came_too_late_is_not(pipeline: Pipeline) -> None:
    """A call says until when it may be charged, by the clock as its gateway knows it."""
    shard = pipeline.clocked.open()
    until_ms = shard.now_ms() + 1_000
    for step_ms, said in ((-HOUR_MS, b"allowed"), (2 * HOUR_MS, b"late")):
        shard.step_clock(step_ms)
        (text,) = shard.run(consume([shard.step(1)], 1000, until_ms))
        assert text.startswith(said)
    assert shard.used() == 1


def test_a_gateway_at_work_notices_a_step_within_5_s(
    stores: Stores, database: Database, pipeline: Pipeline, tmp_path: Path
) -> None:
    host = Host(stores.redis_url)

    async def ask() -> float:
        async with host.up() as url:
            urls = {"redis_url": url, "database_url": database.application_url}
            settings = Settings(**urls, outage_dir=str(tmp_path), deadline_ms=5_000)
            gateway = Gateway(settings)
            parts = await gateway.open()
            looking = asyncio.create_task(parts.looks.keep_going())
            host.ahead_s = -3600
            begun_s = time.monotonic()
            await until(lambda: len(pipeline.incidents()) == 1)
            noticed_s = time.monotonic() - begun_s
            looking.cancel()
            await gateway.close()
            return noticed_s

    assert within(ask()) < 5
    assert pipeline.incidents()[0][1] == "clock"
