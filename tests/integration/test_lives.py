"""A Redis that was started anew, or took over, is not used before somebody has looked at it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from quota import keys
from quota.bulk import Bulk
from quota.counters import Counters
from quota.errors import CountersUnavailable
from quota.journal import Place
from quota.lives import NOWHERE, Lives, Looking, Standing, standing_of
from tests.integration.counting import LONG_DEADLINE_S, PrivateServer, until, within


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrivateServer]:
    with PrivateServer(tmp_path) as server:
        yield server


def client(url: str, lives: Lives | None = None) -> redis.asyncio.Redis:
    function = None if lives is None else lives.admit
    return redis.asyncio.Redis.from_url(url, retry=Retry(NoBackoff(), 0), redis_connect_func=function)


@asynccontextmanager
async def guarded(url: str) -> AsyncIterator[tuple[Counters, Lives, Looking]]:
    lives = Lives()
    counters = Counters(client(url, lives), deadline_s=LONG_DEADLINE_S, record_ttl_s=60)
    looking = Looking(client(url))
    yield counters, lives, looking
    await counters.close()
    await looking.close()


def test_nothing_is_sent_to_a_life_that_nobody_has_looked_at(server: PrivateServer) -> None:
    async def ask() -> None:
        async with guarded(server.url) as (counters, lives, looking):
            with pytest.raises(CountersUnavailable, match="looked at first"):
                await counters.ping()
            assert lives.is_unknown.is_set()
            assert not counters.are_away, "it answers, and is not away"
            lives.may_be_used(await looking.name())
            await counters.ping()
            server.kill()
            server.start()
            with pytest.raises(CountersUnavailable):
                await counters.ping()  # its connection has broken
            with pytest.raises(CountersUnavailable, match="looked at first"):
                await counters.ping()
            with pytest.raises(CountersUnavailable):
                await looking.name()  # so has the one that looks
            lives.may_be_used(await looking.name())
            await counters.ping()

    within(ask())


def test_a_replica_that_takes_over_begins_a_life(tmp_path: Path) -> None:
    for name in ("primary", "replica"):
        (tmp_path / name).mkdir()

    async def ask(primary: PrivateServer, replica: PrivateServer) -> tuple[str, str, str]:
        looking, other = Looking(client(primary.url)), Looking(client(replica.url))
        with redis.Redis.from_url(primary.url) as first, redis.Redis.from_url(replica.url) as second:
            port = int(first.connection_pool.connection_kwargs["port"])
            second.config_set("primaryauth", str(first.connection_pool.connection_kwargs["password"]))
            second.replicaof("127.0.0.1", port)
            first.set("x", 1)
            await until(lambda: second.get("x") == b"1")
            before = await other.name()
            second.replicaof("NO", "ONE")
        names = (await looking.name(), before, await other.name())
        await looking.close()
        await other.close()
        return names

    with ExitStack() as stack:
        primary, replica = (stack.enter_context(PrivateServer(tmp_path / name)) for name in ("primary", "replica"))
        assert len(set(within(ask(primary, replica)))) == 3


def test_how_far_shards_have_come(server: PrivateServer) -> None:
    async def look() -> dict[int, Standing]:
        looking = Looking(client(server.url))
        await looking.begin({1: 4, 2: 4}, "store")
        await looking.begin({2: 3}, "store")
        found = await looking.standings([0, 1, 2])
        await looking.close()
        return found

    with redis.Redis.from_url(server.url) as connection:
        connection.xadd(keys.journal(2), {"line": "x"}, id="4-6")
        connection.xtrim(keys.journal(2), maxlen=0, approximate=False)
    assert within(look()) == {
        0: Standing(None, NOWHERE),
        1: Standing(4, NOWHERE, began=NOWHERE),
        2: Standing(4, Place(4, 6), began=NOWHERE),
    }


def test_a_head_that_cannot_be_read_is_none(server: PrivateServer) -> None:
    async def look() -> list[int | None]:
        looking = Looking(client(server.url))
        await looking.begin(dict.fromkeys(range(6), 4), "store")
        with redis.Redis.from_url(server.url) as connection:
            connection.hset(keys.head(1), "epoch", "q")
            connection.hset(keys.head(2), "fence", b"\xb1")
            connection.rename(keys.head(3), "elsewhere")
            connection.set(keys.head(3), "4")
            connection.hset(keys.head(4), "epoch", 2**53)
            heads = Bulk(connection).heads(range(6))
            assert [head.epoch for head in heads.values()] == [4, 0, 0, 0, 0, 4]
        found = await looking.standings(range(6))
        await looking.close()
        return [standing.epoch for standing in found.values()]

    assert within(look()) == [4, None, None, None, None, 4]


@pytest.mark.parametrize("refusal", ["BUSY Redis is busy running a script", "NOPERM this user has no permissions"])
def test_a_refusal_is_not_taken_for_a_loss(refusal: str) -> None:
    for replies in ((ResponseError(refusal), {}), ([b"1", None], ResponseError(refusal))):
        with pytest.raises(CountersUnavailable):
            standing_of(*replies)


def test_a_server_that_does_not_answer_is_told() -> None:
    async def look() -> None:
        looking = Looking(client("redis://127.0.0.1:1/0"))
        with pytest.raises(CountersUnavailable, match="cannot be looked at"):
            await looking.name()
        await looking.close()

    within(look())
