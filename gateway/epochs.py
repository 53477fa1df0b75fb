"""Gives shards their heads: at the first start, and whenever Redis has lost one.

Postgres gives out the epochs. The row stays locked from the look at Redis to the commit, so that of many gateways which
see the loss at once one begins the epoch and the others find it begun.
"""

import structlog

from ledger import reconciliations, shards
from ledger.store import ALL_TENANTS, Store
from quota import protocol
from quota.counters import Counters
from quota.errors import CountersUnavailable

log = structlog.get_logger()


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
