"""quota.counters.Counters on a server that stops, dies, refuses, loses replies or never answers."""

import asyncio
import time

import pytest
import redis

from quota import protocol
from quota.breaker import FAILURES_TO_OPEN
from quota.counters import Counters
from quota.errors import CountersUnavailable
from quota.gathering import MAX_BATCH_STEPS, MAX_CALLS_IN_FLIGHT
from quota.protocol import Step
from quota.replies import Outcome, Reply
from tests.integration.counting import (
    A_STEP,
    DEADLINE_S,
    PrivateServer,
    Silent,
    answers,
    counting,
    until,
    within,
)
from tests.integration.shard import Shard

WITHIN_S = 1.0
"""How soon after its return Redis must be used again."""


HUNG_CALLERS = [1, MAX_CALLS_IN_FLIGHT * MAX_BATCH_STEPS, 4 * MAX_CALLS_IN_FLIGHT * MAX_BATCH_STEPS]


@pytest.mark.parametrize("callers", HUNG_CALLERS)
def test_a_server_that_never_answers_holds_nobody_longer_than_the_deadline(callers: int) -> None:
    """Who waited behind calls that hang has waited as long: no further call is sent for them."""

    async def ask() -> tuple[int, float, list[Reply | BaseException]]:
        async with Silent() as url, counting(url, DEADLINE_S) as (held, connection):
            started = time.monotonic()
            found = await answers([held.decide(A_STEP) for _ in range(callers)])
            return len(connection.batches), time.monotonic() - started, found

    calls, waited_s, found = within(ask())
    assert {type(each) for each in found} == {CountersUnavailable}
    assert len(found) == callers
    assert calls == min(MAX_CALLS_IN_FLIGHT, -(-callers // MAX_BATCH_STEPS))
    assert waited_s >= DEADLINE_S * 0.9


@pytest.mark.parametrize("door", ["run", "run_all", "epochs"])
def test_every_other_door_keeps_the_deadline_too(door: str) -> None:
    async def ask() -> None:
        async with Silent() as url, counting(url, DEADLINE_S) as (held, _):
            call = protocol.begin_epoch(0, 1, "")
            doors = {
                "run": lambda: held.run(call),
                "run_all": lambda: held.run_all([call]),
                "epochs": lambda: held.epochs([0]),
            }
            with pytest.raises(CountersUnavailable):
                await asyncio.wait_for(doors[door](), 20 * DEADLINE_S)

    within(ask())


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    async def ask() -> list[Reply | BaseException]:
        async with Silent() as url:
            pass  # closed again: nobody listens on its port
        async with counting(url) as (held, _):
            return await answers([held.decide(A_STEP) for _ in range(300)])

    assert {type(each) for each in within(ask(), 5.0)} == {CountersUnavailable}


def test_after_a_stop_the_counters_work_again_and_what_was_charged_is_known(private: PrivateServer) -> None:
    with redis.Redis.from_url(private.url) as connection:
        shard = Shard(connection).open(limit=None)

        async def ask() -> tuple[list[Reply | BaseException], list[Reply]]:
            async with counting(private.url, DEADLINE_S) as (held, _):
                assert (await held.decide(shard.step(1))).outcome is Outcome.ALLOWED
                private.stop()
                refused = await answers([held.decide(shard.step(1)) for _ in range(100)])
                private.go_on()
                connection.ping()
                return refused, [await held.decide(shard.step(1, key="k")) for _ in range(2)]

        refused, after = within(ask())
        assert {type(each) for each in refused} == {CountersUnavailable}
        assert [(reply.outcome, reply.replayed) for reply in after] == [("allowed", False), ("allowed", True)]
        # The call of a hundred went through as one or not at all; no reply was taken for another's.
        charged = shard.used()
        assert charged in {2, 102}
        assert [entry.used_after for entry in shard.entries()] == list(range(1, charged + 1))
        assert after[0].accounts[0].used == charged


async def broken(held: Counters, step: Step = A_STEP) -> None:
    """Asks, one after the other, until nobody is let through any more."""
    for _ in range(FAILURES_TO_OPEN):
        assert not held.are_away
        with pytest.raises(CountersUnavailable):
            await held.decide(step)
    assert held.are_away


def test_once_it_is_known_to_be_away_everybody_is_refused_without_a_trip() -> None:
    async def ask() -> None:
        async with Silent() as url, counting(url, DEADLINE_S) as (held, connection):
            await broken(held)
            sent = connection.commands.count("EVALSHA")
            doors = [
                held.run(protocol.begin_epoch(0, 1, "")),
                held.run_all([protocol.begin_epoch(0, 1, "")]),
                held.epochs([0]),
                held.entries(0, "-", "+", 1),
                held.ping(),
                held.decide_in_order([A_STEP]),
            ]
            for door in doors:
                with pytest.raises(CountersUnavailable, match="do not answer; nothing was charged"):
                    await door
            for _ in range(1000):
                with pytest.raises(CountersUnavailable, match="do not answer; nothing was charged"):
                    held.decide(A_STEP)
            assert connection.commands.count("EVALSHA") == sent == FAILURES_TO_OPEN
            assert set(connection.commands[sent:]) <= {"TIME"}  # the probe

    within(ask())


@pytest.mark.parametrize("way", ["stopped", "killed"])
def test_within_a_second_of_its_return_redis_is_used_again(private: PrivateServer, way: str) -> None:
    with redis.Redis.from_url(private.url) as connection:
        shard = Shard(connection).open(limit=None)

        async def ask() -> float:
            async with counting(private.url, DEADLINE_S) as (held, _):
                assert (await held.decide(shard.step(1))).outcome is Outcome.ALLOWED
                if way == "stopped":
                    private.stop()
                    await broken(held, shard.step(1))
                    private.go_on()
                else:
                    private.kill()
                    await broken(held, shard.step(1))
                    private.start()
                took_s = await until(lambda: not held.are_away)
                assert (await held.decide(shard.step(1))).outcome is Outcome.ALLOWED
                return took_s

        assert within(ask(), 60) < WITHIN_S


def test_a_trip_that_succeeds_in_between_begins_the_count_anew(private: PrivateServer) -> None:
    with redis.Redis.from_url(private.url) as connection:
        shard = Shard(connection).open(limit=None)

        async def ask() -> None:
            async with counting(private.url, DEADLINE_S) as (held, _):
                for _ in range(2):
                    private.stop()
                    for _ in range(FAILURES_TO_OPEN - 1):
                        with pytest.raises(CountersUnavailable):
                            await held.decide(shard.step(1))
                    private.go_on()
                    await held.decide(shard.step(1))
                assert not held.are_away

        within(ask())


def test_a_server_that_refuses_to_write_is_not_away(private: PrivateServer) -> None:
    """It answers: nothing was charged, nothing is looked for, and the next request is sent."""
    with redis.Redis.from_url(private.url) as connection:
        shard = Shard(connection).open(limit=None)
        connection.config_set("maxmemory", "1")
        heard: list[Step] = []

        async def ask() -> None:
            async with counting(private.url) as (held, _):
                held.on_lost = lambda steps, _: heard.extend(steps)
                for _ in range(2 * FAILURES_TO_OPEN):
                    with pytest.raises(CountersUnavailable, match="refuse to write; nothing was changed"):
                        await held.decide(shard.step(1))
                assert not held.are_away
                connection.config_set("maxmemory", "0")
                assert (await held.decide(shard.step(1))).outcome is Outcome.ALLOWED

        within(ask())
        assert (heard, shard.used()) == ([], 1)
