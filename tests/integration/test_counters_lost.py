"""Steps whose reply was lost: they are never sent again, and who looks for them hears of exactly those."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis

from quota import counters, keys
from quota.breaker import FAILURES_TO_OPEN
from quota.errors import CountersUnavailable
from quota.gathering import MAX_BATCH_STEPS, MAX_CALLS_IN_FLIGHT
from quota.protocol import Mode, Step
from quota.replies import Reply
from quota.scripts import SCRIPTS
from tests.conftest import Stores
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


@pytest.fixture
def shard(connection: "redis.Redis") -> Shard:
    """An account without a limit; every script known to the server."""
    for script in SCRIPTS.values():
        connection.script_load(script.text)
    return Shard(connection).open(limit=None)


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
    assert shard.used() == 1


class Heard:
    """What `on_lost` was told."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.until_ms: list[int] = []

    def __call__(self, steps: Sequence[Step], until_ms: int) -> None:
        self.steps += steps
        self.until_ms.append(until_ms)


def test_whose_reply_was_lost_is_told_and_who_only_looked_is_not() -> None:
    plain = [replace(A_STEP, mode=mode, about=mode.encode()) for mode in Mode if mode is not Mode.REFUND]
    record_key = keys.record(0, "t", "u", "consume", "k")
    keyed = [replace(each, record_key=record_key, fingerprint="f") for each in plain if each.mode is not Mode.CHECK]
    steps = plain + keyed
    heard = Heard()

    async def ask() -> list[Reply | BaseException]:
        async with Silent() as url, counting(url, DEADLINE_S) as (held, _):
            held.on_lost = heard
            before_ms = held.clock.now_ms()
            found = await answers([held.decide(step) for step in steps])
            (until_ms,) = heard.until_ms
            assert before_ms <= until_ms - counters.CHARGE_WITHIN_MS <= held.clock.now_ms()
            return found

    found = within(ask())
    assert heard.steps == [step for step in steps if step.mode is not Mode.CHECK]
    for step, error in zip(steps, found, strict=True):
        assert str(error).endswith(_ends_of_words(step)), step


def _ends_of_words(step: Step) -> str:
    if step.mode is Mode.CHECK:
        return "did not answer in time"
    if step.record_key is not None:
        return "send it again under the same key"
    if step.mode in {Mode.CONSUME, Mode.HOLD, Mode.GIVE, Mode.ADJUST}:
        return "whatever was charged without an answer is taken back"
    return "look before you send it again, or send it under an idempotency key"


def test_those_that_were_never_sent_are_not_taken_for_lost() -> None:
    """They wait behind calls that hang, and have been charged nothing for certain."""
    sent, heard = MAX_CALLS_IN_FLIGHT * MAX_BATCH_STEPS, Heard()
    steps = [replace(A_STEP, about=str(n).encode()) for n in range(2 * sent)]

    async def ask() -> list[Reply | BaseException]:
        async with Silent() as url, counting(url, DEADLINE_S) as (held, _):
            held.on_lost = heard
            return await answers([held.decide(step) for step in steps])

    found = within(ask())
    assert sorted(int(step.about) for step in heard.steps) == list(range(sent))
    told = [str(error) for error in found]
    assert all(each.endswith("is taken back") for each in told[:sent])
    assert set(told[sent:]) == {"the counters do not answer; nothing was charged"}


def test_each_step_of_a_batch_without_a_reply_is_told_what_may_have_come_of_it() -> None:
    record_key = keys.record(0, "t", "u", "consume/batch", "k")
    steps = [A_STEP, replace(A_STEP, mode=Mode.CHECK), replace(A_STEP, record_key=record_key, fingerprint="f")]
    heard = Heard()

    async def ask() -> list[Any]:
        async with Silent() as url, counting(url, DEADLINE_S) as (held, _):
            held.on_lost = heard
            return await held.decide_in_order(steps)

    found = within(ask())
    assert heard.steps == [steps[0], steps[2]]
    for step, error in zip(steps, found, strict=True):
        assert str(error).endswith(_ends_of_words(step)), step


def test_a_batch_that_waited_until_redis_was_known_to_be_away_is_not_taken_for_lost() -> None:
    heard, sent = Heard(), max(FAILURES_TO_OPEN, MAX_CALLS_IN_FLIGHT)

    async def ask() -> list[Any]:
        async with Silent() as url, counting(url, DEADLINE_S) as (held, connection):
            held.on_lost = heard
            trips = (held.decide_in_order([A_STEP]) for _ in range(sent + 5))
            found = await asyncio.gather(*trips, return_exceptions=True)
            assert len(heard.steps) == connection.commands.count("EVALSHA") == sent
            return found

    told = [str(each) for each in within(ask()) if isinstance(each, CountersUnavailable)]
    assert told.count("the counters do not answer; nothing was charged") == 5


@pytest.mark.parametrize(("within_ms", "charged"), [(50, 0), (60_000, 1)])
def test_what_a_hung_server_begins_too_late_charges_nothing_when_it_goes_on(
    private: PrivateServer, monkeypatch: pytest.MonkeyPatch, within_ms: int, charged: int
) -> None:
    """The deadline of the caller is longer than 50 ms: by its end, the instant after which Redis refuses has passed."""
    monkeypatch.setattr(counters, "CHARGE_WITHIN_MS", within_ms)
    with redis.Redis.from_url(private.url) as connection:
        shard = Shard(connection).open(limit=None)
        for script in SCRIPTS.values():
            connection.script_load(script.text)

        async def ask() -> None:
            async with counting(private.url, DEADLINE_S) as (held, _):
                await held.ping()
                private.stop()
                with pytest.raises(CountersUnavailable):
                    await held.decide(shard.step(1))
                private.go_on()
                calls = "cmdstat_evalsha"
                await until(lambda: connection.info("commandstats").get(calls, {}).get("calls", 0) > 0)

        within(ask())
        assert shard.used() == charged
