"""Whoever changes the ledger's past breaks its chain, and is found at the entry."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from ledger import chain, replay_verification
from quota import protocol
from quota.errors import Conflict
from tests.conftest import Database
from tests.integration.pipeline import Pipeline
from tests.integration.replaying import as_owner, through
from tests.integration.shard import Shard
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


def verified(pipeline: Pipeline, **arguments: Any) -> list[tuple[Any, ...]]:
    """What differs in the chain, as `ledger verify` and the job of that name tell it."""
    result, found, _ = through(pipeline, replay_verification.step, step_entries=3, **arguments)
    breaks = [each for each in found if "link" in each]
    assert result["differences"] == found
    assert result["differing"] == len(found)
    return [(each["what"], each["entry"], each["link"], each["subject"]) for each in breaks]


def figures(pipeline: Pipeline) -> dict[str, Any]:
    return dict(through(pipeline, replay_verification.step)[0]["chain"])


def inserted(place: str, of: int, at: str = "interval '1 second'") -> str:
    """A statement that puts an entry at a place, or at another instant of one that is taken."""
    columns = "tenant, subject, metric, kind, amount, change, used_after, period_kind, period_start"
    columns += ", receipt_first_n, receipt_count"
    return (
        f"INSERT INTO entries (shard, epoch, n, occurred_at, {columns}) "
        f"SELECT shard, {place}, occurred_at + {at}, {columns} FROM entries WHERE n = {of}"
    )


def test_every_entry_is_linked_once(pipeline: Pipeline) -> None:
    consumed(pipeline, 10)
    assert (linked(pipeline), linked(pipeline)) == (10, 0)
    consumed(pipeline, 3)
    assert linked(pipeline) == 3
    found = pipeline.call(chain.links_of, 3, 0, 100)
    assert [(link.seq, str(link.through)) for link in found] == [(1, "1-3"), (2, "1-7"), (3, "1-9"), (4, "1-12")]
    assert verified(pipeline) == []


TO_ENTRIES = (
    (inserted("epoch, -7", of=1), ("inserted", "3.1--7", 1, "u")),
    (inserted("0, 5", of=2), ("inserted", "3.0-5", 1, "u")),
    ("UPDATE entries SET amount = amount + 1 WHERE n = 5", ("changed", "3.1-5", 2, "u")),
    ("UPDATE entries SET subject = 'v' WHERE n = 9", ("changed", "3.1-9", 3, "v")),
    ("UPDATE entries SET metadata = '{\"a\": 1}' WHERE n = 13", ("changed", "3.1-13", 4, "u")),
    (
        "UPDATE entries SET occurred_at = occurred_at - interval '1 millisecond' WHERE n = 17",
        ("changed", "3.1-17", 5, "u"),
    ),
    ("DELETE FROM entries WHERE n = 21", ("deleted", "3.1-21", 6, None)),
    (inserted("epoch, n", of=25), ("inserted", "3.1-25", 7, "u")),
    (inserted("epoch, n", of=29, at="interval '-1 second'"), ("inserted", "3.1-29", 8, "u")),
    (inserted("epoch, n + 1", of=39), ("inserted", "3.1-40", None, "u")),
    (inserted("epoch + 1, 0", of=38), ("inserted", "3.2-0", None, "u")),
)


def test_what_the_owner_does_to_an_entry_is_found_and_named(pipeline: Pipeline, database: Database) -> None:
    consumed(pipeline, 40)
    linked(pipeline)
    as_owner(database, *(statement for statement, _ in TO_ENTRIES))
    assert set(verified(pipeline)) == {found for _, found in TO_ENTRIES}


def test_what_the_owner_does_to_a_link_is_found_and_named(pipeline: Pipeline, database: Database) -> None:
    consumed(pipeline, 40)
    linked(pipeline)
    as_owner(
        database,
        "UPDATE links SET digests = sha256(digests) WHERE seq = 2",
        "UPDATE links SET hash = sha256(hash) WHERE seq = 4",
        "DELETE FROM links WHERE seq = 7",
        """UPDATE links SET ranges = '[[1, 36, 39], [1, 40, 41]]' WHERE seq = 10""",
    )
    # A link with another hash breaks the one after it, too.
    assert verified(pipeline) == [
        ("link", "3.1-7", 2, None),
        ("link", "3.1-15", 4, None),
        ("link", "3.1-19", 5, None),
        ("link", "3.1-31", 8, None),
        ("link", None, 10, None),  # of so few digests it cannot end there
    ]


def test_an_entry_between_two_epochs_is_found(pipeline: Pipeline, database: Database) -> None:
    consumed(pipeline, 4)
    linked(pipeline)
    pipeline.connection.flushall()
    shard = pipeline.shard
    shard.run(protocol.begin_epoch(3, 2, ""))
    shard.provision(shard.opening(limit=None, used=4), epoch=2)
    consumed(pipeline, 4)
    linked(pipeline)
    assert verified(pipeline) == []
    as_owner(database, inserted("1, 4", of=3).replace("WHERE n = 3", "WHERE (epoch, n) = (1, 3)"))
    assert verified(pipeline) == [("inserted", "3.1-4", 2, "u")]


def test_what_was_not_linked_yet_is_counted_and_told_apart(pipeline: Pipeline, database: Database) -> None:
    consumed(pipeline, 10)
    linked(pipeline)
    consumed(pipeline, 5)
    head = {"seq": 3, "hash": pipeline.call(chain.links_of, 3, 2, 1)[0].hash.hex()}
    assert figures(pipeline) == {"links": 3, "linked": 10, "archived": 0, "unlinked": 5, "heads": {"3": head}}
    as_owner(database, "UPDATE entries SET reason = 'another' WHERE n = 12")
    assert verified(pipeline) == []


def test_a_link_that_was_made_anew_breaks_the_one_after_it(pipeline: Pipeline, database: Database) -> None:
    consumed(pipeline, 10)
    linked(pipeline)
    as_owner(database, "UPDATE entries SET amount = 99 WHERE n = 5")
    (link,) = pipeline.call(chain.links_of, 3, 1, 1)
    as_owner(database, "DELETE FROM links WHERE seq = 2")
    rows = pipeline.call(chain.read_entries, 3, chain.Place(1, 3), chain.Place(1, 7), None)
    pipeline.call(chain.add_link, 3, "run", rows, pipeline.call(chain.links_of, 3, 0, 1)[0])
    assert verified(pipeline) == [("link", "3.1-9", 3, None)]
    assert link.hash != pipeline.call(chain.links_of, 3, 1, 1)[0].hash


def test_a_chain_that_was_made_anew_to_its_end_differs_from_heads_that_were_kept(
    pipeline: Pipeline, database: Database
) -> None:
    consumed(pipeline, 10)
    linked(pipeline)
    kept = figures(pipeline)["heads"]
    consumed(pipeline, 4)
    linked(pipeline)
    assert verified(pipeline, heads=kept) == []
    as_owner(database, "UPDATE entries SET amount = 99 WHERE n = 5")
    for _ in range(3):
        as_owner(database, "DELETE FROM links WHERE seq = (SELECT max(seq) FROM links)")
    assert verified(pipeline, heads=kept) == [("link", "3.1-3", 3, None)]
    linked(pipeline)
    assert verified(pipeline) == []
    assert verified(pipeline, heads=kept) == [("link", "3.1-11", 3, None)]


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
    assert verified(pipeline) == [("changed", "3.1-3", 3, "u")]


def test_a_fork_among_what_is_not_linked_yet_takes_nobodys_place_in_a_link(pipeline: Pipeline) -> None:
    consumed(pipeline, 1)
    kept = {name: pipeline.connection.dump(name) for name in pipeline.connection.scan_iter()}
    consumed(pipeline, 5)
    for name, value in kept.items():
        pipeline.connection.restore(name, 0, value, replace=True)
    consumed(pipeline, 2, amount=7)
    linking = Linking(pipeline.engine, max_entries=3)
    assert (linking.run_once(), linking.run_once()) == (6, 0)
    found = [(link.kind, link.ranges) for link in pipeline.call(chain.links_of, 3, 0, 10)]
    assert found == [("fork", ((1, 1, 2),)), ("run", ((1, 0, 2),)), ("run", ((1, 3, 5),))]
    assert (verified(pipeline), figures(pipeline)["unlinked"]) == ([], 0)


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


TO_THE_SECOND_LINK = (
    ("ranges = '[]'", None),
    ("ranges = 'null'", None),
    ("ranges = '{\"1\": 2}'", None),
    ("ranges = '[[1, 4]]'", None),
    ("ranges = '[[1, \"4\", 7]]'", None),
    ("ranges = '[[1, 4, 4], [1, 8, 5]]'", None),
    ("ranges = '[[1, 7, 4]]'", None),
    ("ranges = '[[1, 4, 1e30]]'", None),
    ("ranges = '[[1, 0, 900000000000]]'", None),
    ("ranges = '[[1, 0, 3]]'", "3.1-3"),
    ("digests = ''", None),
    ("instants = '{4, 5, 6, 7}'", None),
    ("kind = 'fork'", None),
    ("kind = 'fork', instants = '{4, 5, NULL, 7}'", None),
    ("kind = 'fork', instants = '{4, 5, 6, 9000000000000000000}'", None),
    ("kind = 'fork', instants = '{4, 5, 6, 7}'", "3.1-7"),
    ("kind = 'fork', ranges = '[[1, 0, 900000000]]'", None),
)


@pytest.mark.parametrize(("change", "entry"), TO_THE_SECOND_LINK)
def test_whatever_the_owner_puts_into_a_link_that_link_is_named_and_no_other(
    pipeline: Pipeline, database: Database, change: str, entry: str | None
) -> None:
    consumed(pipeline, 12)
    linked(pipeline)
    as_owner(database, f"UPDATE links SET {change} WHERE seq = 2")
    assert verified(pipeline) == [("link", entry, 2, None)]
    consumed(pipeline, 2)
    assert Linking(pipeline.engine).run_once() == 2
    assert verified(pipeline) == [("link", entry, 2, None)]
    as_owner(database, "UPDATE entries SET amount = 99 WHERE n = 9")
    assert verified(pipeline) == [("link", entry, 2, None), ("changed", "3.1-9", 3, "u")]


def test_a_shard_whose_last_link_says_nothing_keeps_no_other_shard_from_being_linked(
    pipeline: Pipeline, database: Database
) -> None:
    consumed(pipeline, 4)
    linked(pipeline)
    as_owner(database, "UPDATE links SET ranges = '[]'")
    other = Shard(pipeline.connection, 5).open(limit=None)
    other.consume(*[other.step(1)] * 3)
    consumed(pipeline, 2)
    linking = Linking(pipeline.engine)
    assert (linking.run_once(), linking.run_once()) == (3, 0)
    assert [(each, entry) for each, entry, *_ in verified(pipeline)] == [("link", None)]
    with pytest.raises(Conflict, match="the link 1 of shard 3 is not as it was made"):
        pipeline.call(chain.linked_through, 3)
    as_owner(database, "UPDATE links SET ranges = '[[1, 0, 3]]' WHERE shard = 3")
    assert linking.run_once() == 2
    assert verified(pipeline) == []
