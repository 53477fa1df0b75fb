"""A gateway that dies in the middle of giving: `python -m tests.faults.dying_giver <point> <words of quotagate>`."""

import os
import signal
import sys
from typing import Any

from gateway.giving import Giving
from ledger.gifts import Gift

POINTS = ("asked", "taken")
"""Once the row is committed; once Redis has taken the units, and before anybody was told."""


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str) -> None:
    real_take = Giving.take

    async def take(giving: Giving, gift: Gift) -> None:
        if point == "taken":
            await real_take(giving, gift)
        die()

    Giving.take = take  # type: ignore[method-assign]


if __name__ == "__main__":
    die_at(sys.argv.pop(1))
    from quotagate.cli import main

    main()
