"""What is answered about a gift that is written down, whatever fails after that."""

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from gateway.gifts import GiftSoFar, carried_out
from ledger.gifts import Gift
from quota.errors import CountersUnavailable, LedgerUnavailable, NotEnoughUnits

GIFT = Gift(UUID(int=7), "t", "u", "v", "m", 4, None, "k", None, None, "asked", None)


def answered(error: Exception) -> GiftSoFar:
    async def give(_: Gift) -> Gift:
        raise error

    giving: Any = SimpleNamespace(give=give)
    admission: Any = SimpleNamespace()
    return asyncio.run(carried_out(admission, giving, GIFT, is_known=False))


@pytest.mark.parametrize("error", [CountersUnavailable("away"), LedgerUnavailable("away"), TimeoutError("late")])
def test_a_store_that_is_away_is_no_reason_to_ask_for_another_gift(error: Exception) -> None:
    answer = answered(error)
    assert (answer.gift, answer.is_waiting) == (GIFT, True)


def test_a_refusal_is_one() -> None:
    with pytest.raises(NotEnoughUnits):
        answered(NotEnoughUnits("too few"))
