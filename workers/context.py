"""What the jobs of one worker process share. Made once, by the composition root, before the first job runs."""

import threading
from dataclasses import dataclass, field

from redis import Redis
from sqlalchemy import Engine

from ledger import incidents, jobs, outages, overdue, reconciliations, repeats, schema, stripe
from ledger.store import ALL_TENANTS, connect, transaction
from quota.errors import Unsafe
from quota.journal import Journal
from quota.settings import Settings
from workers import asked_jobs
from workers.announce import Announcer
from workers.drain import Drain
from workers.guard import Guard
from workers.linking import Linking
from workers.rebuild import Rebuild
from workers.reconcile import Reconcile
from workers.reset import Reset
from workers.taking_up import TakingUp

SOCKET_TIMEOUT_S = 5.0
"""Longer than any blocking read here; a server that hangs is noticed, and the job is run again."""
MAX_FORGETTINGS = 100
"""Of one run: a million keys, which is more than come in between two runs."""

INCIDENTS_H = 24
"""An alert of one stays for a day, so that nobody misses what happened at night."""


@dataclass(frozen=True)
class Context:
    """One process's connections and jobs."""

    settings: Settings
    broker: "Redis"
    engine: Engine
    journal: Journal
    drain: Drain
    reconcile: Reconcile
    announcer: Announcer
    rebuild: Rebuild
    taking_up: TakingUp
    linking: Linking
    reset: Reset
    stopping: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """For commands, which run one job and go on. Redis's clients close themselves."""
        self.engine.dispose()

    def forget(self) -> int:
        """Forgets idempotency keys that are past their time, and outages, reconciliations, jobs and events of Stripe's
        of long ago, in many small transactions; how many rows."""
        forgotten = 0
        for _ in range(MAX_FORGETTINGS):
            with transaction(self.engine, ALL_TENANTS) as connection:
                keys = repeats.forget(connection, self.settings.idempotency_ttl_s)
                charges = outages.forget(connection)
                runs = reconciliations.forget(connection)
                asked = jobs.forget(connection)
                told = stripe.forget(connection)
            forgotten += keys + charges + runs + asked + told
            if max(keys, charges, told) < repeats.MAX_FORGOTTEN or self.stopping.is_set():
                break
        return forgotten

    def left_to_do(self) -> dict[str, tuple[int, float]]:
        """What gateways have still to do after an outage: see ledger/outages.py."""
        with transaction(self.engine, ALL_TENANTS) as connection:
            return outages.left(connection)

    def found(self) -> tuple[dict[str, int], int]:
        """How many incidents of each kind there were in a day, and how many periods wait to be sealed."""
        with transaction(self.engine, ALL_TENANTS) as connection:
            counts = incidents.counts(connection, INCIDENTS_H)
            waiting, _ = overdue.unsealed(connection)
        return counts, waiting

    def make_partitions(self) -> int:
        with transaction(self.engine, ALL_TENANTS) as connection:
            return schema.make_partitions(connection)


def open_context(settings: Settings) -> Context:
    """Connects and checks. Unsafe if this database is not to be used as it is."""
    engine = connect(settings.database_url)
    with transaction(engine, ALL_TENANTS) as connection:
        found = schema.complaints(connection)
    if found:
        raise Unsafe("\n".join(found))
    redis = Redis.from_url(settings.redis_url, socket_timeout=SOCKET_TIMEOUT_S)
    journal = Journal(redis)
    drain = Drain(journal, engine, settings.idempotency_ttl_s)
    reconcile = Reconcile(journal, engine, drain, Guard(settings.max_corrections, settings.max_drift_pct))
    rebuild, reset, taking_up = Rebuild(redis, engine), Reset(redis, engine), TakingUp(engine)
    taking_up.stepping |= asked_jobs.stepping(drain, reconcile, rebuild, reset)
    return Context(
        settings,
        Redis.from_url(settings.effective_broker_url, socket_timeout=None),
        engine,
        journal,
        drain,
        reconcile,
        Announcer(redis, engine),
        rebuild,
        taking_up,
        Linking(engine),
        reset,
    )


_current: Context | None = None


def install(made: Context) -> None:
    """Makes this the process's context: RQ calls jobs by name and can hand them nothing."""
    global _current  # noqa: PLW0603 - RQ leaves no other way
    _current = made


def context() -> Context:
    """The process's context."""
    assert _current is not None, "the composition root installs the context before the first job"
    return _current
