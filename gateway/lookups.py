"""What was done before: entries that a receipt or a reservation names, in the journal while they are young, then in the
ledger.
"""

from gateway.epochs import Epochs
from ledger import holds, receipts
from ledger.receipts import Taken
from ledger.store import Store
from quota.counters import Counters
from quota.errors import CountersUnavailable, ReceiptNotFound
from quota.formats import NONE, joined
from quota.handles import Receipt, Reservation
from quota.journal import Entry
from quota.keys import AccountName

TAKING = {"consume", "commit"}
SETTLING = {"commit", "release", "expire"}
MAX_YOUNG_ENTRIES = 5_000
"""Entries that a shard's journal holds while it is drained, many times over."""


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
            if not found and young:
                raise CountersUnavailable("this receipt is on its way into the ledger; nothing was changed")
        if len(found) != receipt.count:
            raise ReceiptNotFound("there is no such receipt")
        return epoch, found

    async def end_of_hold(self, tenant: str, shard: int, name: Reservation) -> str | None:
        """The kind of the entry that settled a hold, None if there never was such a hold in this tenant."""
        # The journal first: what has left it before is in the ledger.
        young = await self._counters.entries(shard, name.place, "+", MAX_YOUNG_ENTRIES)
        known = await self._store.run(
            tenant, holds.settled_by, AccountName(tenant, name.subject, name.metric), shard, name.place
        )
        if known in SETTLING:
            return known
        if known is None and not any(_is_hold(entry, tenant, name) for entry in young):
            return None
        ends = (entry.kind for entry in young if entry.detail == name.place and entry.kind in SETTLING)
        return next(ends, "expire")


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
