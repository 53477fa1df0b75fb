"""What publish, begin_epoch and trim promise, on the real server and on fakeredis alike."""

from collections.abc import Iterator

import pytest

from quota import keys, protocol
from quota.journal import Journal, Place
from quota.replies import Outcome, Verdict
from tests.integration.shard import SERVERS, SHARD, Shard, shard_on


@pytest.fixture(params=SERVERS)
def shard(request: pytest.FixtureRequest) -> Iterator[Shard]:
    with shard_on(request.param, request) as shard:
        yield shard


class TestPublish:
    def test_only_accounts_that_exist_are_marked(self, shard: Shard) -> None:
        shard.open("m").open("m2")
        names = [shard.key(name) for name in ("m", "m2", "never_made")]
        assert shard.run(protocol.publish(SHARD, "t", 1, names)) == 2
        assert [shard.connection.exists(name) for name in names] == [1, 1, 0]
        (reply,) = shard.consume(shard.step(1, 1))
        assert ([state.verdict for state in reply.accounts], reply.fence) == ([Verdict.STALE] * 2, "1")

    def test_the_fence_moves_each_time_and_the_catalogs_version_only_up(self, shard: Shard) -> None:
        shard.open()
        for version, wanted in ((9, b"9"), (10, b"10"), (9, b"10")):
            shard.run(protocol.publish(SHARD, "t", version))
            assert shard.connection.hget(keys.head(SHARD), keys.catalog_field("t")) == wanted
        assert shard.connection.hget(keys.head(SHARD), "fence") == b"3"

    def test_a_shard_without_a_head_is_given_none(self, shard: Shard) -> None:
        assert shard.run(protocol.publish(SHARD, "t", 1, [shard.key()])) == 0
        assert shard.everything() == {}

    @pytest.mark.parametrize("text", ["", "q", "1q", "-3", "1.5", "9" * 30])
    def test_a_catalogs_version_that_cannot_be_read_is_written_anew(self, shard: Shard, text: str) -> None:
        head, field = keys.head(SHARD), keys.catalog_field("t")
        opening = shard.open().opening()
        shard.connection.hset(head, field, text)
        (reply,) = shard.consume(shard.step(1))
        assert [state.verdict for state in reply.accounts] == [Verdict.STALE]
        assert shard.provision(opening) == "provisioned"
        assert shard.connection.hget(head, field) == b"1"
        (reply,) = shard.consume(shard.step(1))
        assert reply.outcome == Outcome.ALLOWED
        shard.connection.hset(head, field, text)
        shard.run(protocol.publish(SHARD, "t", 2))
        assert shard.connection.hget(head, field) == b"2"


UNREADABLE = [("epoch", "q"), ("epoch", "1q"), ("epoch", str(2**53)), ("epoch", "9" * 400), ("fence", "x"), (None, "")]


class TestBeginEpoch:
    def test_a_head_is_made_once_and_only_a_greater_epoch_wins(self, shard: Shard) -> None:
        said = [shard.run(protocol.begin_epoch(SHARD, epoch, "")) for epoch in (9, 9, 8, 10, 9, 11)]
        assert said == ["begun", "kept", "kept", "begun", "kept", "begun"]
        assert shard.connection.hgetall(keys.head(SHARD)) == {b"epoch": b"11", b"store": b"", b"began": b"11 0-0"}

    @pytest.mark.parametrize(("field", "text"), UNREADABLE)
    def test_a_head_that_cannot_be_read_is_none(self, shard: Shard, field: str | None, text: str) -> None:
        shard.run(protocol.begin_epoch(SHARD, 1, "s"))
        if field is None:
            shard.connection.delete(keys.head(SHARD))
            shard.connection.set(keys.head(SHARD), text)
        else:
            shard.connection.hset(keys.head(SHARD), field, text)
        assert shard.run(protocol.begin_epoch(SHARD, 2, "s")) == "begun"
        head = {b"epoch": b"2", b"store": b"s", b"began": b"2 0-0"}
        assert shard.connection.hgetall(keys.head(SHARD)) == head

    def test_a_head_says_where_the_journal_stood_when_its_epoch_began(self, shard: Shard) -> None:
        shard.open(limit=None).consume(*[shard.step(1)] * 3)
        journal = Journal(shard.connection)
        journal.trim(SHARD, journal.read(SHARD, Place(0, 0), 3)[-1])
        shard.run(protocol.begin_epoch(SHARD, 2, ""))
        shard.run(protocol.begin_epoch(SHARD, 2, ""))
        assert shard.connection.hget(keys.head(SHARD), "began") == b"2 1-2"

    def test_a_journal_that_is_something_else_goes_and_one_with_entries_stays(self, shard: Shard) -> None:
        shard.open(limit=None).consume(shard.step(1))
        shard.run(protocol.begin_epoch(SHARD, 2, "s"))
        assert shard.kinds() == ["consume"]
        shard.connection.delete(keys.journal(SHARD))
        shard.connection.set(keys.journal(SHARD), "no stream")
        shard.run(protocol.begin_epoch(SHARD, 3, "s"))
        assert shard.connection.exists(keys.journal(SHARD)) == 0

    def test_a_new_epoch_keeps_what_the_head_knows_of_catalogs(self, shard: Shard) -> None:
        shard.open().run(protocol.publish(SHARD, "t", 4))
        shard.run(protocol.begin_epoch(SHARD, 2, ""))
        head = shard.connection.hgetall(keys.head(SHARD))
        assert (head[b"epoch"], head[keys.catalog_field("t").encode()], head[b"fence"]) == (b"2", b"4", b"1")


class TestTrim:
    def test_what_the_ledger_was_given_is_forgotten(self, shard: Shard) -> None:
        shard.open(limit=None).consume(*[shard.step(1)] * 5)
        journal = Journal(shard.connection)
        assert (journal.trim(SHARD, journal.read(SHARD, Place(0, 0), 3)[-1]), shard.kinds()) == (True, ["consume"] * 2)

    @pytest.mark.parametrize("again", ["another amount", "another caller", "nothing"])
    def test_what_came_to_stand_at_those_places_is_not(self, shard: Shard, again: str) -> None:
        shard.open(limit=None).consume(*[shard.step(1)] * 3)
        journal = Journal(shard.connection)
        (name, last) = journal.read(SHARD, Place(0, 0), 3)[-1]
        other = {"another amount": last | {b"line": b"x"}, "another caller": last | {b"about": b"x"}, "nothing": {}}
        shard.connection.delete(keys.journal(SHARD))
        shard.connection.xadd(keys.journal(SHARD), {"line": "consume", "about": ""}, id="1-1")
        if other[again]:
            shard.connection.xadd(keys.journal(SHARD), dict(other[again]), id=name)
        before = shard.everything()
        assert (journal.trim(SHARD, (name, last)), shard.everything()) == (False, before)
