"""Requests whose reply was lost: their callers were told 503, and whatever was charged without telling is taken back.

Redis refuses to charge them after an instant of its own clock. So once that has passed, what was charged of them stands
in the journal or in the ledger, and nothing comes after. They are written down, so that any gateway looks for them.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from uuid import uuid4

from gateway.for_ever import for_ever
from gateway.keeping import Keeping
from gateway.taking_back import TakingBack
from ledger import charges as ledger_charges
from ledger import outages
from ledger.outages import LostReply
from ledger.repeats import NO_CALLER_WAS_TOLD, TakeBack
from ledger.store import ALL_TENANTS, Store
from quota import keys
from quota.counters import Counters
from quota.gathering import MODES_TAKEN_BACK
from quota.journal import About, Entry, decode_about
from quota.keys import AccountName
from quota.protocol import Step

LOOK_EVERY_S = 0.3
MAX_AT_ONCE = 200
BEFORE_MS = 60_000
"""A step is charged within the second before its last instant, or not at all; this allows for clocks that jump."""
LOOKS_AT_THE_END = 10
"""A stop has three seconds for what was sent last."""


class LostReplies:
    """One a process; `heard_of` is what `Counters.on_lost` calls."""

    def __init__(self, counters: Counters, store: Store, taking_back: TakingBack, keeping: Keeping) -> None:
        self._counters = counters
        self._store = store
        self._taking_back = taking_back
        self._keeping = keeping
        self._last_ms = 0

    def heard_of(self, steps: Sequence[Step], until_ms: int) -> None:
        # One with an idempotency key is safe to repeat, and will be.
        lost = [
            _lost(step, until_ms)
            for step in steps
            if step.mode in MODES_TAKEN_BACK and step.record_key is None and step.charges
        ]
        if lost:
            self._last_ms = max(self._last_ms, until_ms)
            self._keeping.note(lost)

    async def keep_going(self) -> None:
        """Looks for what was charged without telling, for ever."""
        await for_ever(LOOK_EVERY_S, "looking for lost replies", self.run)

    async def run(self) -> None:
        """Looks for those whose time is over."""
        while await self.run_once() == MAX_AT_ONCE:
            pass

    async def run_once(self) -> int:
        """Settles some of those whose time is over; how many it tried. A shard in which that cannot be done keeps no
        other waiting; why is raised at the end."""
        if self._counters.are_away:
            return 0
        lost = await self._store.run(ALL_TENANTS, outages.claim_lost, self._counters.clock.now_ms(), MAX_AT_ONCE)
        if lost:
            # A clock that went on by itself while Redis stood still is early.
            await self._counters.ping()
            now_ms = self._counters.clock.now_ms()
            due = sorted((each for each in lost if each.until_ms < now_ms), key=lambda each: each.shard)
            obstacle = None
            for shard, some in groupby(due, key=lambda each: each.shard):
                try:
                    await self._settle(shard, list(some))
                except Exception as error:  # whatever it was
                    obstacle = obstacle or error
            if obstacle is not None:
                raise obstacle
        return len(lost)

    async def finish(self) -> None:
        """Before the process ends: writes down what is left, and looks for it while its time is near."""
        await self._keeping.finish()
        if not self._last_ms:
            return
        with suppress(Exception):  # whatever it is: other gateways look for them too, and this one must end
            for _ in range(LOOKS_AT_THE_END):
                if self._counters.are_away or self._counters.clock.now_ms() > self._last_ms:
                    break
                await asyncio.sleep(LOOK_EVERY_S)
            await self.run()

    async def _settle(self, shard: int, lost: list[LostReply]) -> None:
        """Takes back what was charged of some steps of one shard."""
        names = {(each.request_id, each.attempt) for each in lost}
        from_ms, till_ms = min(each.until_ms for each in lost) - BEFORE_MS, max(each.until_ms for each in lost)
        # The journal first: what has left it before is in the ledger.
        young = await self._counters.entries_since(shard, from_ms)
        found: dict[TakeBack, list[tuple[AccountName, int]]] = {}
        for entry in reversed(young):
            if _name(entry.about) in names and _is_taken_back(entry):
                found.setdefault(_receipt_of(entry), []).append((entry.account, entry.amount))
        old = await self._store.run(ALL_TENANTS, ledger_charges.of_lost, shard, lost, from_ms, till_ms)
        old = [each for each in old if each not in found]
        charges = await self._store.run(ALL_TENANTS, ledger_charges.of_receipts, old)
        found.update(zip(old, charges, strict=True))
        await self._taking_back.take_back_all(found)
        await self._store.run(ALL_TENANTS, outages.looked_for, lost)


def _lost(step: Step, until_ms: int) -> LostReply:
    about = decode_about(step.about)
    account = keys.account_of(step.charges[0].account_key)[1]
    return LostReply(
        id=str(uuid4()),
        tenant=account.tenant,
        subject=account.subject,
        metric=account.metric,
        shard=step.shard,
        request_id=about.request_id or "",
        attempt=about.attempt,
        until_ms=until_ms,
    )


def _is_taken_back(entry: Entry) -> bool:
    # A release without a detail gave back units of a level; one with it names the hold that it settled. A correction
    # without one is a person's.
    return entry.kind in {"consume", "hold"} or (entry.kind in {"release", "correct"} and entry.detail is None)


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
