"""Takes back what was charged and should not have been: a repeat that Redis no longer knew, or a charge of which no
caller was told.
"""

import asyncio
from collections.abc import Sequence

import structlog

from gateway.admission import Admission
from gateway.lookups import Lookups
from gateway.refunds import asked_of
from ledger import charges as ledger_charges
from ledger import repeats
from ledger.repeats import TakeBack
from ledger.store import ALL_TENANTS, Store
from quota.demands import Asked, Demand
from quota.errors import CountersUnavailable, NotFound, QuotagateError
from quota.handles import Receipt
from quota.identifiers import MAX_AMOUNT
from quota.keys import AccountName
from quota.protocol import Mode

LOOK_EVERY_S = 0.3
"""A repeat is taken back within a second: the drain finds it in a fraction of one, and this is the rest."""
MAX_AT_ONCE = 100

log = structlog.get_logger()


class TakingBack:
    """One a process. Several may take back the same at once: the counters give back no more than was taken."""

    def __init__(self, admission: Admission, lookups: Lookups, store: Store) -> None:
        self._admission = admission
        self._lookups = lookups
        self._store = store

    async def keep_going(self) -> None:
        """Looks for what the drain has found, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                while await self.run_once() == MAX_AT_ONCE:
                    pass
            except QuotagateError as error:
                log.info("what must be taken back waits", reason=str(error))
            except Exception as error:  # nobody else would begin it again
                log.error("what must be taken back cannot be now", exc_info=error)

    async def run_once(self) -> int:
        """Takes back at most MAX_AT_ONCE receipts; how many there were. One that must wait keeps no other waiting; why
        is raised at the end."""
        waiting = await self._store.run(ALL_TENANTS, repeats.waiting, MAX_AT_ONCE)
        obstacle = None
        for each in waiting:
            charges = await self._store.run(each.tenant, ledger_charges.of_receipt, each)
            try:
                await self.take_back(each, charges)
            except CountersUnavailable as error:
                obstacle = error
                continue
            await self._store.run(ALL_TENANTS, repeats.done, each.shard, each.epoch, each.first_n)
        if obstacle is not None:
            raise obstacle
        return len(waiting)

    async def take_back(self, wanted: TakeBack, charges: Sequence[tuple[AccountName, int]]) -> None:
        """Undoes what a receipt names, once however often it is called. `charges` are its accounts and amounts."""
        receipt = Receipt(wanted.shard, wanted.epoch, wanted.first_n, wanted.count)
        if not charges:
            return
        try:
            if wanted.kind in {"consume", "commit"}:
                await self._ask(wanted, charges, Mode.REFUND, *await self._refunded(wanted.tenant, receipt))
            elif wanted.kind == "hold":
                place = f"{receipt.epoch}-{receipt.first_n}"
                await self._ask(wanted, charges, Mode.RELEASE, (Asked(charges[0][0].metric, None, place),))
            else:
                # Units that were given back twice are used again, whatever the limit is now.
                again = tuple(Asked(account.metric, amount, f"{MAX_AMOUNT} -") for account, amount in charges)
                await self._ask(wanted, charges, Mode.CHARGE, again)
        except NotFound as error:
            log.error("a charge cannot be taken back", receipt=str(receipt), reason=str(error))
            return
        log.warning("a charge was taken back", receipt=str(receipt), kind=wanted.kind, reason=wanted.reason)

    async def _refunded(self, tenant: str, receipt: Receipt) -> tuple[tuple[Asked, ...], tuple[int, int]]:
        epoch, taken = await self._lookups.taken(tenant, receipt)
        return asked_of(taken, epoch, None), (receipt.epoch, receipt.first_n)

    async def _ask(
        self,
        wanted: TakeBack,
        charges: Sequence[tuple[AccountName, int]],
        mode: Mode,
        asked: tuple[Asked, ...],
        receipt: tuple[int, int] | None = None,
    ) -> None:
        name = f"{wanted.shard}.{wanted.epoch}-{wanted.first_n}"
        demand = Demand(
            wanted.tenant,
            charges[0][0].subject,
            mode,
            f"take-back-{name}",
            asked,
            idempotency_key=name,
            route="take_back",
            fingerprint=mode.value,
            reason=wanted.reason,
            receipt=receipt,
        )
        await self._admission.ask(demand)
