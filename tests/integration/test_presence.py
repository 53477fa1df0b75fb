"""Who is at work, as RQ and rq-scheduler have written it down."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from tests.integration.at_work import put_all, put_scheduler, put_worker
from workers import presence, queues
from workers.main import ROLES
from workers.schedule import OnceQueued

Plant = Callable[["redis.Redis"], object]


def found(connection: "redis.Redis") -> list[str]:
    return presence.complaints(presence.look(connection))


def of_all_but_drain(connection: "redis.Redis") -> None:
    put_scheduler(connection)
    put_worker(connection, "jobs")


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (put_all, []),
        (of_all_but_drain, ["no worker of the role drain is registered: start `quotagate worker --role drain`"]),
        (
            lambda each: (of_all_but_drain(each), put_worker(each, "drain", ago_s=90)),
            ["no worker of the role drain has given a sign for 90 s: start `quotagate worker --role drain`"],
        ),
        (lambda each: (of_all_but_drain(each), put_worker(each, "drain", ago_s=90, state="busy")), []),
        (
            lambda each: (of_all_but_drain(each), put_worker(each, "drain", ago_s=250, state="busy")),
            ["no worker of the role drain has given a sign for 250 s: start `quotagate worker --role drain`"],
        ),
        (lambda each: (put_all(each), put_worker(each, "drain", ago_s=90)), []),
        (
            lambda each: (put_all(each), put_scheduler(each, late_s=45)),
            ["no scheduler has started a job for 45 s: start `quotagate scheduler`"],
        ),
        (
            lambda each: [put_worker(each, role, ago_s=90) for role in ROLES],
            ["no job was ever scheduled: start `quotagate scheduler`"],
        ),
    ],
)
def test_whoever_is_missing_is_named_with_what_to_start(
    connection: "redis.Redis", plant: Plant, said: list[str]
) -> None:
    plant(connection)
    assert found(connection) == said


def test_it_reads_what_the_libraries_write(connection: "redis.Redis") -> None:
    assert len(found(connection)) == 3
    for names in ROLES.values():
        served = [queues.queue(name, connection) for name in names]
        SimpleWorker(served, connection=connection, serializer=JSONSerializer).register_birth()
    scheduler = OnceQueued(connection=connection)
    scheduler.schedule(scheduled_time=datetime.now(UTC), func="x.y", id="quotagate-watchdog")
    assert found(connection) == []


def test_a_look_costs_the_same_however_many_workers_there_are(connection: "redis.Redis") -> None:
    for each in range(400):
        put_worker(connection, "jobs", ago_s=each)
    connection.config_resetstat()
    assert len(presence.look(connection).signs["jobs"]) == presence.MAX_LOOKED_AT
    assert connection.info("commandstats")["cmdstat_hmget"]["calls"] == presence.MAX_LOOKED_AT
