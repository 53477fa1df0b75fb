"""What the workers are triggered with and what they tell Redis: queues, the schedule, announcements."""

import json
import pickle
import zlib
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import redis
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy import text

from ledger import announcements, catalogs
from ledger.acts import By
from ledger.store import ALL_TENANTS, transaction
from quota import keys, protocol
from quota.catalog import parse_toml
from quota.settings import Settings
from tests.conftest import SHARDS
from tests.integration.pipeline import Crashed, Pipeline, crash
from tests.integration.shard import Shard
from workers import queues
from workers.announce import Announcer
from workers.schedule import JsonJob, OnceQueued

CATALOG = """
default_plan = "free"
[metrics.m]
[plans.free.limits.m]
limit = 10
"""


class TestAnnouncer:
    def begin(self, pipeline: Pipeline) -> Shard:
        """A subject `u` of tenant `t` in the shard that is its own."""
        for number in range(SHARDS):
            pipeline.shard.run(protocol.begin_epoch(number, 1, ""))
        shard = Shard(pipeline.connection, keys.shard_of("t", "u", SHARDS)).open()
        with transaction(pipeline.engine, ALL_TENANTS) as connection:
            catalogs.apply(connection, "t", parse_toml(CATALOG), By("test"), dry_run=False)
            connection.execute(text("DELETE FROM announcements"))
        return shard

    def announce(self, pipeline: Pipeline, subject: str | None, age_s: int = 60) -> None:
        with transaction(pipeline.engine, ALL_TENANTS) as connection:
            connection.execute(
                text(
                    "INSERT INTO announcements (tenant, subject, created_at) "
                    "VALUES ('t', :subject, now() - make_interval(secs => :age))"
                ),
                {"subject": subject, "age": age_s},
            )

    def test_it_tells_of_a_subject_what_a_dead_gateway_did_not(self, pipeline: Pipeline) -> None:
        shard = self.begin(pipeline)
        assert shard.consume(shard.step(1))[0].outcome == "allowed"
        self.announce(pipeline, "u")
        announcer = Announcer(pipeline.connection, pipeline.engine)
        assert (announcer.run_once(), announcer.run_once()) == (1, 0)
        assert shard.consume(shard.step(1))[0].accounts[0].verdict == "stale"
        assert pipeline.rows("SELECT * FROM announcements") == []

    def test_it_tells_every_shard_of_a_catalog(self, pipeline: Pipeline) -> None:
        self.begin(pipeline)
        with transaction(pipeline.engine, ALL_TENANTS) as connection:
            changed = parse_toml(CATALOG.replace("10", "11"))
            assert catalogs.apply(connection, "t", changed, By("test"), dry_run=False)[0] == 2
            connection.execute(text("DELETE FROM announcements"))
        self.announce(pipeline, None)
        assert Announcer(pipeline.connection, pipeline.engine).run_once() == 1
        field = keys.catalog_field("t")
        assert [pipeline.connection.hget(keys.head(number), field) for number in range(SHARDS)] == [b"2"] * SHARDS

    def test_what_is_young_is_left_to_its_gateway(self, pipeline: Pipeline) -> None:
        self.begin(pipeline)
        self.announce(pipeline, "u", age_s=0)
        assert Announcer(pipeline.connection, pipeline.engine).run_once() == 0
        assert len(pipeline.rows("SELECT * FROM announcements")) == 1

    def test_what_could_not_be_told_is_told_again(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begin(pipeline)
        self.announce(pipeline, "u")
        announcer = Announcer(pipeline.connection, pipeline.engine)
        with monkeypatch.context() as patched:
            patched.setattr("workers.announce.run", crash)
            with pytest.raises(Crashed):
                announcer.run_once()
        assert announcer.run_once() == 1

    def test_an_announcement_belongs_to_the_transaction_of_its_change(self, pipeline: Pipeline) -> None:
        with pytest.raises(Crashed), transaction(pipeline.engine, ALL_TENANTS) as connection:
            announcements.announce(connection, "t", "u")
            raise Crashed
        assert pipeline.rows("SELECT * FROM announcements") == []


def raw_jobs(connection: "redis.Redis") -> dict[str, bytes]:
    return {name.decode(): connection.hget(name, "data") for name in connection.keys("rq:job:*")}


class TestJobs:
    def test_only_one_drain_is_queued_however_often_it_is_ensured(self, connection: "redis.Redis") -> None:
        for _ in range(10):
            queues.ensure_drain(connection)
        assert len(queues.queue(queues.DRAIN, connection)) == 1

    def test_a_queued_drain_is_json_and_nothing_in_it_is_a_pickle(self, connection: "redis.Redis") -> None:
        queues.ensure_drain(connection)
        (data,) = raw_jobs(connection).values()
        assert json.loads(unpacked(data)) == ["workers.jobs.drain", None, [], {}]
        with pytest.raises(pickle.UnpicklingError):
            pickle.loads(unpacked(data))

    def scheduled(self, connection: "redis.Redis") -> tuple[OnceQueued, Callable[[], Job]]:
        scheduler = OnceQueued(connection=connection, interval=1, job_class=JsonJob)
        scheduler.schedule(
            scheduled_time=datetime.now(UTC),
            func="workers.jobs.watchdog",
            interval=2,
            id="quotagate-watchdog",
            queue_name=queues.WATCH,
        )
        return scheduler, lambda: JsonJob.fetch("quotagate-watchdog", connection=connection)

    def test_a_schedule_that_was_lost_with_its_redis_is_made_anew(self, connection: "redis.Redis") -> None:
        scheduler = OnceQueued(connection=connection, interval=1, job_class=JsonJob)
        scheduler.settings = Settings()
        scheduler.plan()
        planned = connection.zrange(scheduler.scheduled_jobs_key, 0, -1)
        assert len(planned) == 10
        connection.flushall()
        scheduler.enqueue_jobs()
        assert sorted(connection.zrange(scheduler.scheduled_jobs_key, 0, -1)) == sorted(planned)
        assert sorted(queues.queue(queues.WATCH, connection).job_ids) == ["quotagate-announce", "quotagate-watchdog"]

    def test_a_scheduled_job_is_json_before_and_after_it_is_queued(self, connection: "redis.Redis") -> None:
        scheduler, job = self.scheduled(connection)
        for _ in range(2):
            (data,) = raw_jobs(connection).values()
            assert json.loads(unpacked(data)) == ["workers.jobs.watchdog", None, [], {}]
            scheduler.enqueue_job(job())
        fields = connection.hgetall("rq:job:quotagate-watchdog")
        assert not [name for name, value in fields.items() if unpacked(value).startswith(b"\x80")]

    def test_a_job_that_still_waits_is_not_queued_again_but_comes_due_again(self, connection: "redis.Redis") -> None:
        scheduler, job = self.scheduled(connection)
        for _ in range(5):
            scheduler.enqueue_job(job())
        waiting = queues.queue(queues.WATCH, connection)
        assert waiting.job_ids == ["quotagate-watchdog"]
        due_at_s = connection.zscore(scheduler.scheduled_jobs_key, "quotagate-watchdog")
        assert due_at_s is not None
        assert due_at_s > datetime.now(UTC).timestamp()
        waiting.empty()
        self.scheduled(connection)
        scheduler.enqueue_job(job())
        assert waiting.job_ids == ["quotagate-watchdog"]

    def test_a_second_scheduler_replaces_the_schedule_in_place_of_doubling_it(self, connection: "redis.Redis") -> None:
        scheduler, _ = self.scheduled(connection)
        self.scheduled(connection)
        assert connection.zcard(scheduler.scheduled_jobs_key) == 1

    def test_a_worker_reads_what_was_queued(self, connection: "redis.Redis") -> None:
        queues.ensure_drain(connection)
        waiting = queues.queue(queues.DRAIN, connection)
        (job,) = waiting.jobs
        assert (job.func_name, job.args, job.timeout) == ("workers.jobs.drain", [], queues.DRAIN_TIMEOUT_S)
        assert job.serializer is JSONSerializer


def unpacked(data: bytes) -> bytes:
    """RQ keeps the data of a job compressed."""
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data
