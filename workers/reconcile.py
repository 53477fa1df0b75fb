"""Reconciliation: is every counter what the ledger says it is? What differs is told, and corrected unless it is so much
that something else must be wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
import structlog
from sqlalchemy import Engine

from ledger import reconciliations, shards
from ledger.comparison import Expected
from ledger.reconciliations import Drift, Reconciliation
from ledger.store import ALL_TENANTS, transaction
from quota.account_reading import Accounts, Damaged
from quota.bulk import Bulk
from quota.journal import Journal
from quota.keys import AccountName
from workers.comparing import Compared, Comparing, Drifted
from workers.correcting import Correcting
from workers.drain import Drain
from workers.guard import Guard, Refusal, Tally

BATCH_ACCOUNTS = 1_000
MAX_REPORTED_DRIFTS = 100
WHAT_TO_DO = (
    "nothing was corrected: find out what is wrong first (the incidents say what drains found); then "
    "`quotagate reconcile --correct-all` makes every counter what the ledger says"
)

log = structlog.get_logger()


class Corrections(StrEnum):
    """What a run may correct: nothing, what the guard lets through, or all."""

    NONE = "none"
    GUARDED = "guarded"
    ALL = "all"


@dataclass(slots=True)
class _Run:
    """What one run has found so far. Of what is corrected at its end it keeps no more than the guard lets through."""

    started_at_ms: int
    tally: Tally = field(default_factory=Tally)
    missing: int = 0
    corrected: int = 0
    drifts: list[Drift] = field(default_factory=list)
    drifted: list[Drifted] = field(default_factory=list)
    broken: list[tuple[int, AccountName]] = field(default_factory=list)

    def tell(self, found: Sequence[Drift]) -> None:
        for drift in found:
            log.error("a counter differs from the ledger", **msgspec.structs.asdict(drift))
        self.drifts += found[: MAX_REPORTED_DRIFTS - len(self.drifts)]


class Reconcile:
    """Bound to one journal and one ledger."""

    def __init__(self, journal: Journal, engine: Engine, drain: Drain, guard: Guard = Guard()) -> None:  # noqa: B008 - frozen
        self._journal = journal
        self._engine = engine
        self._guard = guard
        self._accounts, bulk = Accounts(journal.connection), Bulk(journal.connection)
        self._comparing = Comparing(self._accounts, journal, engine, drain)
        self._correcting = Correcting(self._accounts, bulk, engine, self._comparing)

    def run_once(
        self, progress: Callable[[int], None] = lambda _: None, corrections: Corrections = Corrections.GUARDED
    ) -> Reconciliation:
        """Compares every account once, corrects what it may, and keeps the report. `progress` hears how many accounts
        were compared."""
        run = _Run(self._journal.now_ms())
        for names in self._accounts.names(BATCH_ACCOUNTS):
            self._take(run, self._comparing.compare(names), corrections)
            progress(run.tally.compared.total())
        for page in self._comparing.missing(BATCH_ACCOUNTS, run.started_at_ms):
            run.missing += len(page)
            run.tell([_missing(each) for each in page])
            self._keep(run, [], [(each.shard, each.account) for each in page], corrections)
        refusal = self._guard.refusal(run.tally) if corrections is Corrections.GUARDED else None
        if corrections is Corrections.GUARDED and refusal is None:
            self._correct(run)
        return self._report(run, refusal)

    def _take(self, run: _Run, batch: Compared, corrections: Corrections) -> None:
        run.tally.add(batch)
        run.tell([*(drift for each in batch.drifted for drift in _drifts(each)), *map(_damage, batch.damaged)])
        broken = [(each.shard, each.account) for each in batch.damaged if each.account is not None]
        self._keep(run, batch.drifted, broken, corrections)

    def _keep(
        self,
        run: _Run,
        drifted: Sequence[Drifted],
        broken: Sequence[tuple[int, AccountName]],
        corrections: Corrections,
    ) -> None:
        if corrections is Corrections.NONE:
            return
        run.drifted += drifted
        run.broken += broken
        if corrections is Corrections.ALL:
            self._correct(run)
        run.drifted, run.broken = run.drifted[: self._guard.most], run.broken[: self._guard.most]

    def _correct(self, run: _Run) -> None:
        if run.drifted:
            run.corrected += self._correcting.correct(run.drifted)
        if run.broken:
            run.corrected += self._correcting.bring_in(run.broken)
        run.drifted, run.broken = [], []

    def _report(self, run: _Run, refusal: Refusal | None) -> Reconciliation:
        with transaction(self._engine, ALL_TENANTS) as connection:
            if refusal is not None:
                log.error("drift is not corrected", reason=refusal.reason, what_to_do=WHAT_TO_DO)
                last = reconciliations.last(connection)
                if last is None or last.refusal is None:  # told once, while it lasts
                    detail = {"reason": refusal.reason, "what_to_do": WHAT_TO_DO} | refusal.detail
                    reconciliations.add_incidents(connection, refusal.shard, "mass_drift", [detail])
            offsets = shards.offsets(connection)
            now_ms = self._journal.now_ms()
            oldest_ms = self._journal.oldest_ms(offsets)
            report = Reconciliation(
                run_id=0,
                started_at_ms=run.started_at_ms,
                finished_at_ms=now_ms,
                accounts=run.tally.compared.total(),
                drifted=run.tally.drifted,
                corrected=run.corrected,
                undrained_entries=self._journal.waiting(offsets) if oldest_ms is not None else 0,
                lag_ms=0 if oldest_ms is None else max(0, now_ms - oldest_ms),
                incidents=reconciliations.incident_count(connection),
                drifts=run.drifts,
                missing=run.missing,
                refusal=None if refusal is None else refusal.reason,
            )
            report = msgspec.structs.replace(report, run_id=reconciliations.add(connection, report))
        log.info(
            "reconciled",
            run_id=report.run_id,
            accounts=report.accounts,
            drifted=report.drifted,
            missing=report.missing,
            corrected=report.corrected,
        )
        return report


def _drifts(found: Drifted) -> list[Drift]:
    counter = found.sight.counter
    at = None if counter.entry is None else f"{counter.shard}.{counter.entry}"
    told = [(each.what, each.counter, each.ledger) for each in found.buckets]
    if found.lacks:
        told.insert(0, ("used", counter.used, found.balance))
    return [Drift(*_words(counter.account), at, said, ledger, what) for what, said, ledger in told]


def _damage(found: Damaged) -> Drift:
    account = found.account or AccountName("", found.key, "")
    return Drift(*_words(account), None, 0, 0, what="damaged", reason=found.reason)


def _missing(found: Expected) -> Drift:
    reason = "Redis has not got the account, and has lost nothing else of its shard"
    at = f"{found.shard}.{found.place}"
    return Drift(*_words(found.account), at, 0, found.used, what="missing", reason=reason)


def _words(account: AccountName) -> tuple[str, str, str]:
    return account.tenant, account.subject, account.metric
