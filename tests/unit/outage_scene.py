"""An outage with its surroundings."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from uuid import NAMESPACE_OID, uuid5

from gateway.keeping import Keeping
from gateway.outage import Outage
from gateway.settling import Settling
from gateway.spool import Spool
from ledger.outages import LetThrough, LostReply, Note
from quota.catalog import Catalog, Metric, Operation
from quota.demands import Asked, Demand
from quota.errors import CountersUnavailable
from quota.periods import from_rfc3339
from quota.protocol import Mode
from tests.unit.fakes import FakeAdmission, FakeCatalogs, FakeCounters, FakeStore, KeptOutages

AT_MS = from_rfc3339("2026-01-31T23:59:59Z")
CATALOG = Catalog(
    metrics={"a": Metric(on_outage="allow"), "b": Metric(on_outage="allow"), "strict": Metric()},
    operations={
        "open": Operation(charges={"a": 5, "b": 1}),
        "mixed": Operation(charges={"a": 5, "strict": 1}),
        "free": Operation(),
    },
)
DEMAND = Demand("t", "u", Mode.CONSUME, "r-1", (Asked("a", 5),), route="consume")
KEYED = dataclasses.replace(DEMAND, idempotency_key="k", fingerprint="f")
AWAY = CountersUnavailable("the counters did not answer in time")
T = TypeVar("T")


def let_through(name: str, **changes: Any) -> LetThrough:
    """Of a request of that name."""
    usual: dict[str, Any] = {"tenant": "t", "subject": "u", "at_ms": 1, "charges": {"m": 5}, "request_id": name}
    return LetThrough(**(usual | {"id": _ident(name)} | changes))


def lost_reply(name: str, **changes: Any) -> LostReply:
    """Of a request of that name."""
    usual: dict[str, Any] = {"tenant": "t", "subject": "u", "metric": "m", "shard": 3, "request_id": name}
    return LostReply(**(usual | {"id": _ident(name), "attempt": None, "until_ms": 1_000} | changes))


def _ident(name: str) -> str:
    return str(uuid5(NAMESPACE_OID, name))


def spooled(spool: Spool) -> Iterator[Note]:
    """What stands in all files, which are closed by this."""
    for path in spool.close_files():
        yield from spool.read(path)


class Scene:
    """The counters are away, the ledger is there."""

    def __init__(self, folder: Path, catalog: Catalog | None = CATALOG) -> None:
        self.kept = KeptOutages()
        self.store = FakeStore(self.kept.statements())
        self.counters = FakeCounters(AT_MS)
        self.admission = FakeAdmission(FakeCatalogs(catalog))
        self.admission.at_ms = AT_MS
        self.spool = Spool(folder)
        around: Any = (self.store, self.spool)
        self.keeping = Keeping(*around)
        deciding: Any = (self.admission, self.keeping)
        self.outage = Outage(*deciding)
        charging: Any = (self.admission.ask_in_order, self.counters, self.store)
        self.settling = Settling(*charging)

    def let_through(self, *demands: Demand) -> list[tuple[Asked, ...]]:
        async def ask() -> list[tuple[Asked, ...]]:
            return await asyncio.gather(*(self.outage.let_through(each, AWAY) for each in demands))

        return asyncio.run(ask())

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def call() -> T:
            return await work()

        return asyncio.run(call())

    def spooled(self) -> list[Note]:
        return list(spooled(self.spool))
