"""What the workers tell Prometheus of incidents and of what waits, and that it costs little however many there are."""

from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import Engine, NullPool, create_engine, text

from ledger import incidents
from quota.settings import Settings
from tests.conftest import Database, Stores
from workers import context, jobs, metrics


@pytest.fixture
def owner(
    shared_database: Database, stores: Stores, connection: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """With the jobs' context made for this database."""
    settings = Settings(redis_url=stores.redis_url, database_url=shared_database.application_url)
    held = context.open_context(settings)
    monkeypatch.setattr(context, "_current", held)
    engine = create_engine(shared_database.owner_url, poolclass=NullPool)
    yield engine
    do(engine, "TRUNCATE incidents, balances")
    engine.dispose()
    held.engine.dispose()


def do(owner: Engine, statement: str) -> None:
    with owner.begin() as connection:
        connection.execute(text(statement))


def told() -> dict[str, float]:
    jobs.count_what_is_left()
    (family,) = metrics.incidents.collect()
    return {sample.labels["kind"]: sample.value for sample in family.samples}


def test_incidents_of_a_day_are_counted_by_kind_and_none_is_a_zero(owner: Engine) -> None:
    none = dict.fromkeys([*incidents.WHAT_TO_DO, "other"], 0.0)
    assert told() == none
    do(
        owner,
        "INSERT INTO incidents (shard, kind, detail, found_at) VALUES (1, 'gap', '{}', now()), "
        "(2, 'gap', '{}', now() - interval '23 hours'), (2, 'gap', '{}', now() - interval '25 hours'), "
        "(1, 'clock', '{}', now()), (1, 'of_a_new_kind', '{}', now()), (1, 'of_another', '{}', now())",
    )
    assert told() == none | {"gap": 2.0, "clock": 1.0, "other": 2.0}
    do(owner, "UPDATE incidents SET found_at = now() - interval '25 hours'")
    assert told() == none


def test_periods_that_wait_to_be_sealed_are_counted(owner: Engine) -> None:
    do(
        owner,
        "INSERT INTO balances (tenant, subject, metric, period_kind, period_start, period_end, used, shard, epoch, n) "
        "SELECT 't', 's', 'm' || hours, 'day', now() - interval '2 days', now() - make_interval(hours => hours), "
        "0, 1, 1, 1 FROM generate_series(0, 3) AS hours",
    )
    jobs.count_what_is_left()
    ((sample,),) = [family.samples for family in metrics.unsealed_periods.collect()]
    assert sample.value == 3


def test_incidents_of_long_ago_are_not_read(owner: Engine) -> None:
    do(
        owner,
        "INSERT INTO incidents (shard, kind, detail, found_at) "
        "SELECT 1, 'gap', '{}', now() - interval '30 days' FROM generate_series(1, 20000)",
    )
    do(owner, "ANALYZE incidents")
    with owner.connect() as connection:
        wanted = {"hours": 24, "most": incidents.MAX_COUNTED}
        plan = connection.execute(text("EXPLAIN " + incidents._since.text), wanted).scalars().all()
    assert any("incidents_by_instant" in line for line in plan), plan
