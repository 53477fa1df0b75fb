"""Lost replies with their surroundings."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.keeping import Keeping
from gateway.lost_replies import LostReplies
from gateway.spool import Spool
from ledger import charges as ledger_charges
from ledger.outages import LostReply
from ledger.repeats import NO_CALLER_WAS_TOLD, TakeBack
from quota.demands import Asked, Demand, step
from quota.journal import Entry
from quota.keys import AccountName
from quota.protocol import Mode, Step
from tests.unit import entries
from tests.unit.fakes import FakeCounters, FakeStore, KeptOutages

UNTIL_MS = 1_001_000
"""Redis's clock stands a second before it."""
DEMAND = Demand("t", "u", Mode.CONSUME, "r-1", (Asked("m", 5),))
ACCOUNT = AccountName("t", "u", "m")
Charges = Sequence[tuple[AccountName, int]]


def lost_step(**changes: Any) -> Step:
    demand = replace(DEMAND, **changes)
    return step(demand, demand.asked, 3, 1)


def entry(n: int, kind: str = "consume", **changes: Any) -> Entry:
    """An entry of the second in which the lost step could be charged."""
    return entries.entry(n, kind, **({"occurred_at_ms": UNTIL_MS - 500} | changes))


class Scene:
    """The counters are back; what was taken back is noted. `old` is what the ledger knows of lost steps."""

    def __init__(self, folder: Path) -> None:
        self.counters = FakeCounters(UNTIL_MS - 1000)
        self.kept = KeptOutages()
        self.old: list[TakeBack] = []
        self.asked: list[tuple[int, list[LostReply], int, int]] = []
        self.taken: list[tuple[TakeBack, Charges]] = []
        self.failure: Exception | None = None
        statements: dict[Any, Any] = {
            ledger_charges.of_lost: self._of_lost,
            ledger_charges.of_receipts: self._of_receipts,
        }
        self.store = FakeStore(self.kept.statements() | statements)
        self.spool = Spool(folder)
        around: Any = (self.store, self.spool)
        self.keeping = Keeping(*around)
        parts: Any = (self.counters, self.store, self, self.keeping)
        self.lost = LostReplies(*parts)

    def _of_lost(self, *asked: Any) -> list[TakeBack]:
        self.asked.append(asked)
        return self.old

    def _of_receipts(self, receipts: Sequence[TakeBack]) -> list[Charges]:
        return [[(ACCOUNT, 8)] for _ in receipts]

    async def take_back_all(self, wanted: Mapping[TakeBack, Charges]) -> None:
        if self.failure is not None:
            raise self.failure
        self.taken += [(receipt, list(charges)) for receipt, charges in wanted.items()]

    def journal(self, *entries: Entry) -> None:
        self.counters.journal[3] = list(entries)

    def heard_of(self, steps: Sequence[Step], until_ms: int = UNTIL_MS) -> list[LostReply]:
        """What is noted of them."""

        async def hear() -> None:
            self.lost.heard_of(steps, until_ms)
            await self.keeping.finish()

        asyncio.run(hear())
        return list(self.kept.lost.values())

    def run_once(self, at_ms: int = UNTIL_MS + 1) -> int:
        self.counters.clock.at_ms = self.counters.says_ms = at_ms
        return asyncio.run(self.lost.run_once())

    def left(self) -> list[str]:
        return [each.request_id for each in self.kept.lost.values()]


def receipt(first_n: int, count: int = 1, kind: str = "consume") -> TakeBack:
    return TakeBack("t", 3, 1, first_n, count, kind, NO_CALLER_WAS_TOLD)
