"""What the counters only read, on a real server: a journal's entries, and the first answer under a key."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import redis

from gateway.admission import Admission
from quota import counters
from quota.demands import Asked, Demand, step
from quota.errors import CountersUnavailable
from quota.journal import Entry
from quota.protocol import Mode, Step
from quota.replies import Reply
from quota.scripts import SCRIPTS
from quota.trips import MAX_IN_TURN
from tests.conftest import Stores
from tests.integration.counting import counting, within
from tests.integration.shard import ClockedShard, Shard


@pytest.fixture
def shard(connection: "redis.Redis") -> Shard:
    """An account without a limit; every script known to the server."""
    for script in SCRIPTS.values():
        connection.script_load(script.text)
    return Shard(connection).open(limit=None)


def test_who_asks_for_the_first_answer_to_a_refund_takes_no_key_from_its_neighbours(
    stores: Stores, shard: Shard
) -> None:
    """A check has no place for the key that remembers refunds: each step after it in the call read one key too far."""
    shard.consume(shard.step(5))
    (taken,) = shard.entries()
    detail = f"{taken.place} 5 0 1 - -"
    demand = Demand("t", "u", Mode.REFUND, "r-2", (Asked("m", 2, detail),), receipt=(1, taken.place.n))
    keyed = replace(demand, idempotency_key="k", route="refunds", fingerprint="f")
    (first,) = shard.consume(step(keyed, keyed.asked, shard.number, 1))

    async def ask() -> tuple[tuple[Any, ...], list[int]]:
        async with counting(stores.redis_url) as (held, connection):
            nothing: Any = None
            admission = Admission(held, nothing, nothing, 64)
            unheard_of = replace(keyed, idempotency_key="k2")

            async def decide(asked: Step) -> Reply:
                return await held.decide(asked)

            found = await asyncio.gather(
                decide(shard.step(1)),
                admission.replayed(keyed, shard.number, 1),
                decide(shard.step(1)),
                admission.replayed(unheard_of, shard.number, 1),
                decide(shard.step(1, key="k")),
                decide(shard.step(1, mode=Mode.CHECK)),
            )
            return found, connection.batches

    (before, replayed, after, none, keyed_one, checked), batches = within(ask())
    assert batches == [6]
    assert replayed == replace(first, replayed=True)
    assert none is None
    assert [each.outcome.value for each in (before, after, keyed_one, checked)] == ["allowed"] * 4
    assert [each.accounts[0].used for each in (before, after, keyed_one)] == [4, 5, 6]
    assert shard.kinds() == ["consume", "refund", "consume", "consume", "consume"]


@pytest.mark.parametrize("a_trip", [1, 3, 4, 6, 12, 1000])
def test_entries_are_read_a_page_a_trip_each_once_and_in_their_order(
    stores: Stores, shard: Shard, monkeypatch: pytest.MonkeyPatch, a_trip: int
) -> None:
    monkeypatch.setattr(counters, "MAX_ENTRIES_A_TRIP", a_trip)
    shard.consume(*(shard.step(n) for n in range(1, 13)))
    whole = shard.entries()
    assert [each.place.n for each in whole] == list(range(12))

    async def ask() -> None:
        async with counting(stores.redis_url) as (held, connection):

            async def read(first: str, last: str, count: int) -> tuple[list[Entry], int]:
                connection.commands.clear()
                found = await held.entries(shard.number, first, last, count)
                return found, connection.commands.count("XRANGE")

            for count in range(15):
                found, trips = await read("-", "+", count)
                assert found == whole[:count]
                assert trips == (-(-count // a_trip) if count <= 12 else 12 // a_trip + 1)
            assert (await read("1-3", "1-9", 100))[0] == whole[3:10]
            assert (await read("1-3", "1-9", 5))[0] == whole[3:8]
            assert (await read("1-12", "+", 5))[0] == []

    within(ask())


@pytest.mark.parametrize("a_trip", [1, 3, 4, 12, 13])
def test_what_happened_since_an_instant_is_read_back_from_the_end(
    stores: Stores, connection: "redis.Redis", monkeypatch: pytest.MonkeyPatch, a_trip: int
) -> None:
    monkeypatch.setattr(counters, "MAX_ENTRIES_A_TRIP", a_trip)
    clocked = ClockedShard(connection)
    clocked.open(limit=None)
    began_ms = clocked.now_ms()
    for _ in range(12):
        clocked.consume(clocked.step(1))
        clocked.step_clock(10)
    whole = clocked.entries()
    assert [each.occurred_at_ms for each in whole] == [began_ms + 10 * n for n in range(12)]

    async def ask() -> None:
        async with counting(stores.redis_url) as (held, counted):
            for n, since_ms in ((0, began_ms - 1), (0, began_ms), (5, began_ms + 41), (5, began_ms + 50)):
                counted.commands.clear()
                assert await held.entries_since(clocked.number, since_ms) == whole[n:][::-1]
                # A page that is not full tells that this was all; or one that is older, that the rest is older still.
                trips = 12 // a_trip + 1 if n == 0 else -(-(12 - n + 1) // a_trip)
                assert counted.commands.count("XREVRANGE") == trips
            assert await held.entries_since(clocked.number, began_ms + 111) == []
            assert await held.entries_since(clocked.number + 1, 0) == []

    within(ask())


def test_more_entries_than_go_into_one_trip_are_read_each_once(stores: Stores, shard: Shard) -> None:
    for _ in range(25):
        shard.consume(*[shard.step(1)] * 100)

    async def ask() -> list[int]:
        async with counting(stores.redis_url) as (held, _):
            return [each.place.n for each in await held.entries_since(shard.number, 0)]

    assert within(ask()) == list(range(2_499, -1, -1))


def test_a_journal_that_is_longer_than_can_be_looked_through_is_refused(
    stores: Stores, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was missed at its beginning would be taken for something that was never charged."""
    monkeypatch.setattr(counters, "MAX_ENTRIES_A_TRIP", 4)
    monkeypatch.setattr(counters, "MAX_ENTRIES_SINCE", 12)
    shard.consume(*(shard.step(1) for _ in range(11)))
    last_ms = shard.entries()[-1].occurred_at_ms

    async def ask() -> None:
        async with counting(stores.redis_url) as (held, counted):
            assert len(await held.entries_since(shard.number, 0)) == 11
            shard.consume(shard.step(1))
            counted.commands.clear()
            with pytest.raises(CountersUnavailable, match="longer than can be looked through"):
                await held.entries_since(shard.number, 0)
            assert counted.commands.count("XREVRANGE") == 3
            assert len(await held.entries_since(shard.number, last_ms + 60_000)) == 0

    within(ask())


def test_a_burst_of_lookups_is_not_taken_for_a_redis_that_cannot_be_reached(stores: Stores, shard: Shard) -> None:
    async def burst() -> bool:
        async with counting(stores.redis_url, max_connections=MAX_IN_TURN) as (held, _):
            found = await asyncio.gather(*(held.epochs([shard.number]) for _ in range(20 * MAX_IN_TURN)))
            assert found == [{shard.number: 1}] * 20 * MAX_IN_TURN
            return held.are_away

    assert asyncio.run(burst()) is False


def test_too_few_connections_say_nothing_of_redis(stores: Stores, shard: Shard) -> None:
    async def burst() -> tuple[list[Any], bool]:
        async with counting(stores.redis_url, max_connections=1) as (held, _):
            asked = (held.epochs([shard.number]) for _ in range(MAX_IN_TURN))
            return await asyncio.gather(*asked, return_exceptions=True), held.are_away

    found, are_away = asyncio.run(burst())
    assert {str(each) for each in found if isinstance(each, Exception)} == {
        "too many requests wait for the counters; nothing was charged"
    }
    assert not are_away
