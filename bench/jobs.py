"""The workers' jobs as they are measured: each in a process of its own, as in a deployment, that does nothing else."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from redis import Redis
from sqlalchemy import Engine

from bench.stores import Measured, Stores, Worked, measured, quieten
from ledger.replay_verification import step
from ledger.store import connect
from quota.collector import spare_the_collector
from quota.journal import Journal
from workers.drain import Drain
from workers.linking import Linking
from workers.rebuild import Rebuild, Scope
from workers.reconcile import Corrections, Reconcile
from workers.reset import Done, Reset

MAX_PASSES = 1_000
_former: list[Engine] = []
"""Kept until the next job begins: of a connection that is just being closed nobody can tell what it cost Postgres."""

Job = Callable[[Journal, Engine], Callable[[], int]]


class Worker:
    """A process for one job after another: what it imports is not measured."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        context = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, mp_context=context, initializer=quieten)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def run(self, job: Job) -> Measured:
        urls = self._stores.redis_url, self._stores.application_url
        return measured(self._stores, lambda: self._process.submit(_work, job, *urls).result())


def _work(job: Job, redis_url: str, application_url: str) -> Worked:
    """In the worker's process. What a job makes once, when its process starts, is not measured."""
    while _former:
        _former.pop().dispose()
    connection, engine = Redis.from_url(redis_url), connect(application_url)
    _former.append(engine)
    rested_s = 0.0
    sleep = time.sleep

    def rest(seconds: float) -> None:
        nonlocal rested_s
        began = time.monotonic()
        sleep(seconds)
        rested_s += time.monotonic() - began

    work = job(Journal(connection), engine)
    spare_the_collector()  # as a worker does (workers/main.py)
    with patch("workers.reset.time.sleep", rest):
        began, cpu_began = time.perf_counter(), time.process_time()
        count = work()
        worked = Worked(count, time.perf_counter() - began, time.process_time() - cpu_began)
    connection.close()
    return replace(worked, rested_s=rested_s)


def drain(journal: Journal, engine: Engine) -> Callable[[], int]:
    """Until nothing waits; entries."""
    drain = Drain(journal, engine)

    def work() -> int:
        moved = 0
        while entries := drain.run_once().entries:
            moved += entries
        return moved

    return work


def link(_: Journal, engine: Engine) -> Callable[[], int]:
    """Makes the chains; entries."""
    return Linking(engine).run_once


def rebuild(journal: Journal, engine: Engine) -> Callable[[], int]:
    """All that the ledger knows; accounts."""
    rebuild = Rebuild(journal.connection, engine)

    def work() -> int:
        done = rebuild.run(Scope())
        assert done.outcomes == {"provisioned": done.accounts}, done
        return done.accounts

    return work


def reset(journal: Journal, engine: Engine) -> Callable[[], int]:
    """Until every period that is over is sealed; accounts. The drain has its turn in between, and counts."""
    reset, drain = Reset(journal.connection, engine), Drain(journal, engine)

    def work() -> int:
        total = Done()
        for _ in range(MAX_PASSES):
            done = reset.run_once()
            total += done
            while drain.run_once().entries:
                pass
            if done.due == done.sealed == 0:
                break
        assert total.swept == total.sealed and not total.differing, total
        return total.sealed

    return work


def reconcile(journal: Journal, engine: Engine) -> Callable[[], int]:
    """Every account once; accounts."""
    reconcile = Reconcile(journal, engine, Drain(journal, engine))

    def work() -> int:
        report = reconcile.run_once(corrections=Corrections.NONE)
        assert (report.drifted, report.missing, report.undrained_entries) == (0, 0, 0), report
        return report.accounts

    return work


def verify(_: Journal, engine: Engine) -> Callable[[], int]:
    """With the chains; entries."""
    return lambda: verified(engine, {})["entries"]


def verify_lines(_: Journal, engine: Engine) -> Callable[[], int]:
    """Without the chains, as for one tenant; entries."""
    return lambda: verified(engine, {"tenant": "default"})["entries"]


def verified(engine: Engine, arguments: dict[str, Any]) -> dict[str, Any]:
    """The result, of which nothing may differ."""
    cursor = None
    while True:
        done = step(engine, arguments, cursor)
        cursor = done.cursor
        if done.result is not None:
            assert done.result["differing"] == 0, done.result["differences"][:3]
            return done.result
