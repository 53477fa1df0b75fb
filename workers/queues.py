"""The queues of RQ and what is put on them, as JSON: a pickle would be code for whoever can write there."""

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

WATCH, DRAIN, JOBS = "quotagate-watch", "quotagate-drain", "quotagate-jobs"
DRAIN_TIMEOUT_S = 180
"""Longer than the longest hold and its last batch together."""
JOB_TIMEOUT_S = 3600
FAILURE_TTL_S = 600
"""A failed drain is in the log; while Postgres is away one fails every two seconds, and they must not pile up."""


def queue(name: str, broker: "Redis") -> Queue:
    timeout = DRAIN_TIMEOUT_S if name == DRAIN else JOB_TIMEOUT_S
    return Queue(name, connection=broker, serializer=JSONSerializer, default_timeout=timeout)


def ensure_drain(broker: "Redis") -> None:
    """Queues a drain unless one waits already. Two that race queue two, which does no harm: each ends after its hold,
    and only an empty queue is added to."""
    drains = queue(DRAIN, broker)
    if len(drains) == 0:
        drains.enqueue("workers.jobs.drain", result_ttl=0, failure_ttl=FAILURE_TTL_S)
