"""Admission: from what a caller asks to an answer of the counters. One trip to Redis where everything is known; where
it is not, the missing piece is brought and the step is asked again.
"""

import asyncio
from collections.abc import Collection
from dataclasses import replace

from gateway.catalog_cache import CatalogCache
from gateway.epochs import Epochs
from gateway.provisioning import Missing, Provisioner
from gateway.rolling import Roller
from ledger.store import Store
from quota import keys, protocol
from quota.catalog import Catalog
from quota.counters import Counters
from quota.decisions import Decision, decision
from quota.demands import Asked, Demand, step
from quota.errors import CountersDamaged, CountersUnavailable, IdempotencyKeyReused, NotFound
from quota.formats import NONE
from quota.keys import AccountName
from quota.protocol import Mode
from quota.replies import Outcome, Reply, Verdict

MAX_ATTEMPTS = 8
"""Each attempt but the last changed something that the next one needs (an epoch, an account, a period, a catalog)."""

UNSETTLED = {Outcome.UNREADY, Outcome.UNINITIALISED, Outcome.CATALOG_CHANGED, Outcome.LATE}


class Admission:
    """Decides for one process. Knows no HTTP."""

    def __init__(self, counters: Counters, store: Store, epochs: Epochs, shard_count: int) -> None:
        self.catalogs = CatalogCache(store)
        self._counters = counters
        self.epochs = epochs
        self._shard_count = shard_count
        self._provisioner = Provisioner(counters, store)
        self._roller = Roller(counters)

    def shard_of(self, tenant: str, subject: str) -> int:
        return keys.shard_of(tenant, subject, self._shard_count)

    def now_ms(self) -> int:
        """Redis's clock, as far as this process knows it."""
        return self._counters.clock.now_ms()

    async def decide(self, demand: Demand) -> tuple[Decision, Catalog]:
        """The decision, and the catalog that it was made with. Raises as `ask` does."""
        reply, catalog = await self.ask(demand)
        return decision(demand, self.shard_of(demand.tenant, demand.subject), reply), catalog

    async def ask(self, demand: Demand) -> tuple[Reply, Catalog]:
        """The counters' last word, and the catalog that they were asked with.

        CountersUnavailable, LedgerUnavailable, IdempotencyKeyReused, UnknownMetric, UnknownOperation, InvalidRequest.
        """
        version, catalog = await self.catalogs.get(demand.tenant)
        shard = self.shard_of(demand.tenant, demand.subject)
        for _ in range(MAX_ATTEMPTS):
            try:
                charges = demand.charges(catalog)
            except NotFound:
                # It may have been added a moment ago by another gateway; only Postgres can say that it was not.
                version, catalog = await self.catalogs.refresh(demand.tenant)
                replayed = await self.replayed(demand, shard, version)
                if replayed is not None:
                    return replayed, catalog
                charges = demand.charges(catalog)
            # An operation that costs nothing is asked as well: only Redis knows whether it still costs nothing.
            reply = await self._counters.decide(step(demand, charges, shard, version))
            if reply.outcome is Outcome.CATALOG_CHANGED:
                version, catalog = await self.catalogs.refresh(demand.tenant)
            elif reply.outcome in UNSETTLED:
                await self.mend(demand, shard, reply)
            else:
                return settled(reply), catalog
        raise CountersUnavailable(f"the account was changed {MAX_ATTEMPTS} times meanwhile; nothing was charged")

    async def look(
        self, tenant: str, subject: str, request_id: str, metrics: Collection[str] | None = None
    ) -> tuple[Catalog, dict[str, Decision]]:
        """Every metric of the catalog, or each of some, as it stands for a subject; nothing is charged."""
        for _ in range(MAX_ATTEMPTS):
            _, catalog = await self.catalogs.get(tenant)
            demands = [
                Demand(tenant, subject, Mode.CHECK, request_id, (Asked(metric, 0),))
                for metric in catalog.metrics
                if metrics is None or metric in metrics
            ]
            try:
                found = await asyncio.gather(*map(self.decide, demands))
            except NotFound:
                continue  # the catalog has lost a metric meanwhile, and was read anew
            if all(used is catalog for _, used in found):
                return catalog, {each.charges[0].metric: each for each, _ in found}
        raise CountersUnavailable(f"the catalog was changed {MAX_ATTEMPTS} times while it was read")

    async def replayed(self, demand: Demand, shard: int, version: int) -> Reply | None:
        """The first answer under an idempotency key whose metric or operation has left the catalog since."""
        alone = step(demand, (), shard, version)
        if alone.record_key is None:
            return None
        reply = await self._counters.decide(replace(alone, mode=Mode.CHECK, refunds_key=None))
        return reply if reply.replayed else None

    async def announce(self, tenant: str, subject: str | None) -> None:
        """Tells Redis that Postgres has something newer: of one subject, or of the tenant's whole catalog.

        CountersUnavailable when it does not hear; the change is kept, and a worker will tell it.
        """
        try:
            await self._announce(tenant, subject)
        except CountersUnavailable as error:
            raise CountersUnavailable(
                f"{error}; the change is kept, and takes effect within seconds of their return"
            ) from error

    async def _announce(self, tenant: str, subject: str | None) -> None:
        version, catalog = await self.catalogs.refresh(tenant)
        if subject is None:
            calls = [protocol.publish(shard, tenant, version) for shard in range(self._shard_count)]
        else:
            shard = self.shard_of(tenant, subject)
            names = [AccountName(tenant, subject, metric).key(shard) for metric in catalog.metrics]
            calls = [protocol.publish(shard, tenant, version, names)]
        for reply in await self._counters.run_all(calls):
            if isinstance(reply, Exception):
                raise CountersUnavailable("the counters refuse to write") from reply

    async def mend(self, demand: Demand, shard: int, reply: Reply) -> None:
        """Brings what the script found missing."""
        match reply.outcome:
            case Outcome.CATALOG_CHANGED:
                await self.catalogs.refresh(demand.tenant)
            case Outcome.UNINITIALISED:
                await self.epochs.begin(shard)
        missing, over = [], []
        for state in reply.accounts:
            account = AccountName(demand.tenant, demand.subject, state.metric)
            if state.verdict in {Verdict.UNKNOWN, Verdict.STALE}:
                missing.append(Missing(shard, account, reply.epoch, reply.fence, reply.now_ms))
            elif state.verdict is Verdict.PERIOD_OVER:
                over.append(self._roller.roll(shard, state, reply.now_ms))
        if over:
            await asyncio.gather(*over)
        if missing and reply.fence == NONE:
            raise CountersUnavailable("the counters are being rebuilt; nothing was charged")
        if missing:
            await self._provisioner.provision(missing)


def settled(reply: Reply) -> Reply:
    """The reply, or what it refuses for good."""
    match reply.outcome:
        case Outcome.KEY_REUSED:
            raise IdempotencyKeyReused(
                "this idempotency key was used with another body; use a new key for a new request"
            )
        case Outcome.FAILED:
            raise CountersDamaged(f"the counters refuse: {reply.reason}")
        case Outcome.UNDRAINED:
            raise CountersUnavailable("the ledger has not got all that was journalled yet; nothing was changed")
    return reply
