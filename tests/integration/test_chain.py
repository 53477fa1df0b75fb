"""Whoever changes the ledger's past breaks its chain, and is found at the entry."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import redis

from ledger import chain
from ledger.chain import Break
from tests.conftest import Database
from tests.integration.pipeline import Pipeline
from workers.linking import Linking


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        pipeline.shard.open(limit=None)
        yield pipeline


def consumed(pipeline: Pipeline, entries: int, amount: int = 1) -> None:
    shard = pipeline.shard
    shard.consume(*(shard.step(amount) for _ in range(entries)))
    pipeline.drained()


def linked(pipeline: Pipeline, most: int = 4) -> int:
    total = 0
    while found := pipeline.call(chain.extend, 3, most):
        total += found
    return total


def verified(pipeline: Pipeline) -> list[Break]:
    before, breaks = chain.NO_HASH, []
    for link in pipeline.call(chain.links_of, 3, 0, 100):
        breaks += pipeline.call(chain.verify, link, before)
        before = link.hash
    return breaks


def as_owner(database: Database, statement: str) -> None:
    with psycopg.connect(database.owner_url.replace("+psycopg", "", 1)) as connection:
        assert connection.execute(statement).rowcount == 1


def test_every_entry_is_linked_once(pipeline: Pipeline) -> None:
    consumed(pipeline, 10)
    assert (linked(pipeline), linked(pipeline)) == (10, 0)
    consumed(pipeline, 3)
    assert linked(pipeline) == 3
    found = pipeline.call(chain.links_of, 3, 0, 100)
    assert [(link.seq, str(link.through)) for link in found] == [(1, "1-3"), (2, "1-7"), (3, "1-9"), (4, "1-12")]
    assert verified(pipeline) == []
    assert pipeline.call(chain.heads) == {3: (4, found[-1].hash.hex())}


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE entries SET amount = amount + 1 WHERE n = 5", "changed"),
        ("UPDATE entries SET subject = 'v' WHERE n = 5", "changed"),
        ("UPDATE entries SET metadata = '{\"a\": 1}' WHERE n = 5", "changed"),
        ("UPDATE entries SET occurred_at = occurred_at - interval '1 millisecond' WHERE n = 5", "changed"),
        ("DELETE FROM entries WHERE n = 5", "deleted"),
        ("", "inserted"),
    ],
)
def test_what_the_owner_does_to_an_entry_is_found_and_named(
    pipeline: Pipeline, database: Database, statement: str, what: str
) -> None:
    consumed(pipeline, 10)
    linked(pipeline)
    if what == "inserted":
        columns = (
            "shard, epoch, n, tenant, subject, metric, kind, amount, change, used_after, period_kind, period_start"
        )
        columns += ", receipt_first_n, receipt_count"
        statement = (
            f"INSERT INTO entries (occurred_at, {columns}) "
            f"SELECT occurred_at + interval '1 second', {columns} FROM entries WHERE n = 5"
        )
    as_owner(database, statement)
    assert verified(pipeline) == [Break(3, 2, what, "1-5")]


def test_a_link_that_was_made_anew_breaks_the_one_after_it(pipeline: Pipeline, database: Database) -> None:
    consumed(pipeline, 10)
    linked(pipeline)
    as_owner(database, "UPDATE entries SET amount = 99 WHERE n = 5")
    (link,) = pipeline.call(chain.links_of, 3, 1, 1)
    as_owner(database, "DELETE FROM links WHERE seq = 2")
    rows = pipeline.call(chain.read_entries, 3, chain.Place(1, 3), chain.Place(1, 7), None)
    pipeline.call(chain.add_link, 3, "run", rows, pipeline.call(chain.links_of, 3, 0, 1)[0])
    assert verified(pipeline) == [Break(3, 3, "link", "1-9")]
    assert link.hash != pipeline.call(chain.links_of, 3, 1, 1)[0].hash


def test_a_fork_is_a_link_of_its_own(pipeline: Pipeline, database: Database) -> None:
    consumed(pipeline, 2)
    kept = {name: pipeline.connection.dump(name) for name in pipeline.connection.scan_iter()}
    consumed(pipeline, 3)
    linked(pipeline)
    for name, value in kept.items():
        pipeline.connection.restore(name, 0, value, replace=True)
    consumed(pipeline, 2, amount=7)
    assert linked(pipeline) == 0
    assert [link.kind for link in pipeline.call(chain.links_of, 3, 0, 10)] == ["run", "run", "fork"]
    assert verified(pipeline) == []
    as_owner(database, "UPDATE entries SET amount = 99 WHERE n = 3 AND amount = 7")
    assert [(each.what, each.place) for each in verified(pipeline)] == [("changed", "1-3")]


def test_the_application_can_add_links_and_not_change_them(pipeline: Pipeline) -> None:
    consumed(pipeline, 2)
    linked(pipeline)
    for statement in ("UPDATE links SET seq = 9 RETURNING 1", "DELETE FROM links RETURNING 1"):
        with pytest.raises(Exception, match="permission denied"):
            pipeline.rows(statement)


def test_the_job_links_what_is_new_and_two_of_them_link_it_once(pipeline: Pipeline) -> None:
    consumed(pipeline, 10)
    first, second = Linking(pipeline.engine), Linking(pipeline.engine)
    assert (first.run_once(), second.run_once(), first.run_once()) == (10, 0, 0)
    consumed(pipeline, 5)
    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(lambda each: each.run_once(), (first, second))) == 5
    assert verified(pipeline) == []
