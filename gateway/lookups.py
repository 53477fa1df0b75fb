"""What was done before: entries that a receipt or a reservation names, in the journal while they are young, then in the
ledger.
"""

import asyncio

from gateway.epochs import Epochs
from ledger import earlier_uses, holds, receipts
from ledger.earlier_uses import GivenBack
from ledger.receipts import Taken
from ledger.store import Store
from quota.counters import Counters
from quota.errors import CountersUnavailable, LedgerUnavailable, ReceiptNotFound
from quota.formats import NONE, joined
from quota.handles import Receipt, Reservation
from quota.journal import Entry
from quota.keys import AccountName, record

TAKING = {"consume", "commit"}
SETTLING = {"commit", "release", "expire"}
REFUNDS = "refunds"
"""The scope of the keys that refunds come with."""
MAX_YOUNG_ENTRIES = 10_000
"""Entries that a shard's journal holds while it is drained, many times over."""
LOOK_WITHIN_S = 0.5
"""Far more than a look into the ledger takes; one that hangs is not waited for where it can be done without."""


class Lookups:
    """Bound to both stores of one process."""

    def __init__(self, counters: Counters, store: Store, epochs: Epochs, shard_count: int) -> None:
        self._counters = counters
        self._epochs = epochs
        self._store = store
        self._shard_count = shard_count

    async def taken(self, tenant: str, receipt: Receipt) -> tuple[int, list[Taken]]:
        """What a receipt names, and the epoch in which that was read. ReceiptNotFound, also for another tenant's."""
        if receipt.shard >= self._shard_count:
            raise ReceiptNotFound("there is no such receipt")
        # The epoch first: refunds that the ledger does not know yet are remembered by Redis, while this epoch lasts.
        epoch = (await self._counters.epochs([receipt.shard]))[receipt.shard]
        if epoch is None:
            await self._epochs.begin(receipt.shard)
            epoch = (await self._counters.epochs([receipt.shard]))[receipt.shard]
        if epoch is None:
            raise CountersUnavailable("the counters were lost and lost again; nothing was changed")
        last_n = receipt.first_n + receipt.count - 1
        young = await self._counters.entries(
            receipt.shard, f"{receipt.epoch}-{receipt.first_n}", f"{receipt.epoch}-{last_n}", receipt.count
        )
        if len(young) == receipt.count:
            found = [_taken(entry) for entry in young if _is_of(entry, tenant, receipt)]
        else:
            found = await self._store.run(
                tenant, receipts.find, tenant, receipt.shard, receipt.epoch, receipt.first_n, receipt.count
            )
            if not found and young and all(_is_of(entry, tenant, receipt) for entry in young):
                raise CountersUnavailable("this receipt is on its way into the ledger; nothing was changed")
        if len(found) != receipt.count:
            raise ReceiptNotFound("there is no such receipt")
        return epoch, found

    async def first_refund(self, tenant: str, shard: int, subject: str, key: str) -> list[GivenBack]:
        """What a refund under this key gave back before, of which Redis has lost its record.

        [] if there was none, or if Redis knows it and will answer with it; and while the ledger does not answer: then
        the refund is done, and a second one of that key is found by the drain.
        """
        if await self._counters.has_record(record(shard, tenant, subject, REFUNDS, key)):
            return []
        since_ms = self._counters.clock.now_ms() - self._counters.record_ttl_ms
        try:
            async with asyncio.timeout(LOOK_WITHIN_S):
                return await self._store.run(tenant, earlier_uses.refund, tenant, subject, REFUNDS, key, since_ms)
        except (LedgerUnavailable, TimeoutError):
            return []

    async def held(self, tenant: str, shard: int, name: Reservation, start_ms: int) -> int:
        """The amount of a hold that was made in the period which began then; else, and where it cannot be found now, 0.

        It is only told to people, so nothing that is away keeps them from the rest of their answer.
        """
        account = AccountName(tenant, name.subject, name.metric)
        try:
            for entry in await self._counters.entries(shard, name.place, name.place, 1):
                if _is_hold(entry, tenant, name):
                    return entry.amount if entry.window.period.start_ms == start_ms else 0
            async with asyncio.timeout(LOOK_WITHIN_S):
                return await self._store.run(tenant, holds.amount_of, account, shard, name.place, start_ms)
        except (CountersUnavailable, LedgerUnavailable, TimeoutError):
            return 0

    async def end_of_hold(self, tenant: str, shard: int, name: Reservation) -> str | None:
        """The kind of the entry that settled a hold, None if there never was such a hold in this tenant."""
        account = AccountName(tenant, name.subject, name.metric)
        known = await self._store.run(tenant, holds.settled_by, account, shard, name.place)
        if known in SETTLING:
            return known
        young = await self._counters.entries(shard, name.place, "+", MAX_YOUNG_ENTRIES)
        ends = [entry.kind for entry in young if entry.detail == name.place and entry.kind in SETTLING]
        was_made = known is not None or any(_is_hold(entry, tenant, name) for entry in young)
        if was_made and ends:
            return ends[0]
        # What has left the journal between the two looks is in the ledger now.
        known = await self._store.run(tenant, holds.settled_by, account, shard, name.place)
        if known is None and not was_made:
            return None
        if known not in SETTLING and not ends and len(young) >= MAX_YOUNG_ENTRIES:  # it may have been settled later
            raise CountersUnavailable("the journal is longer than can be looked through; nothing was changed")
        return known if known in SETTLING else next(iter(ends), "expire")


def _is_of(entry: Entry, tenant: str, receipt: Receipt) -> bool:
    same = entry.receipt_first_n == receipt.first_n and entry.receipt_count == receipt.count
    return same and entry.account.tenant == tenant and entry.kind in TAKING


def _is_hold(entry: Entry, tenant: str, name: Reservation) -> bool:
    is_there = str(entry.place) == name.place and entry.kind == "hold"
    return is_there and entry.account == AccountName(tenant, name.subject, name.metric)


def _taken(entry: Entry) -> Taken:
    caps = joined(f"{kind}:{start}" for kind, start in entry.cap_windows)
    return Taken(
        entry.place,
        entry.account,
        entry.kind,
        entry.amount,
        joined(entry.parts) or NONE,
        caps or NONE,
        late=str(entry.window) if entry.used_after is None else None,
        sealed=None,
        refunded=0,
    )
