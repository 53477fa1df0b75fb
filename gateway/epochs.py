"""Gives shards their heads: at the first start, and whenever Redis has lost one.

Postgres gives out the epochs. The row stays locked from the look at Redis to the commit, so that of many gateways which
see the loss at once one begins the epoch and the others find it begun.
"""

import structlog

from ledger import shards
from ledger.store import ALL_TENANTS, Store
from quota import protocol
from quota.counters import Counters

log = structlog.get_logger()


async def begin_missing(counters: Counters, store: Store, wanted: list[int]) -> int:
    """Begins an epoch in each of these shards that has no head; how many there were."""
    found = await counters.epochs(wanted)
    missing = [shard for shard, epoch in found.items() if epoch is None]
    if not missing:
        return 0
    async with store.transaction(ALL_TENANTS) as connection:
        last = await connection.run_sync(shards.epochs_for_update, missing)
        found = await counters.epochs(missing)
        begun = {shard: last[shard] + 1 for shard, epoch in found.items() if epoch is None}
        for shard, epoch in begun.items():
            await connection.run_sync(shards.take_epoch, shard, epoch)
        await counters.run_all([protocol.begin_epoch(shard, epoch) for shard, epoch in begun.items()])
    if begun:
        log.warning("shards had no head and began an epoch", shards=len(begun), newest_epoch=max(begun.values()))
    return len(begun)
