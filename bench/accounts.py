"""Accounts, and entries in their journals: made as the gateway makes them, by the scripts themselves."""

import random
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from bench.stores import SHARDS, Stores
from ledger import catalogs, shards
from ledger.acts import By
from ledger.openings import opening, read
from ledger.store import ALL_TENANTS, transaction
from quota import keys, protocol
from quota.catalog import parse_toml
from quota.demands import Asked, Demand, step
from quota.keys import AccountName
from quota.protocol import Bringing, Call, Mode, Step, batched, together
from quota.scripts import SCRIPTS
from tests.integration.shard import ClockedShard

TENANT, METRIC, DAILY = "default", "api_calls", "mails"
CATALOG = f"""
default_plan = "pro"
[metrics.{METRIC}]
unit = "call"
[metrics.{DAILY}]
unit = "mail"
[plans.pro]
rank = 0
limits.{METRIC} = {{ limit = 1000000000, period = "month" }}
limits.{DAILY} = {{ limit = 1000000000, period = "day" }}
"""
CATALOG_VERSION = 1
EPOCH = 1
STEPS_A_CALL = 128
CALLS_A_TRIP = 16
PAGE = 1_000
RECORD_TTL_MS = 86_400_000


def account(place: int, metric: str = METRIC) -> AccountName:
    return AccountName(TENANT, f"user_{place:07}", metric)


def shard_of(name: AccountName) -> int:
    return keys.shard_of(name.tenant, name.subject, SHARDS)


class Making:
    """Bound to some stores, to which it gives a catalog and an epoch. `at_ms` stops the scripts' clock, and Redis's own
    goes on: what is made then is of that instant."""

    def __init__(self, stores: Stores, at_ms: int | None = None) -> None:
        self._redis, self._engine, self._at_ms = stores.redis, stores.engine(), at_ms
        self._chance = random.Random(1)
        clocked = ClockedShard(stores.redis)
        if at_ms is not None:
            clocked.set_clock(at_ms)
        self._names = {
            name: str(stores.redis.script_load(script.text if at_ms is None else clocked.source(name)))
            for name, script in SCRIPTS.items()
        }
        with transaction(self._engine, ALL_TENANTS) as connection:
            catalogs.apply(connection, TENANT, parse_toml(CATALOG), By("bench"), dry_run=False)
        self.begin(EPOCH)

    def begin(self, epoch: int) -> None:
        """In all shards, as a gateway that finds an empty Redis does it."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            for shard in range(SHARDS):
                shards.take_epoch(connection, shard, epoch)
        self._run([protocol.begin_epoch(shard, epoch, "") for shard in range(SHARDS)])

    def bring_in(self, names: Sequence[AccountName]) -> None:
        now_ms = self._at_ms or int(time.time() * 1000)
        for page in batched(names, PAGE):
            with transaction(self._engine, ALL_TENANTS) as connection:
                reading = read(connection, list(page), now_ms)
            found = [
                Bringing(shard_of(name), EPOCH, "0", opening(name, now_ms, reading))
                for name in sorted(page, key=shard_of)
            ]
            for reply in self._run([protocol.provision(some) for some in together(found)]):
                assert set(reply) == {b"provisioned"}, reply

    def consume(self, names: Sequence[AccountName], *, with_key: bool = False) -> None:
        """A unit of each, in that order."""
        calls = [
            protocol.consume([self._step(name, with_key) for name in some], RECORD_TTL_MS)
            for some in batched(names, STEPS_A_CALL)
        ]
        for reply in self._run(calls):
            assert all(each.startswith(b"allowed") for each in reply), reply

    def _step(self, name: AccountName, with_key: bool) -> Step:
        demand = Demand(
            name.tenant,
            name.subject,
            Mode.CONSUME,
            uuid.UUID(int=self._chance.getrandbits(128)).hex,
            (Asked(name.metric, 1),),
            idempotency_key=str(uuid.UUID(int=self._chance.getrandbits(128))) if with_key else None,
            route="consume",
            fingerprint="0123456789abcdef0123456789abcdef" if with_key else "",
        )
        return step(demand, demand.asked, shard_of(name), CATALOG_VERSION)

    def _run(self, calls: Sequence[Call]) -> Iterator[Any]:
        replies: list[Any] = []
        for some in batched(calls, CALLS_A_TRIP):
            pipeline = self._redis.pipeline(transaction=False)
            for call in some:
                pipeline.evalsha(self._names[call.script], len(call.keys), *call.keys, *call.arguments)
            replies += pipeline.execute()
        return iter(replies)

    def close(self) -> None:
        self._engine.dispose()
