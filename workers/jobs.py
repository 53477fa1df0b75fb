"""The jobs as RQ calls them: no arguments that are objects, bounded, safe to run twice, late or beside themselves.

RQ only triggers. What is left to do stands in the journal and in the ledger.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import structlog
from redis.exceptions import RedisError

from quota.errors import LedgerUnavailable, Unsafe, first_line
from workers import metrics, queues
from workers.context import context
from workers.drain import Drained
from workers.stores_away import is_away

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()


def patient(job: Callable[P, T]) -> Callable[P, T | None]:
    """What finds a store away waits for its next run, with a line in the log where RQ would write a traceback. Whatever
    else goes wrong is RQ's to tell."""

    @wraps(job)
    def run(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return job(*args, **kwargs)
        except Exception as error:
            if not is_away(error):
                raise
            log.warning("a job waits for its stores", job=job.__name__, reason=first_line(error))
            return None

    return run


def drain() -> int:
    """Drains for a hold, then makes sure that the next drain is queued."""
    held = context()
    try:
        moved = held.drain.run(held.settings.drain_hold_s, held.stopping.is_set, _report)
    except (LedgerUnavailable, RedisError, Unsafe) as error:
        # Nothing is lost: the watchdog queues the next drain, which begins where this one began.
        log.error("the drain was cut short", reason=first_line(error))
        return 0
    if not held.stopping.is_set():
        queues.ensure_drain(held.broker)
    return moved


def watchdog() -> None:
    """Queues a drain when none is: the last one was killed before it could queue the next."""
    queues.ensure_drain(context().broker)


@patient
def reconcile() -> dict[str, int]:
    """Compares every counter with the ledger, and corrects what differs."""
    run = context().reconcile.run_once()
    metrics.drifted_accounts.set(run.drifted)
    metrics.compared_accounts.set(run.accounts)
    metrics.missing_accounts.set(run.missing)
    metrics.corrected_accounts.inc(run.corrected)
    metrics.mass_drift.set(run.refusal is not None)
    metrics.reconciled_at.set_to_current_time()
    return {"run_id": run.run_id, "accounts": run.accounts, "drifted": run.drifted, "corrected": run.corrected}


@patient
def link_entries() -> int:
    """Links new entries into the chains that show whether the past was changed."""
    return context().linking.run_once()


@patient
def reset() -> dict[str, int]:
    """Does what is due at the end of periods."""
    held = context()
    done = held.reset.run_once(stopping=held.stopping.is_set)
    metrics.swept_accounts.inc(done.swept)
    metrics.sealed_periods.inc(done.sealed)
    metrics.differing_periods.inc(done.differing)
    metrics.rolled_over_units.inc(done.rolled)
    return done.to_document()


@patient
def rebuild() -> int:
    """Brings in again what Redis has lost, in the shards that began an epoch because of it."""
    return context().rebuild.run_once().accounts


@patient
def take_up() -> int:
    """Goes on with what people asked for."""
    held = context()
    return held.taking_up.run_once(stopping=held.stopping.is_set)


@patient
def announce() -> int:
    """Tells Redis of changes that the gateway which made them did not live to tell."""
    return context().announcer.run_once()


@patient
def forget() -> int:
    """Forgets idempotency keys past their time, and outages, reconciliations, jobs and Stripe's events of long ago."""
    return context().forget()


@patient
def count_what_is_left() -> None:
    """Tells Prometheus what is still to be done, and what ought not to be."""
    held = context()
    for what, (rows, oldest_s) in held.left_to_do().items():
        metrics.left_to_do.labels(what).set(rows)
        metrics.left_to_do_oldest_seconds.labels(what).set(oldest_s)
    found, unsealed = held.found()
    for kind, count in found.items():
        metrics.incidents.labels(kind).set(count)
    metrics.unsealed_periods.set(unsealed)


@patient
def make_partitions() -> int:
    """Makes the coming months' partitions."""
    return context().make_partitions()


def _report(drained: Drained) -> None:
    metrics.drained_entries.inc(drained.entries)
    metrics.lag_seconds.observe(drained.lag_ms / 1000)
