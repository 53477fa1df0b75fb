"""Admission: from what a caller asks to a decision. One trip to Redis where everything is known; where it is not, the
missing piece is brought and the step is asked again.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from gateway.catalog_cache import CatalogCache
from gateway.epochs import Epochs
from gateway.provisioning import Missing, Provisioner
from ledger.store import Store
from quota import keys, protocol
from quota.catalog import Catalog
from quota.counters import Counters
from quota.decisions import Decision, Demand, decision
from quota.errors import CountersUnavailable, IdempotencyKeyReused, NotFound
from quota.journal import About, encode_about
from quota.keys import AccountName
from quota.periods import period_at
from quota.protocol import AccountState, Charge, Outcome, Reply, Step, Verdict

MAX_ATTEMPTS = 8
"""Each attempt but the last changed something that the next one needs (an epoch, an account, a period, a catalog)."""


class Admission:
    """Decides for one process. Knows no HTTP."""

    def __init__(self, counters: Counters, store: Store, shard_count: int) -> None:
        self.catalogs = CatalogCache(store)
        self._counters = counters
        self._epochs = Epochs(counters, store)
        self._shard_count = shard_count
        self._provisioner = Provisioner(counters, store)

    def shard_of(self, tenant: str, subject: str) -> int:
        return keys.shard_of(tenant, subject, self._shard_count)

    async def decide(self, demand: Demand) -> tuple[Decision, Catalog]:
        """The decision, and the catalog that it was made with.

        CountersUnavailable, LedgerUnavailable, IdempotencyKeyReused, UnknownMetric, UnknownOperation, InvalidRequest.
        """
        version, catalog = await self.catalogs.get(demand.tenant)
        shard = self.shard_of(demand.tenant, demand.subject)
        for _ in range(MAX_ATTEMPTS):
            try:
                amounts = demand.amounts(catalog)
            except NotFound:
                # It may have been added a moment ago by another gateway; only Postgres can say that it was not.
                version, catalog = await self.catalogs.refresh(demand.tenant)
                replayed = await self._replayed(demand, shard, version)
                if replayed is not None:
                    return replayed, catalog
                amounts = demand.amounts(catalog)
            # An operation that costs nothing is asked as well: only Redis knows whether it still costs nothing.
            reply = await self._counters.decide(_step(demand, amounts, shard, version))
            if reply.outcome in {Outcome.ALLOWED, Outcome.DENIED}:
                return decision(demand, shard, reply), catalog
            if reply.outcome is Outcome.CATALOG_CHANGED:
                version, catalog = await self.catalogs.refresh(demand.tenant)
            else:
                await self._mend(demand, shard, reply)
        raise CountersUnavailable(f"the account was changed {MAX_ATTEMPTS} times meanwhile; nothing was charged")

    async def look(self, tenant: str, subject: str, request_id: str) -> tuple[Catalog, dict[str, Decision]]:
        """Every metric of the catalog as it stands for a subject; nothing is charged."""
        for _ in range(MAX_ATTEMPTS):
            _, catalog = await self.catalogs.get(tenant)
            demands = [Demand(tenant, subject, False, request_id, 0, metric) for metric in catalog.metrics]
            try:
                found = await asyncio.gather(*map(self.decide, demands))
            except NotFound:
                continue  # the catalog has lost a metric meanwhile, and was read anew
            if all(used is catalog for _, used in found):
                return catalog, {each.charges[0].metric: each for each, _ in found}
        raise CountersUnavailable(f"the catalog was changed {MAX_ATTEMPTS} times while it was read")

    async def _replayed(self, demand: Demand, shard: int, version: int) -> Decision | None:
        """The first answer under an idempotency key whose metric or operation has left the catalog since."""
        step = _step(demand, {}, shard, version)
        if step.record_key is None:
            return None
        reply = await self._counters.decide(replace(step, consumes=False))
        return decision(demand, shard, reply) if reply.replayed else None

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

    async def _mend(self, demand: Demand, shard: int, reply: Reply) -> None:
        """Brings what the script found missing, or raises what it refused for good."""
        match reply.outcome:
            case Outcome.KEY_REUSED:
                raise IdempotencyKeyReused(
                    "this idempotency key was used with another body; use a new key for a new request"
                )
            case Outcome.FAILED:
                raise CountersUnavailable(f"the journal refused the entry, nothing was charged: {reply.reason}")
            case Outcome.UNINITIALISED:
                await self._epochs.begin(shard)
        missing = []
        for state in reply.accounts:
            account = AccountName(demand.tenant, demand.subject, state.metric)
            if state.verdict in {Verdict.UNKNOWN, Verdict.STALE}:
                missing.append(Missing(shard, account, reply.epoch, reply.fence, reply.now_ms))
            elif state.verdict is Verdict.PERIOD_OVER:
                await self._roll(shard, account, state, reply.now_ms)
        if missing:
            await self._provisioner.provision(missing)

    async def _roll(self, shard: int, account: AccountName, state: AccountState, now_ms: int) -> None:
        assert state.period.end_ms is not None, "only a period that ends can be over"
        period = period_at(state.period.kind, now_ms, state.terms.anchor_ms)
        about = encode_about(About(tenant=account.tenant, subject=account.subject, metric=account.metric))
        await self._counters.run(protocol.roll(shard, account.key(shard), state.period.end_ms, period, about))


def _step(demand: Demand, amounts: Mapping[str, int], shard: int, catalog_version: int) -> Step:
    charges = []
    for metric, amount in amounts.items():
        about = b""
        if demand.consumes:
            about = encode_about(
                About(
                    tenant=demand.tenant,
                    subject=demand.subject,
                    metric=metric,
                    request_id=demand.request_id,
                    idempotency_key=demand.idempotency_key,
                    operation=demand.operation,
                    metadata=None if demand.metadata is None else dict(demand.metadata),
                )
            )
        charges.append(Charge(AccountName(demand.tenant, demand.subject, metric).key(shard), metric, amount, about))
    record_key = None
    if demand.consumes and demand.idempotency_key is not None:
        record_key = keys.record(shard, demand.tenant, demand.subject, "consume", demand.idempotency_key)
    return Step(
        shard,
        keys.catalog_field(demand.tenant),
        catalog_version,
        tuple(charges),
        demand.consumes,
        record_key,
        demand.fingerprint if record_key else "",
    )
