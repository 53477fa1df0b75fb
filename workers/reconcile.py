"""Reconciliation: is every counter what the ledger says it is, at the same entry?

No lock and no quiet time are needed: a counter is read together with its last entry, and compared with the ledger's
balance at that very entry, as soon as the ledger has it.
"""

import time
from collections.abc import Callable

import msgspec
import structlog
from sqlalchemy import Engine

from ledger import accounts, reconciliations, shards
from ledger.reconciliations import Drift, Reconciliation
from ledger.store import ALL_TENANTS, transaction
from quota.journal import Counter, Journal
from workers.drain import Drain

BATCH_ACCOUNTS = 1_000
WAIT_FOR_DRAIN_S = 10.0
"""How long a batch waits for its entries to be in the ledger. It drains itself meanwhile: only a busy shard waits."""
MAX_REPORTED_DRIFTS = 100

log = structlog.get_logger()


class Reconcile:
    """Bound to one journal and one ledger."""

    def __init__(self, journal: Journal, engine: Engine, drain: Drain) -> None:
        self._journal = journal
        self._engine = engine
        self._drain = drain

    def run_once(self, progress: Callable[[int], None] = lambda _: None) -> Reconciliation:
        """Compares every account once and keeps the report. `progress` hears how many accounts were compared."""
        started_at_ms = self._journal.now_ms()
        compared = drifted = 0
        drifts: list[Drift] = []
        for batch in self._journal.counters(BATCH_ACCOUNTS):
            settled = self._settled(batch)
            found = self._compare(settled)
            drifted += len(found)
            drifts += found[: MAX_REPORTED_DRIFTS - len(drifts)]
            compared += len(settled)
            progress(compared)
        return self._report(started_at_ms, compared, drifted, drifts)

    def _settled(self, batch: list[Counter]) -> list[Counter]:
        """The counters whose last entry is in the ledger, after waiting for it."""
        deadline = time.monotonic() + WAIT_FOR_DRAIN_S
        while True:
            with transaction(self._engine, ALL_TENANTS) as connection:
                offsets = shards.offsets(connection)
            waiting = [each for each in batch if each.entry is not None and each.entry > offsets[each.shard]]
            if not waiting:
                return batch
            if time.monotonic() > deadline:
                log.warning(
                    "accounts were not compared, because their entries are not in the ledger", accounts=len(waiting)
                )
                late = set(map(id, waiting))
                return [each for each in batch if id(each) not in late]
            self._drain.run_once(wait_ms=50)

    def _compare(self, counters: list[Counter]) -> list[Drift]:
        if not counters:
            return []
        with transaction(self._engine, ALL_TENANTS) as connection:
            used = accounts.used_at(connection, counters)
        return [
            Drift(
                counter.account.tenant,
                counter.account.subject,
                counter.account.metric,
                None if counter.entry is None else f"{counter.shard}.{counter.entry}",
                counter.used,
                ledger_used,
            )
            for counter, ledger_used in zip(counters, used, strict=True)
            if counter.used != ledger_used
        ]

    def _report(self, started_at_ms: int, compared: int, drifted: int, drifts: list[Drift]) -> Reconciliation:
        for drift in drifts:
            log.error(
                "a counter differs from the ledger", **{name: getattr(drift, name) for name in drift.__struct_fields__}
            )
        with transaction(self._engine, ALL_TENANTS) as connection:
            offsets = shards.offsets(connection)
            now_ms = self._journal.now_ms()
            oldest_ms = self._journal.oldest_ms(offsets)
            run = Reconciliation(
                run_id=0,
                started_at_ms=started_at_ms,
                finished_at_ms=now_ms,
                accounts=compared,
                drifted=drifted,
                corrected=0,
                undrained_entries=self._journal.waiting(offsets) if oldest_ms is not None else 0,
                lag_ms=0 if oldest_ms is None else max(0, now_ms - oldest_ms),
                incidents=reconciliations.incident_count(connection),
                drifts=drifts,
            )
            run = msgspec.structs.replace(run, run_id=reconciliations.add(connection, run))
        log.info("reconciled", run_id=run.run_id, accounts=compared, drifted=drifted)
        return run
