"""quota.counters.Counters on a real server: what goes out together, in which order, and what comes back."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import redis

from quota import keys, protocol, scripts
from quota.counters import MAX_WAITING_BATCHES
from quota.errors import CountersUnavailable
from quota.gathering import MAX_BATCH_STEPS, MAX_CALLS_IN_FLIGHT, MAX_WAITING_STEPS
from quota.protocol import Mode
from quota.replies import Outcome, Reply, parsed_reply
from quota.scripts import SCRIPTS
from tests.conftest import Stores
from tests.integration.counting import answers, counting, within
from tests.integration.shard import Shard


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
    assert shard.used() == sum(range(1, 501))


def test_few_calls_are_in_flight_at_once_and_the_rest_wait_their_turn(stores: Stores, shard: Shard) -> None:
    async def ask() -> tuple[int, list[int]]:
        async with counting(stores.redis_url) as (held, connection):
            await asyncio.gather(*(held.decide(shard.step(1)) for _ in range(10 * MAX_BATCH_STEPS)))
            return connection.most_under_way, connection.batches

    assert within(ask()) == (MAX_CALLS_IN_FLIGHT, [MAX_BATCH_STEPS] * 10)
    assert shard.used() == 10 * MAX_BATCH_STEPS


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
    assert shard.used() == len(replies) == MAX_WAITING_STEPS


def test_a_step_that_fails_does_not_harm_the_others_of_its_call(stores: Stores, shard: Shard) -> None:
    other = Shard(shard.connection, 5).open()
    shard.connection.set(keys.journal(5), "not a stream")

    async def ask() -> list[Reply]:
        async with counting(stores.redis_url) as (held, _):
            steps = [
                shard.step(1),
                other.step(1),
                shard.step(-1),
                shard.step(2),
                other.step(1, key="k"),
                shard.step(3, key="k"),
                shard.step(1, metric="unheard_of"),
            ]
            return await asyncio.gather(*map(held.decide, steps))

    replies = within(ask())
    outcomes = ["allowed", "failed", "failed", "allowed", "failed", "allowed", "unready"]
    assert [reply.outcome.value for reply in replies] == outcomes
    assert [replies[place].accounts[0].amount for place in (0, 3, 5)] == [1, 2, 3]
    assert shard.used() == 6
    assert other.used() == 0


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
    assert shard.used() == 1


def test_calls_in_a_row_go_out_a_hundred_a_trip_and_a_failed_one_stays_alone(stores: Stores, shard: Shard) -> None:
    shard.connection.set(keys.head(7), "not a hash")

    async def ask() -> tuple[list[Any], dict[int, int | None]]:
        async with counting(stores.redis_url) as (held, _):
            calls = [protocol.begin_epoch(number, 1, "") for number in range(250)]
            calls[7] = protocol.publish(7, "t", 1)
            replies = await held.run_all(calls)
            shard.connection.delete(keys.head(7))
            return replies, await held.epochs([0, 7, 249])

    replies, epochs = within(ask())
    assert [place for place, reply in enumerate(replies) if isinstance(reply, redis.ResponseError)] == [7]
    assert (replies[3], set(replies[:3] + replies[4:7] + replies[8:])) == (b"kept", {b"begun"})
    assert epochs == {0: 1, 7: None, 249: 1}


def test_a_batch_is_decided_in_its_order_in_a_call_of_its_own(stores: Stores, shard: Shard) -> None:
    async def ask() -> tuple[list[Any], list[int]]:
        async with counting(stores.redis_url) as (held, connection):
            single = held.decide(shard.step(1))
            replies = await held.decide_in_order([shard.step(n) for n in range(1, 101)])
            await single
            return replies, sorted(connection.batches)

    replies, batches = within(ask())
    assert batches == [1, 100]
    assert [reply.accounts[0].amount for reply in replies] == list(range(1, 101))
    firsts = [reply.first_n or 0 for reply in replies]
    assert firsts == list(range(firsts[0], firsts[0] + 100))
    used = [reply.accounts[0].used for reply in replies]
    assert [after - before for before, after in pairwise(used)] == list(range(2, 101))


def test_in_a_batch_whoever_shares_an_account_that_is_not_ready_waits_behind_it(stores: Stores, shard: Shard) -> None:
    """What comes later would be decided first otherwise: m is ready, m2 is not, and the second item charges both."""

    async def ask() -> list[Any]:
        async with counting(stores.redis_url) as (held, _):
            steps = [shard.step(1), shard.step(1, 1), shard.step(1), shard.step(1, metric="m9")]
            return await held.decide_in_order(steps)

    assert [reply.outcome.value for reply in within(ask())] == ["allowed", "unready", "unready", "unready"]
    assert shard.account()["state"].split(" ")[0] == "1"


def test_a_batch_that_is_refused_is_told_so_for_each_of_its_steps(stores: Stores, shard: Shard) -> None:
    shard.connection.config_set("maxmemory", "1")

    async def ask() -> list[Any]:
        async with counting(stores.redis_url) as (held, _):
            return await held.decide_in_order([shard.step(1), shard.step(1, key="k")])

    try:
        found = within(ask())
    finally:
        shard.connection.config_set("maxmemory", "0")
    assert [(type(each), str(each)) for each in found] == [
        (CountersUnavailable, "the counters refuse to write; nothing was changed")
    ] * 2


def test_a_record_is_known_once_something_was_answered_under_it(stores: Stores, shard: Shard) -> None:
    async def ask() -> list[bool]:
        async with counting(stores.redis_url) as (held, _):
            step = shard.step(1, key="k")
            assert step.record_key is not None
            before = await held.has_record(step.record_key)
            await held.decide(step)
            return [before, await held.has_record(step.record_key), await held.has_record(f"{step.record_key}2")]

    assert within(ask()) == [False, True, False]


def test_few_batches_are_under_way_at_once_and_no_more_wait_than_there_is_room_for(
    stores: Stores, shard: Shard
) -> None:
    async def ask() -> tuple[int, list[Any]]:
        async with counting(stores.redis_url) as (held, connection):
            batches = (held.decide_in_order([shard.step(1)] * 2) for _ in range(MAX_WAITING_BATCHES + 10))
            found = await asyncio.gather(*batches, return_exceptions=True)
            return connection.most_under_way, found

    most, found = within(ask())
    refused = [each for each in found if isinstance(each, BaseException)]
    assert most == MAX_CALLS_IN_FLIGHT
    assert [str(each) for each in refused] == ["100 batches are waiting for Redis already; nothing was charged"] * 10
    assert shard.used() == 2 * MAX_WAITING_BATCHES


def test_a_call_that_redis_begins_too_late_charges_nothing(shard: Shard) -> None:
    past_ms = shard.now_ms() - 1
    keyed = shard.step(1, key="k")
    assert shard.consume(keyed)[0].outcome is Outcome.ALLOWED
    modes = [shard.step(1, mode=Mode.CHECK), shard.step(1, 1), shard.step(1), shard.step(1, key="k2"), keyed]
    call = protocol.consume(modes, 1000, past_ms)
    replies = [parsed_reply(text.decode()) for text in scripts.run(shard.connection, call)]
    assert [reply.outcome.value for reply in replies] == ["late"] * 4 + ["allowed"]
    assert replies[-1].replayed  # an answer that was given before is given at any time
    assert min(reply.now_ms for reply in replies[:4]) > past_ms
    assert shard.used() == 1


@pytest.mark.parametrize("behind_ms", [5_000, 3_600_000])
def test_a_gateway_whose_clock_is_behind_learns_of_it_from_the_first_reply(
    stores: Stores, shard: Shard, behind_ms: int
) -> None:
    async def ask() -> list[Reply]:
        async with counting(stores.redis_url) as (held, _):
            held.clock.heard(shard.now_ms() - behind_ms)
            return [await held.decide(shard.step(1)) for _ in range(2)]

    first, second = within(ask())
    assert [first.outcome, second.outcome] == [Outcome.LATE, Outcome.ALLOWED]
    assert shard.used() == 1


def test_a_first_answer_that_comes_again_does_not_turn_the_clock_back(stores: Stores, shard: Shard) -> None:
    async def ask() -> int:
        async with counting(stores.redis_url) as (held, _):
            first = await held.decide(shard.step(1, key="k"))
            held.clock.heard(first.now_ms + 900_000)
            assert (await held.decide(shard.step(1, key="k"))).replayed
            return held.clock.now_ms() - first.now_ms

    assert within(ask()) >= 900_000


def test_a_blocking_caller_and_the_gateway_run_the_same_scripts(stores: Stores, shard: Shard) -> None:
    async def ask() -> Reply:
        async with counting(stores.redis_url) as (held, _):
            return await held.decide(shard.step(2, mode=Mode.CHECK))

    call = protocol.consume([shard.step(2, mode=Mode.CHECK)], 1000)
    (text,) = scripts.run(shard.connection, call)
    assert replace(parsed_reply(text.decode()), now_ms=0) == replace(within(ask()), now_ms=0)
