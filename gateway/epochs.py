"""Looks at a Redis before it is used, and begins an epoch wherever it has lost something.

Postgres gives out the epochs. A shard's row stays locked from the look at Redis to the commit, so that of many gateways
which see a loss at once one begins the epoch and the others find it begun, and no drain moves the offset meanwhile.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import structlog

from gateway import metrics
from gateway.clock_steps import ClockSteps
from ledger import losses, shards
from ledger.store import ALL_TENANTS, DEADLINE_S, Store
from quota.acknowledged import Acknowledged
from quota.counters import Counters
from quota.errors import LedgerUnavailable
from quota.journal import Place
from quota.lives import Lives, Looking, Standing

LOOK_EVERY_S = 2.0
LOOK_AGAIN_S = 0.1
JOURNAL_IS_NONE = "the journal of shard {} in Redis is something else, and no shard's entries are drained"

log = structlog.get_logger()


class Epochs:
    """Begins epochs for the requests of one process. A lost Redis fails all of them at once: they share one look."""

    def __init__(self, looking: Looking, store: Store, acknowledged: Acknowledged) -> None:
        self._looking = looking
        self._store = store
        self._acknowledged = acknowledged
        self._turns = asyncio.Lock()
        self._wanted: set[int] = set()
        self._next: asyncio.Task[int] | None = None

    async def begin(self, shard: int) -> None:
        """Returns once the shard has a head. LedgerUnavailable where that takes too long, whoever had the turn."""
        self._wanted.add(shard)
        if self._next is None:
            self._next = asyncio.create_task(self._begin_wanted())
        try:
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.shield(self._next)
        except TimeoutError as error:
            raise LedgerUnavailable(f"no epoch could begin within {DEADLINE_S:.0f} s") from error

    async def _begin_wanted(self) -> int:
        # One at a time, or all of the store's connections would wait for the shards' rows. Everybody who names a shard
        # meanwhile shares the next.
        async with self._turns:
            wanted, self._wanted, self._next = sorted(self._wanted), set(), None
            told = {shard: self._acknowledged.last(shard) for shard in wanted}
            found = await self._looking.standings(wanted)
            return await begin_where_lost(self._looking, self._store, told, found)


class Looks:
    """Looks at every life of Redis that this process meets, before its connections may be used."""

    def __init__(
        self, counters: Counters, looking: Looking, lives: Lives, store: Store, *, shard_count: int, most_waiting: int
    ) -> None:
        self._looking = looking
        self._lives = lives
        self._counters = counters
        self._most_waiting = most_waiting
        self._store = store
        self._shards = range(shard_count)
        self._clock_steps = ClockSteps(looking, counters.clock, store)

    async def keep_going(self) -> None:
        """Looks as soon as a connection was refused, and every two seconds, for ever."""
        told = None
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lives.is_unknown.wait(), LOOK_EVERY_S)
            try:
                await self.look()
                told = None
            except Exception as error:  # whatever it was: nobody else would look
                if told != str(error):
                    told = str(error)
                    log.warning("the counters cannot be looked at", reason=told)
                await asyncio.sleep(LOOK_AGAIN_S)

    async def look(self) -> None:
        """CountersUnavailable or LedgerUnavailable when one of the two does not answer: then nothing may be used."""
        name = await self._looking.name()
        await self._clock_steps.look()
        found = await self._looking.standings(self._shards)
        waiting = sum(standing.waiting for standing in found.values())
        metrics.journal_entries.set(waiting)
        metrics.most_journal_entries.set(self._most_waiting)
        self._counters.journal_is_full = waiting >= self._most_waiting
        told = {shard: self._counters.acknowledged.last(shard) for shard in self._shards}
        damaged = [shard for shard, standing in found.items() if standing.is_damaged]
        self._counters.damage = JOURNAL_IS_NONE.format(damaged[0]) if damaged else None
        await begin_where_lost(self._looking, self._store, told, found)
        self._counters.damage = None
        if await self._looking.name() == name:
            self._lives.may_be_used(name)
        await self._tell_of_losses(found)
        await self._clock_steps.tell()

    async def _tell_of_losses(self, found: Mapping[int, Standing]) -> None:
        """What callers were told and the ledger has not got, once an epoch has ended and its journal is drained."""
        acknowledged = self._counters.acknowledged
        running = {shard: each.epoch for shard, each in found.items() if each.epoch is not None}
        ended = acknowledged.ended(running)
        known = await self._store.run(ALL_TENANTS, shards.standings, list(ended)) if ended else {}
        for shard, epochs in ended.items():
            for epoch in epochs:
                if found[shard].waiting and known[shard][1].epoch <= epoch:
                    break  # the journal still has some of it
                told = list(acknowledged.of_epoch(shard, epoch))
                dropped = acknowledged.dropped(shard, epoch)
                await self._store.run(ALL_TENANTS, losses.tell_of_lost, shard, epoch, told, dropped)
                acknowledged.settle(shard, epoch + 1)
            else:
                acknowledged.settle(shard, running[shard])


async def begin_where_lost(
    looking: Looking, store: Store, told: Mapping[int, Place], found: Mapping[int, Standing]
) -> int:
    """Begins an epoch in each of these shards that Redis has lost or in which it went back, before what the ledger has
    or before the last place that callers were `told` of, or has begun it already, of which the ledger did not hear; how
    many there were."""
    known = await store.run(ALL_TENANTS, shards.standings, list(told))
    lost = {
        shard: told[shard]
        for shard, standing in found.items()
        if losses.begins_in(standing, *known[shard], told[shard]) is not None
    }
    return await store.bounded(_begin(looking, store, lost)) if lost else 0


async def _begin(looking: Looking, store: Store, told: Mapping[int, Place]) -> int:
    async with store.transaction(ALL_TENANTS) as connection:
        await connection.run_sync(shards.lock_all, list(told))
        found = await looking.standings(list(told))
        epochs, lost = await connection.run_sync(losses.begin_epochs, found, told)
        # Under the lock, so that nobody else finds the shards behind. Where the commit fails the heads are ahead of the
        # ledger, and whoever finds that first tells it: the next look, or a drain (workers/drain.py).
        await looking.begin(epochs, await connection.run_sync(shards.store_id))
    for each in lost:
        each.log()
    if epochs:
        log.warning("shards had lost something and began an epoch", shards=len(epochs), newest=max(epochs.values()))
    return len(epochs)
