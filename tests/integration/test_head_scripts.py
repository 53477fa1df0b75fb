"""What publish and begin_epoch promise, on the real server and on fakeredis alike."""

from collections.abc import Iterator

import pytest

from quota import keys, protocol
from quota.replies import Verdict
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


class TestBeginEpoch:
    def test_a_head_is_made_once_and_only_a_greater_epoch_wins(self, shard: Shard) -> None:
        said = [shard.run(protocol.begin_epoch(SHARD, epoch, "")) for epoch in (9, 9, 8, 10, 9, 11)]
        assert said == ["begun", "kept", "kept", "begun", "kept", "begun"]
        assert shard.connection.hgetall(keys.head(SHARD)) == {b"epoch": b"11", b"store": b""}

    def test_a_new_epoch_keeps_what_the_head_knows_of_catalogs(self, shard: Shard) -> None:
        shard.open().run(protocol.publish(SHARD, "t", 4))
        shard.run(protocol.begin_epoch(SHARD, 2, ""))
        head = shard.connection.hgetall(keys.head(SHARD))
        assert (head[b"epoch"], head[keys.catalog_field("t").encode()], head[b"fence"]) == (b"2", b"4", b"1")
