"""When jobs run: the only file that knows rq-scheduler."""

from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer
from rq_scheduler import Scheduler

from quota.settings import Settings
from workers import queues

WATCHDOG_EVERY_S = 2
ANNOUNCE_EVERY_S = 2
REBUILD_EVERY_S = 2
RESET_EVERY_S = 5
TAKE_UP_EVERY_S = 1
LINK_EVERY_S = 10
PARTITIONS_EVERY_S = 6 * 3600
FORGET_EVERY_S = 60
COUNT_EVERY_S = 10
LOOK_EVERY_S = 1
"""How often rq-scheduler looks for what is due."""


class JsonJob(Job):
    """rq-scheduler has no say in the serializer, and RQ's default is pickle."""

    @classmethod
    def create(cls, *args: Any, **kwargs: Any) -> Job:
        return super().create(*args, **{"serializer": JSONSerializer, **kwargs})

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = JSONSerializer) -> Job:
        return super().fetch(id, connection=connection, serializer=serializer)


class OnceQueued(Scheduler):  # type: ignore[misc]
    """rq-scheduler pushes a repeated job whether or not the last push was taken up; with no worker there, the queue
    would grow for ever. This one leaves it out as long as the job still waits."""

    settings: Settings

    def plan(self) -> None:
        """Schedules every job. Fixed ids, so that a second scheduler replaces the schedule in place of doubling it."""
        for queue_name, job, every_s in _jobs(self.settings):
            self.schedule(
                scheduled_time=datetime.now(UTC),
                func=f"workers.jobs.{job}",
                interval=every_s,
                id=f"quotagate-{job}",
                queue_name=queue_name,
                timeout=queues.JOB_TIMEOUT_S,
                result_ttl=every_s + 600,
            )

    def enqueue_jobs(self) -> list[Job]:
        # The broker may be the Redis that was just lost, and nothing would ever be due again.
        names = [f"quotagate-{job}" for _, job, _ in _jobs(self.settings)]
        if None in self.connection.zmscore(self.scheduled_jobs_key, names):
            self.plan()
        found: list[Job] = super().enqueue_jobs()
        return found

    def enqueue_job(self, job: Job) -> None:
        waiting = queues.queue(job.origin, self.connection)
        if job.id in waiting.job_ids:
            self.connection.zadd(self.scheduled_jobs_key, {job.id: _due_at(job.meta["interval"])})
            return
        super().enqueue_job(job)


def _jobs(settings: Settings) -> tuple[tuple[str, str, int], ...]:
    """Queue, name and seconds from one run to the next."""
    return (
        (queues.WATCH, "watchdog", WATCHDOG_EVERY_S),
        (queues.WATCH, "announce", ANNOUNCE_EVERY_S),
        (queues.JOBS, "rebuild", REBUILD_EVERY_S),
        (queues.JOBS, "reset", RESET_EVERY_S),
        (queues.JOBS, "take_up", TAKE_UP_EVERY_S),
        (queues.JOBS, "link_entries", LINK_EVERY_S),
        (queues.JOBS, "reconcile", settings.reconcile_every_s),
        (queues.JOBS, "make_partitions", PARTITIONS_EVERY_S),
        (queues.JOBS, "forget", FORGET_EVERY_S),
        (queues.JOBS, "count_what_is_left", COUNT_EVERY_S),
    )


def late_s(broker: "Redis", now_s: float) -> float | None:
    """For how long the job that runs most often has been due; below zero while it is not. None if none is scheduled.
    A scheduler names itself anew at each start, so it is known by what it does."""
    due_at_s = broker.zscore(Scheduler.scheduled_jobs_key, "quotagate-watchdog")
    return None if due_at_s is None else now_s - float(due_at_s)


def _due_at(interval_s: int) -> int:
    return int((datetime.now(UTC) + timedelta(seconds=interval_s)).timestamp())


def run(settings: Settings) -> None:
    """Schedules every job and serves until SIGTERM or SIGINT. Of several schedulers one acts at a time."""
    broker = Redis.from_url(settings.effective_broker_url)
    scheduler = OnceQueued(connection=broker, interval=LOOK_EVERY_S, job_class=JsonJob)
    scheduler.settings = settings
    scheduler.plan()
    scheduler.run()
