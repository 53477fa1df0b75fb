"""Requests that share a call: when its reply is lost, each caller is told what may have come of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from quota import keys
from quota.errors import CountersUnavailable
from quota.gathering import Gathering, told_of
from quota.protocol import Charge, Mode, Step
from quota.replies import Reply

STEP = Step(3, Mode.CONSUME, keys.catalog_field("t"), 1, (Charge("qg:{3}:a:t:u:m", 1),), b"{}")
KEYED: dict[str, Any] = {"record_key": "qg:{3}:i:t:u:consume:k", "fingerprint": "f"}
REPEAT = "away; it may have been charged: send it again under the same key"
TAKEN_BACK = "away; whatever was charged without an answer is taken back"
LOOK = "away; it may have taken effect: look before you send it again, or send it under an idempotency key"


def away(cause: Exception | None) -> CountersUnavailable:
    error = CountersUnavailable("away")
    error.__cause__ = cause
    return error


UNKNOWN = [TimeoutError(), RedisConnectionError()]


@pytest.mark.parametrize("cause", UNKNOWN)
@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.CHECK])
def test_under_a_key_the_caller_is_told_to_send_it_again(mode: Mode, cause: Exception) -> None:
    told = told_of(replace(STEP, mode=mode, **KEYED), away(cause))
    assert (type(told), str(told), told.__cause__) == (CountersUnavailable, REPEAT, cause)


@pytest.mark.parametrize("cause", UNKNOWN)
@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (Mode.CHECK, "away"),
        (Mode.CONSUME, TAKEN_BACK),
        (Mode.HOLD, TAKEN_BACK),
        (Mode.GIVE, TAKEN_BACK),
        (Mode.COMMIT, LOOK),
        (Mode.RELEASE, LOOK),
        (Mode.REFUND, LOOK),
        (Mode.SET, LOOK),
        (Mode.CHARGE, LOOK),
    ],
)
def test_without_a_key_the_caller_is_told_what_becomes_of_it(mode: Mode, words: str, cause: Exception) -> None:
    told = told_of(replace(STEP, mode=mode), away(cause))
    assert (type(told), str(told), told.__cause__) == (CountersUnavailable, words, cause)


@pytest.mark.parametrize("error", [away(None), away(OutOfMemoryError()), ZeroDivisionError()])
@pytest.mark.parametrize("step", [STEP, replace(STEP, **KEYED), replace(STEP, mode=Mode.SET)])
def test_what_was_refused_or_never_sent_has_nothing_to_add(step: Step, error: Exception) -> None:
    assert told_of(step, error) is error


def test_those_of_one_call_are_told_each_in_its_own_words() -> None:
    steps = [STEP, replace(STEP, mode=Mode.CHECK), replace(STEP, **KEYED), replace(STEP, mode=Mode.COMMIT), STEP]
    calls: list[Sequence[Step]] = []

    async def send(batch: Sequence[Step]) -> list[Reply]:
        calls.append(batch)
        raise away(TimeoutError())

    async def ask() -> list[Reply | BaseException]:
        gathering = Gathering(send)
        return await asyncio.gather(*map(gathering.add, steps), return_exceptions=True)

    assert [str(each) for each in asyncio.run(ask())] == [TAKEN_BACK, "away", REPEAT, LOOK, TAKEN_BACK]
    assert calls == [steps]
