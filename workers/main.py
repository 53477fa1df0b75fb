"""A worker process: RQ's loop over some queues, with the jobs' connections made beforehand."""

from types import FrameType

import structlog
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from quota.collector import spare_the_collector
from quota.settings import Settings
from workers import queues
from workers.context import Context, install, open_context

ROLES = {"drain": (queues.WATCH, queues.DRAIN), "jobs": (queues.JOBS,)}
"""The drain has a process of its own, so that a long job cannot hold it up."""

log = structlog.get_logger()


class Worker(SimpleWorker):
    """Runs jobs in its own process: a fork would outlive a worker that is killed, and drain beside the next."""

    held: Context

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        self.held.stopping.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]


def run(settings: Settings, role: str) -> None:
    """Serves one role's queues until SIGTERM or SIGINT. Unsafe, LedgerUnavailable at start."""
    held = open_context(settings)
    install(held)
    spare_the_collector()
    if role == "drain":
        queues.ensure_drain(held.broker)
    worker = Worker(
        [queues.queue(name, held.broker) for name in ROLES[role]],
        connection=held.broker,
        serializer=JSONSerializer,
    )
    worker.held = held
    log.info("worker runs", role=role)
    worker.work(logging_level="WARNING")
