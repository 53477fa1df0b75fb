"""Requests whose reply was lost: their callers were told 503, and whatever was charged without telling is taken back.

Redis refuses to charge them after an instant of its own clock. So once that has passed, what was charged of them stands
in the journal or in the ledger, and nothing comes after.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile

import structlog

from gateway.taking_back import TakingBack
from ledger import charges as ledger_charges
from ledger.repeats import NO_CALLER_WAS_TOLD, TakeBack
from ledger.store import ALL_TENANTS, Store
from quota import keys
from quota.counters import Counters
from quota.errors import LedgerUnavailable, QuotagateError
from quota.gathering import MODES_TAKEN_BACK
from quota.journal import About, Entry, decode_about
from quota.protocol import Step

MAX_LOST = 20_000
LOOK_EVERY_S = 0.2
LOOKS_AT_THE_END = 15
"""A call can be charged for a second after it was sent; a stop has three for what was sent last."""
MAX_YOUNG_ENTRIES = 20_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Lost:
    """A step whose outcome nobody heard, and until when it could be charged."""

    step: Step
    until_ms: int


class LostReplies:
    """One a process; `heard_of` is what `Counters.on_lost` calls."""

    def __init__(self, counters: Counters, store: Store, taking_back: TakingBack) -> None:
        self._counters = counters
        self._store = store
        self._taking_back = taking_back
        self._lost: deque[Lost] = deque()

    def heard_of(self, steps: Sequence[Step], until_ms: int) -> None:
        for step in steps:
            # One with an idempotency key is safe to repeat, and will be.
            if step.mode not in MODES_TAKEN_BACK or step.record_key is not None or not step.charges:
                continue
            if len(self._lost) >= MAX_LOST:
                log.error("more replies were lost than can be looked for", most=MAX_LOST)
                return
            self._lost.append(Lost(step, until_ms))

    async def keep_going(self) -> None:
        """Looks for what was charged without telling, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.run_once()
            except QuotagateError as error:
                log.info("lost replies wait to be looked for", lost=len(self._lost), reason=str(error))
            except Exception as error:  # nobody else would begin it again
                log.error("lost replies cannot be looked for now", lost=len(self._lost), exc_info=error)

    async def finish(self) -> None:
        """Looks once more for those that are left, before the process ends."""
        with suppress(QuotagateError):
            for _ in range(LOOKS_AT_THE_END):
                if await self.run_once() == 0:
                    return
                await asyncio.sleep(LOOK_EVERY_S)
        if self._lost:
            log.error("lost replies were not looked for: what they charged stays charged", lost=len(self._lost))

    async def run_once(self) -> int:
        """Settles those whose time is over; how many are left."""
        if self._lost and not self._counters.are_away:
            await self._counters.ping()  # and so hears what Redis's clock says
            now_ms = self._counters.clock.now_ms()
            due = list(takewhile(lambda each: each.until_ms < now_ms, self._lost))
            by_shard: dict[int, list[Step]] = {}
            for each in due:
                by_shard.setdefault(each.step.shard, []).append(each.step)
            for shard, steps in by_shard.items():
                await self._settle(shard, steps)
            for _ in due:
                self._lost.popleft()
        return len(self._lost)

    async def _settle(self, shard: int, steps: list[Step]) -> None:
        """Takes back what was charged of some steps of one shard."""
        lost = {_name(decode_about(step.about)) for step in steps}
        # The journal first: what has left it before is in the ledger.
        young = await self._counters.entries(shard, "-", "+", MAX_YOUNG_ENTRIES)
        if len(young) >= MAX_YOUNG_ENTRIES:  # what was charged lately stands at its end
            raise LedgerUnavailable("the journal is longer than can be looked through")
        charged = [entry for entry in young if _name(entry.about) in lost and _is_taken_back(entry)]
        names = [keys.account_of(step.charges[0].account_key)[1] for step in steps]
        old = await self._store.run(ALL_TENANTS, ledger_charges.of_requests, shard, names, sorted(lost, key=str))
        found = {(each.epoch, each.first_n): each for each in [*map(_receipt_of, charged), *old]}
        for each in found.values():
            charges = [(entry.account, entry.amount) for entry in charged if _receipt_of(entry) == each]
            charges = charges or await self._store.run(each.tenant, ledger_charges.of_receipt, each)
            await self._taking_back.take_back(each, charges)


def _is_taken_back(entry: Entry) -> bool:
    # A release without a detail gave back units of a level; one with it names the hold that it settled.
    return entry.kind in {"consume", "hold"} or (entry.kind == "release" and entry.detail is None)


def _name(about: About) -> tuple[str, str | None]:
    return about.request_id or "", about.attempt


def _receipt_of(entry: Entry) -> TakeBack:
    place = entry.place
    return TakeBack(
        entry.account.tenant,
        entry.shard,
        place.epoch,
        entry.receipt_first_n,
        entry.receipt_count,
        entry.kind,
        NO_CALLER_WAS_TOLD,
    )
