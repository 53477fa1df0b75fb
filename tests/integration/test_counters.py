"""quota.counters.Counters on a real server, a stopped one, and one that never answers."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from quota import counters, keys, protocol
from quota.counters import MAX_BATCH_STEPS, MAX_CALLS_IN_FLIGHT, MAX_WAITING_STEPS, SCRIPTS, Counters
from quota.errors import CountersUnavailable
from quota.protocol import Charge, Outcome, Reply, Step
from quotagate.data_folder import remembered_port
from quotagate.embedded import valkey_part, valkey_url
from quotagate.supervisor import Supervisor
from tests.conftest import Stores
from tests.integration.shard import Shard

LONG_DEADLINE_S = 10.0
DEADLINE_S = 0.2
"""Long enough that a busy machine does not reach it by itself, short enough to wait for it some times."""
ABOUT_S = 0.3
"""What a machine with two busy cores may add."""
T = TypeVar("T")


class CountedRedis(redis.asyncio.Redis):
    """Notes how many steps each consume had, and how many calls were on their way at once."""

    batches: list[int]
    under_way = most_under_way = 0

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
async def counting(url: str, deadline_s: float = LONG_DEADLINE_S) -> AsyncIterator[tuple[Counters, CountedRedis]]:
    """Counters on a client that is set as the gateway's is."""
    connection = CountedRedis.from_url(url, socket_timeout=None, retry=Retry(NoBackoff(), 0))
    connection.batches = []
    held = Counters(connection, deadline_s=deadline_s, record_ttl_s=60)
    try:
        yield held, connection
    finally:
        await held.close()


def within(trip: Coroutine[Any, Any, T], deadline_s: float = 30.0) -> T:
    """Runs it in a loop of its own; a hang is an error."""
    return asyncio.run(asyncio.wait_for(trip, deadline_s))


def sent(connection: "redis.Redis", command: str) -> int:
    """How often the server was sent a command since CONFIG RESETSTAT."""
    return int(connection.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


@pytest.fixture
def shard(connection: "redis.Redis") -> Shard:
    """An account without a limit; every script known to the server."""
    for script in SCRIPTS.values():
        connection.script_load(script.text)
    shard = Shard(connection).open(limit=None)
    connection.config_resetstat()
    return shard


async def answers(asked: list[asyncio.Future[Reply]]) -> list[Reply | BaseException]:
    return await asyncio.gather(*asked, return_exceptions=True)


@pytest.mark.parametrize(
    ("count", "batches"), [(1, [1]), (100, [100]), (128, [128]), (129, [128, 1]), (300, [128, 128, 44])]
)
def test_requests_of_one_turn_go_out_as_one_call_of_bounded_size(
    stores: Stores, shard: Shard, count: int, batches: list[int]
) -> None:
    async def ask() -> tuple[list[Reply], list[int]]:
        async with counting(stores.redis_url) as (held, connection):
            replies = await asyncio.gather(*(held.decide(shard.step(1)) for _ in range(count)))
            return replies, connection.batches

    replies, found = within(ask())
    assert found == batches
    assert (sent(shard.connection, "evalsha"), sent(shard.connection, "eval")) == (len(batches), 0)
    assert sorted(reply.first_n or 0 for reply in replies) == list(range(count))


def test_many_tasks_that_ask_in_one_turn_share_its_call(stores: Stores, shard: Shard) -> None:
    async def ask() -> None:
        async with counting(stores.redis_url) as (held, _):

            async def one() -> Reply:
                return await held.decide(shard.step(1))

            await asyncio.gather(*(asyncio.create_task(one()) for _ in range(64)))

    within(ask())
    assert sent(shard.connection, "evalsha") == 1


def test_each_caller_gets_its_own_reply(stores: Stores, shard: Shard) -> None:
    async def ask() -> list[Reply]:
        async with counting(stores.redis_url) as (held, _):
            return await asyncio.gather(*(held.decide(shard.step(n)) for n in range(1, 501)))

    replies = within(ask())
    assert [reply.accounts[0].amount for reply in replies] == list(range(1, 501))
    assert shard.account()["used"] == str(sum(range(1, 501)))


def test_few_calls_are_in_flight_at_once_and_the_rest_wait_their_turn(stores: Stores, shard: Shard) -> None:
    async def ask() -> tuple[int, list[int]]:
        async with counting(stores.redis_url) as (held, connection):
            await asyncio.gather(*(held.decide(shard.step(1)) for _ in range(10 * MAX_BATCH_STEPS)))
            return connection.most_under_way, connection.batches

    assert within(ask()) == (MAX_CALLS_IN_FLIGHT, [MAX_BATCH_STEPS] * 10)
    assert shard.account()["used"] == str(10 * MAX_BATCH_STEPS)


def test_more_than_may_wait_are_refused_at_once_and_not_charged(stores: Stores, shard: Shard) -> None:
    async def ask() -> list[Reply]:
        async with counting(stores.redis_url) as (held, connection):
            step = shard.step(1)
            asked = [held.decide(step) for _ in range(MAX_WAITING_STEPS)]
            for _ in range(3):
                with pytest.raises(CountersUnavailable, match="nothing was charged"):
                    held.decide(step)
            assert connection.batches == []
            return await asyncio.gather(*asked)

    replies = within(ask())
    assert {reply.outcome for reply in replies} == {Outcome.ALLOWED}
    assert shard.account()["used"] == str(len(replies)) == str(MAX_WAITING_STEPS)


def test_a_step_that_fails_does_not_harm_the_others_of_its_call(stores: Stores, shard: Shard) -> None:
    other = Shard(shard.connection, 5).open()
    shard.connection.set(keys.journal(5), "not a stream")

    async def ask() -> list[Reply]:
        async with counting(stores.redis_url) as (held, _):
            steps = [shard.step(1), other.step(1), shard.step(-1), shard.step(2), shard.step(1, metric="unheard_of")]
            return await asyncio.gather(*map(held.decide, steps))

    assert [reply.outcome.value for reply in within(ask())] == ["allowed", "failed", "failed", "allowed", "unready"]
    assert shard.account()["used"] == "3"
    assert other.account()["used"] == "0"


def test_a_caller_that_gave_up_does_not_harm_the_others_of_its_call(stores: Stores, shard: Shard) -> None:
    async def ask() -> list[Reply | BaseException]:
        async with counting(stores.redis_url) as (held, _):
            asked = [held.decide(shard.step(1)) for _ in range(3)]
            asked[1].cancel()
            return await answers(asked)

    found = within(ask())
    assert [type(each) for each in found] == [Reply, asyncio.CancelledError, Reply]


def test_a_server_that_forgot_the_scripts_is_sent_them_once_more(stores: Stores, shard: Shard) -> None:
    async def ask() -> list[Any]:
        async with counting(stores.redis_url) as (held, _):
            shard.connection.script_flush()
            await held.decide(shard.step(1))
            shard.connection.script_flush()
            return await held.run_all([protocol.publish(3, "t", 1), protocol.begin_epoch(4, 1, "")])

    assert within(ask()) == [0, b"begun"]
    assert shard.account()["used"] == "1"


def test_calls_in_a_row_go_out_a_hundred_a_trip_and_a_failed_one_stays_alone(stores: Stores, shard: Shard) -> None:
    shard.connection.set(keys.head(7), "not a hash")

    async def ask() -> tuple[list[Any], dict[int, int | None]]:
        async with counting(stores.redis_url) as (held, _):
            replies = await held.run_all([protocol.begin_epoch(number, 1, "") for number in range(250)])
            shard.connection.delete(keys.head(7))
            return replies, await held.epochs([0, 7, 249])

    replies, epochs = within(ask())
    assert [place for place, reply in enumerate(replies) if isinstance(reply, redis.ResponseError)] == [7]
    assert (replies[3], set(replies[:3] + replies[4:7] + replies[8:])) == (b"kept", {b"begun"})
    assert epochs == {0: 1, 7: None, 249: 1}


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


A_STEP = Step(0, keys.catalog_field("t"), 1, (Charge("qg:{0}:a:t:u:m", "m", 1, b"{}"),), True)
HUNG_CALLERS = [1, MAX_CALLS_IN_FLIGHT * MAX_BATCH_STEPS, 4 * MAX_CALLS_IN_FLIGHT * MAX_BATCH_STEPS]


@pytest.mark.parametrize("callers", HUNG_CALLERS)
def test_a_server_that_never_answers_holds_nobody_longer_than_the_deadline(callers: int) -> None:
    async def ask() -> tuple[list[float], list[Reply | BaseException]]:
        async with Silent() as url, counting(url, DEADLINE_S) as (held, _):
            started = time.monotonic()
            waited: list[float] = []
            asked = [held.decide(A_STEP) for _ in range(callers)]
            for each in asked:
                each.add_done_callback(lambda _: waited.append(time.monotonic() - started))
            return waited, await answers(asked)

    waited, found = within(ask())
    assert {type(each) for each in found} == {CountersUnavailable}
    assert len(waited) == callers
    assert min(waited) >= DEADLINE_S * 0.9
    assert max(waited) <= DEADLINE_S + ABOUT_S


@pytest.mark.parametrize("door", ["run", "run_all", "epochs"])
def test_every_other_door_keeps_the_deadline_too(door: str) -> None:
    async def ask() -> float:
        async with Silent() as url, counting(url, DEADLINE_S) as (held, _):
            call = protocol.begin_epoch(0, 1, "")
            doors = {
                "run": lambda: held.run(call),
                "run_all": lambda: held.run_all([call]),
                "epochs": lambda: held.epochs([0]),
            }
            started = time.monotonic()
            with pytest.raises(CountersUnavailable):
                await asyncio.wait_for(doors[door](), 10 * DEADLINE_S)
            return time.monotonic() - started

    assert within(ask()) <= DEADLINE_S + ABOUT_S


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    async def ask() -> list[Reply | BaseException]:
        async with Silent() as url:
            pass  # closed again: nobody listens on its port
        async with counting(url) as (held, _):
            return await answers([held.decide(A_STEP) for _ in range(300)])

    assert {type(each) for each in within(ask(), 5.0)} == {CountersUnavailable}


@pytest.fixture
def private(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The address and the process id of a Valkey that a test may stop and kill."""
    with Supervisor() as supervisor:
        port = remembered_port(tmp_path, "valkey")
        supervisor.start(valkey_part(tmp_path / "valkey", port, tmp_path / "valkey.log", password="test"))
        url = valkey_url(port, "test")
        with redis.Redis.from_url(url) as connection:
            supervisor.wait_until("valkey", connection.ping, 30)
        pid = supervisor.pid("valkey")
        assert pid is not None
        yield url, pid
        os.kill(pid, signal.SIGCONT)


def test_after_a_stop_the_counters_work_again_and_what_was_charged_is_known(private: tuple[str, int]) -> None:
    url, pid = private
    with redis.Redis.from_url(url) as connection:
        shard = Shard(connection).open(limit=None)

        async def ask() -> tuple[list[Reply | BaseException], list[Reply]]:
            async with counting(url, DEADLINE_S) as (held, _):
                assert (await held.decide(shard.step(1))).outcome is Outcome.ALLOWED
                os.kill(pid, signal.SIGSTOP)
                refused = await answers([held.decide(shard.step(1)) for _ in range(100)])
                os.kill(pid, signal.SIGCONT)
                connection.ping()
                return refused, [await held.decide(shard.step(1, key="k")) for _ in range(2)]

        refused, after = within(ask())
        assert {type(each) for each in refused} == {CountersUnavailable}
        assert [(reply.outcome, reply.replayed) for reply in after] == [("allowed", False), ("allowed", True)]
        # The call of a hundred went through as one or not at all; no reply was taken for another's.
        used = int(shard.account()["used"])
        assert used in {2, 102}
        assert [entry.used_after for entry in shard.entries()] == list(range(1, used + 1))
        assert after[0].accounts[0].used == used


def test_a_lost_reply_is_never_asked_for_twice(stores: Stores, shard: Shard) -> None:
    """The connection breaks after the work and before the reply (BerriAI/litellm#30460: it was charged again)."""

    async def ask() -> BaseException | None:
        host, port = "127.0.0.1", int(stores.redis_url.rsplit(":", 1)[1].split("/")[0])

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there_reader, there = await asyncio.open_connection(host, port)
            try:
                while data := await reader.read(65_536):
                    there.write(data)
                    reply = await there_reader.read(65_536)
                    if b"EVALSHA" in data:
                        break
                    writer.write(reply)
            finally:
                there.close()
                writer.close()

        server = await asyncio.start_server(cut, host, 0)
        url = stores.redis_url.replace(f":{port}/", f":{server.sockets[0].getsockname()[1]}/")
        async with counting(url) as (held, _):
            (found,) = await answers([held.decide(shard.step(1))])
        server.close()
        return found if isinstance(found, BaseException) else None

    assert isinstance(within(ask()), CountersUnavailable)
    assert shard.account()["used"] == "1"


def test_a_blocking_caller_and_the_gateway_run_the_same_scripts(stores: Stores, shard: Shard) -> None:
    async def ask() -> Reply:
        async with counting(stores.redis_url) as (held, _):
            return await held.decide(replace(shard.step(2), consumes=False))

    call = protocol.consume([shard.step(2, consumes=False)], 1000)
    (text,) = counters.run(shard.connection, call)
    assert replace(protocol.parsed_reply(text.decode()), now_ms=0) == replace(within(ask()), now_ms=0)
