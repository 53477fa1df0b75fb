"""What runs beside the requests: nothing ends it, and nothing is told a second time."""

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any

import structlog

from gateway.for_ever import for_ever
from quota.errors import CountersUnavailable, LedgerUnavailable
from tests.unit import virtual_time

AWAY, HUNG = LedgerUnavailable("the ledger cannot be reached"), LedgerUnavailable("the ledger did not answer")


def told_of(*turns: Exception | None, every_s: float = 2.0) -> tuple[list[MutableMapping[str, Any]], float]:
    """What was told of some turns, and how many seconds they took. It is cancelled after the last of them."""
    left: Iterator[Exception | None] = iter(turns)

    async def work() -> None:
        try:
            error = next(left)
        except StopIteration:
            raise asyncio.CancelledError from None
        if error is not None:
            raise error

    async def run() -> float:
        await asyncio.wait({asyncio.ensure_future(for_ever(every_s, "some work", work))})
        return asyncio.get_running_loop().time()

    with structlog.testing.capture_logs() as told:
        return told, virtual_time.run(run())


def test_it_is_done_again_and_again_with_a_pause_before_each_turn() -> None:
    assert told_of(None, None, None, every_s=2.0) == ([], 8.0)


def test_what_it_waits_for_is_told_once() -> None:
    told, _ = told_of(AWAY, AWAY, LedgerUnavailable(str(AWAY)), None)
    assert told == [{"event": "some work waits", "reason": str(AWAY), "log_level": "warning"}]


def test_it_is_told_again_when_it_is_something_else_or_was_over_meanwhile() -> None:
    told, _ = told_of(AWAY, HUNG, HUNG, None, HUNG, OSError("no space left"), CountersUnavailable("away"))
    assert [each["reason"] for each in told] == [str(AWAY), str(HUNG), str(HUNG), "no space left", "away"]


def test_nothing_unforeseen_ends_it_and_it_is_told_with_where_it_came_from() -> None:
    error = ZeroDivisionError("a")
    told, _ = told_of(error, error, ZeroDivisionError("b"), None, error)
    assert [(each["event"], each["log_level"]) for each in told] == [("some work fails", "error")] * 3
    assert told[0]["exc_info"] is error
