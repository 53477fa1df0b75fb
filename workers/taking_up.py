"""Takes up the jobs that people asked for, one step at a time.

What is to be done, and how far it has come, stands in the ledger's table of jobs: a worker that is killed loses its
claim, and another goes on where it was. So every step may be done twice, and what a step does must bear that.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from sqlalchemy import Engine

from ledger import jobs
from ledger.jobs import Job
from ledger.replay import Step
from ledger.replay_jobs import STEPPING
from ledger.store import ALL_TENANTS, transaction
from quota.errors import LedgerUnavailable, QuotagateError, first_line
from workers.stores_away import is_away

HOLD_S = 10.0
"""So long one job is worked on before the others have their turn, a reconciliation among them."""
MAX_STEPS_A_HOLD = 10_000

Stepping = Callable[[dict[str, Any], dict[str, Any] | None], Step]

log = structlog.get_logger()


class TakingUp:
    """Bound to one ledger. Other jobs than those that read the ledger alone are added to `stepping` by their names."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.stepping: dict[str, Stepping] = {name: self._of_ledger(name) for name in STEPPING}

    def _of_ledger(self, name: str) -> Stepping:
        return lambda arguments, cursor: STEPPING[name](self._engine, arguments, cursor)

    def run_once(self, hold_s: float = HOLD_S, stopping: Callable[[], bool] = lambda: False) -> int:
        """Works for some seconds on the job that has waited longest; how many steps it took."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            job = jobs.claim(connection)
        if job is None:
            return 0
        log.info("a job was taken up", job=job.job, id=job.id, claim=job.claim, progress=job.progress)
        try:
            return self._work(job, hold_s, stopping)
        except Exception as error:
            if is_away(error):
                # The claim ends by itself, and the job is taken up again.
                log.warning("a job waits for its stores", id=job.id, reason=first_line(error))
            elif isinstance(error, QuotagateError):
                self._fail(job, str(error))
            else:
                log.exception("a job failed", id=job.id, job=job.job, exc_info=error)
                self._fail(job, f"it went wrong: the worker's log says how, at the job {job.id}")
        return 0

    def _work(self, job: Job, hold_s: float, stopping: Callable[[], bool]) -> int:
        stepping = self.stepping.get(job.job)
        if stepping is None or job.claim > jobs.MAX_CLAIMS:
            why = "was taken up too often and never ended" if stepping else "is none that this version's workers do"
            self._fail(job, f"the job {job.job} {why}")
            return 0
        cursor, deadline = job.cursor, time.monotonic() + hold_s
        for taken in range(1, MAX_STEPS_A_HOLD + 1):
            with self._renewed(job):
                step = stepping(job.arguments, cursor)
            cursor = step.cursor
            if not self._note(job, step) or step.result is not None:
                return taken
            if time.monotonic() >= deadline or stopping():
                break
        with transaction(self._engine, ALL_TENANTS) as connection:
            jobs.lay_down(connection, job)
        return taken

    def _note(self, job: Job, step: Step) -> bool:
        """False if another worker has taken the job up meanwhile: this one lets go of it."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            if step.result is None:
                is_ours = jobs.advance(connection, job, step.progress, step.cursor)
            else:
                is_ours = jobs.finish(connection, job, step.result)
        if not is_ours:
            log.warning("another worker has taken this job up", id=job.id)
        elif step.result is not None:
            log.info("a job is done", id=job.id, job=job.job)
        return is_ours

    def _fail(self, job: Job, error: str) -> None:
        log.error("a job failed", id=job.id, job=job.job, reason=error)
        with transaction(self._engine, ALL_TENANTS) as connection:
            jobs.fail(connection, job, error)

    @contextmanager
    def _renewed(self, job: Job) -> Iterator[None]:
        """Renews the claim for as long as a step takes: an account with very many entries is one step."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(jobs.CLAIM_LASTS_S / 3):
                try:
                    with transaction(self._engine, ALL_TENANTS) as connection:
                        jobs.renew(connection, job)
                except LedgerUnavailable as error:
                    log.warning("a claim could not be renewed", id=job.id, reason=str(error))

        renewing = threading.Thread(target=renew, name="quotagate-renewing", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()
