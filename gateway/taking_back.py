"""Takes back what was charged and should not have been: a repeat that Redis no longer knew, or a charge of which no
caller was told.
"""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from gateway.admission import Admission
from gateway.for_ever import for_ever
from gateway.lookups import Lookups
from gateway.undoing import Undoing
from ledger import charges as ledger_charges
from ledger import repeats
from ledger.repeats import TakeBack
from ledger.store import ALL_TENANTS, Store
from quota.counters import Counters
from quota.errors import Conflict, NotFound
from quota.handles import Receipt
from quota.keys import AccountName

LOOK_EVERY_S = 0.3
"""A repeat is taken back within a second: the drain finds it in a fraction of one, and this is the rest."""
MAX_AT_ONCE = 200
MAX_TOGETHER = 20
"""Each asks both stores some times; requests need them too."""

log = structlog.get_logger()


class TakingBack:
    """One a process. Several may take back the same at once: the counters give back no more than was taken."""

    def __init__(self, admission: Admission, counters: Counters, lookups: Lookups, store: Store) -> None:
        self._undoing = Undoing(admission, lookups, store)
        self._counters = counters
        self._store = store

    async def keep_going(self) -> None:
        """Takes back what the drain has found, for ever."""
        await for_ever(LOOK_EVERY_S, "taking back", self.run)

    async def run(self) -> None:
        """Takes back what waits, until nothing is due or the counters are away."""
        while not self._counters.are_away and await self.run_once() == MAX_AT_ONCE:
            pass

    async def run_once(self) -> int:
        """Takes back some of what waits; how many receipts it tried."""
        waiting = await self._store.run(ALL_TENANTS, repeats.claim, MAX_AT_ONCE)
        if waiting:
            charges = await self._store.run(ALL_TENANTS, ledger_charges.of_receipts, waiting)
            await self.take_back_all(dict(zip(waiting, charges, strict=True)))
        return len(waiting)

    async def take_back_all(self, wanted: Mapping[TakeBack, Sequence[tuple[AccountName, int]]]) -> None:
        """Undoes what receipts name, and notes that it is done. One that must wait keeps no other waiting; why is
        raised at the end."""
        receipts = list(wanted)
        obstacle: BaseException | None = None
        for first in range(0, len(receipts), MAX_TOGETHER):
            some = receipts[first : first + MAX_TOGETHER]
            found = await asyncio.gather(*(self.take_back(each, wanted[each]) for each in some), return_exceptions=True)
            obstacle = obstacle or next((each for each in found if each is not None), None)
            done = [each for each, error in zip(some, found, strict=True) if error is None]
            await self._store.run(ALL_TENANTS, repeats.done, done)
        if obstacle is not None:
            raise obstacle

    async def take_back(self, wanted: TakeBack, charges: Sequence[tuple[AccountName, int]]) -> None:
        """Undoes what a receipt names, once however often it is called. `charges` are its accounts and amounts."""
        receipt = Receipt(wanted.shard, wanted.epoch, wanted.first_n, wanted.count)
        telling = log.bind(receipt=str(receipt), kind=wanted.kind, reason=wanted.reason)
        try:
            was_left = await self._undoing.undo(wanted, charges)
        except (NotFound, Conflict) as error:
            telling.error("a charge cannot be taken back", why=str(error))
            return
        if was_left:
            telling.warning("a charge was taken back")
        else:
            telling.info("of a charge there was nothing left to take back")
