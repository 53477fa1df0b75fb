"""A period that began in a month which was archived meanwhile is sealed with what was carried on from there."""

from collections.abc import Iterator

import psycopg
import pytest
import redis

from ledger.instants import to_timestamp
from tests.conftest import Database
from tests.integration.resetting import Resetting, name_of


@pytest.fixture
def scene(connection: "redis.Redis", database: Database) -> Iterator[Resetting]:
    with Resetting.on(connection, database) as scene:
        yield scene


def test_its_entries_and_what_was_carried_make_its_closing_balance(scene: Resetting, database: Database) -> None:
    account = name_of("u")
    scene.used_yesterday({account: 4})
    moved = """
        INSERT INTO carried (month, tenant, subject, metric, what, period_kind, period_start, change, entries,
                             shard, epoch, n)
        SELECT '2026-01-01', tenant, subject, metric, 'period', period_kind, period_start, change, 1, shard, epoch, n
        FROM entries WHERE kind = 'consume' AND period_start = %s
    """
    with psycopg.connect(database.owner_url.replace("+psycopg", "", 1)) as owner:
        owner.execute(moved, [to_timestamp(scene.yesterday.start_ms)])
        owner.execute("DELETE FROM entries WHERE kind = 'consume'")
    done = scene.settled()
    assert (done.sealed, done.differing) == (1, 0)
    assert scene.sealed() == [("u", "m", 4, 4, 2, 0)]
