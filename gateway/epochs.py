"""Gives shards their heads: at the first start, and whenever Redis has lost one.

Postgres gives out the epochs. The row stays locked from the look at Redis to the commit, so that of many gateways which
see the loss at once one begins the epoch and the others find it begun.
"""

import asyncio

import structlog

from ledger import reconciliations, shards
from ledger.store import ALL_TENANTS, Store
from quota import protocol
from quota.counters import Counters
from quota.errors import CountersUnavailable

log = structlog.get_logger()


class Epochs:
    """Begins epochs for the requests of one process. A lost Redis fails all of them at once: they share one look."""

    def __init__(self, counters: Counters, store: Store) -> None:
        self._counters = counters
        self._store = store
        self._wanted: set[int] = set()
        self._next: asyncio.Task[int] | None = None

    async def begin(self, shard: int) -> None:
        """Returns once the shard has a head."""
        self._wanted.add(shard)
        if self._next is None:
            self._next = asyncio.create_task(self._begin_wanted())
        await asyncio.shield(self._next)

    async def _begin_wanted(self) -> int:
        # Runs in the next turn of the loop, when everybody of this turn has named a shard.
        wanted, self._wanted, self._next = sorted(self._wanted), set(), None
        return await begin_missing(self._counters, self._store, wanted)


async def begin_missing(counters: Counters, store: Store, wanted: list[int]) -> int:
    """Begins an epoch in each of these shards that has no head; how many there were."""
    found = await counters.epochs(wanted)
    missing = [shard for shard, epoch in found.items() if epoch is None]
    return await store.bounded(_begin(counters, store, missing)) if missing else 0


async def _begin(counters: Counters, store: Store, missing: list[int]) -> int:
    async with store.transaction(ALL_TENANTS) as connection:
        last = await connection.run_sync(shards.epochs_for_update, missing)
        found = await counters.epochs(missing)
        lost = {shard: last[shard] for shard, epoch in found.items() if epoch is None}
        store_id = await connection.run_sync(shards.store_id)
        for shard, epoch in lost.items():
            await connection.run_sync(shards.take_epoch, shard, epoch + 1)
            if epoch > 0:  # not the store's first start
                await connection.run_sync(reconciliations.add_incidents, shard, "lost", [{"lost_epoch": epoch}])
        calls = [protocol.begin_epoch(shard, epoch + 1, store_id) for shard, epoch in lost.items()]
        for reply in await counters.run_all(calls):
            if isinstance(reply, Exception):
                raise CountersUnavailable("the counters refuse to write; nothing was charged") from reply
    if lost:
        log.warning("shards had no head and began an epoch", shards=len(lost), newest_epoch=max(lost.values()) + 1)
    return len(lost)
