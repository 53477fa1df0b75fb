"""An epoch that began in Redis, and of which the ledger did not hear: what had been lost is told all the same, once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import redis.asyncio
import structlog

from gateway.epochs import begin_where_lost
from ledger import losses, shards
from ledger.store import Store
from quota import keys
from quota.errors import CountersUnavailable
from quota.journal import Place
from quota.lives import NOWHERE, Looking, Standing
from tests.conftest import Database, Stores
from tests.integration.counting import within
from tests.integration.pipeline import Pipeline

GATEWAYS = 4


class Late(Looking):
    """Does as it is asked, and says so too late: what asked is rolled back, as by a kill -9."""

    is_late = True

    async def begin(self, epochs: Mapping[int, int], store: str) -> None:
        await super().begin(epochs, store)
        if self.is_late:
            raise CountersUnavailable("late")


class Scene:
    """A shard of which the ledger has ten entries of two units each, and a gateway whose first epoch is not heard."""

    def __init__(self, pipeline: Pipeline, stores: Stores, database: Database) -> None:
        self.pipeline, self._stores, self._database = pipeline, stores, database
        pipeline.shard.open(limit=None)
        pipeline.shard.consume(*[pipeline.shard.step(2)] * 2)
        connection = pipeline.connection
        older: Any = {name: connection.dump(name) for name in connection.keys("*")}
        pipeline.shard.consume(*[pipeline.shard.step(2)] * 8)
        pipeline.drained()
        self._older = older

    def rewind(self) -> None:
        """Redis has the first two entries alone."""
        self.empty()
        for name, text in self._older.items():
            self.pipeline.connection.restore(name, 0, text)

    def empty(self) -> None:
        self.pipeline.connection.flushall()

    def with_gateway(self, ask: Callable[[Late, Store], Awaitable[None]]) -> None:
        async def run() -> None:
            store = Store(self._database.application_url)
            looking = Late(redis.asyncio.Redis.from_url(self._stores.redis_url))
            try:
                await ask(looking, store)
            finally:
                await looking.close()
                await store.close()

        within(run())

    def begin_unheard(self) -> None:
        """The shard's head is there, and the ledger knows nothing of it."""

        async def ask(looking: Late, store: Store) -> None:
            with pytest.raises(CountersUnavailable):
                await begin_where_lost(looking, store, {3: NOWHERE}, await looking.standings([3]))

        self.with_gateway(ask)
        assert self.pipeline.call(shards.standings, [3])[3][0] == 1

    def look(self) -> None:
        """All gateways look at once."""

        async def ask(looking: Late, store: Store) -> None:
            looking.is_late = False
            found = await looking.standings([3])
            async with asyncio.TaskGroup() as gateways:
                for _ in range(GATEWAYS):
                    gateways.create_task(begin_where_lost(looking, store, {3: NOWHERE}, found))

        self.with_gateway(ask)

    def go_on(self, used: int, entry: str) -> None:
        """What Redis still had of old entries is trimmed; requests find the head, and are charged."""
        shard = self.pipeline.shard
        assert self.pipeline.drained() == 0
        shard.provision(shard.opening(limit=None, used=used, entry=entry), epoch=2)
        shard.consume(shard.step(5))

    def told(self) -> dict[str, Any]:
        """What the only incident says."""
        ((shard, kind, detail),) = self.pipeline.incidents()
        assert (shard, detail["lost_epoch"], detail["epoch"], detail["ledger_has"]) == (3, 1, 2, "1-9")
        return {"kind": kind} | {name: detail[name] for name in ("counters_had", "entries", "units") if name in detail}


@pytest.fixture
def scene(pipeline: Pipeline, stores: Stores, database: Database) -> Scene:
    return Scene(pipeline, stores, database)


LOST = {"kind": "lost"}
REWOUND = {"kind": "rewound", "counters_had": "1-1", "entries": 8, "units": 16}


@pytest.mark.parametrize(("lose", "told"), [(Scene.empty, LOST), (Scene.rewind, REWOUND)])
@pytest.mark.parametrize("first", ["a look", "a drain", "a look after requests"])
def test_whoever_finds_the_epoch_first_tells_what_had_been_lost(
    scene: Scene, lose: Callable[[Scene], None], told: dict[str, Any], first: str
) -> None:
    lose(scene)
    scene.begin_unheard()
    if first != "a look":
        scene.go_on(20, "1-9")
    if first == "a drain":
        assert scene.pipeline.drained() == 1
    scene.look()
    scene.pipeline.drained()
    scene.look()
    assert scene.told() == told
    assert scene.pipeline.call(shards.standings, [3])[3][0] == 2


def test_a_head_that_says_a_later_epoch_than_any_has_forgotten_nothing(scene: Scene) -> None:
    scene.pipeline.connection.hset(keys.head(3), "epoch", 2)
    scene.look()
    assert scene.told() == {"kind": "rewound", "counters_had": "1-9", "entries": 0, "units": 0}


@pytest.mark.parametrize("epoch", [2**53, 2**63 - 1, 2**64, 10**400])
def test_a_head_that_says_an_epoch_which_no_ledger_has_is_none(scene: Scene, epoch: int) -> None:
    """Else no look at any shard would come to its end."""
    scene.pipeline.connection.hset(keys.head(3), "epoch", str(epoch))
    scene.look()
    assert scene.told() == LOST
    assert scene.pipeline.connection.hget(keys.head(3), "epoch") == b"2"


def test_a_gap_in_an_epoch_that_nobody_heard_of_begins_the_one_after_it(scene: Scene) -> None:
    scene.empty()
    scene.begin_unheard()
    scene.go_on(20, "1-9")
    scene.pipeline.shard.consume(*[scene.pipeline.shard.step(5)] * 2)
    scene.pipeline.connection.xdel(keys.journal(3), "2-1")
    scene.pipeline.drained()
    scene.look()
    assert [kind for _, kind, _ in scene.pipeline.incidents()] == ["gap", "arithmetic", "rewound"]
    assert scene.pipeline.connection.hget(keys.head(3), "epoch") == b"4"
    assert scene.pipeline.call(shards.standings, [3])[3] == (4, Place(2, 2))


def test_an_epoch_that_callers_were_told_of_is_not_begun_again(scene: Scene) -> None:
    """It was never committed, and Redis was emptied once more: its places were given out, and are not given twice."""
    told = {3: Place(2, 4)}
    begun, _ = scene.pipeline.call(losses.begin_epochs, {3: Standing(None, NOWHERE)}, told)
    assert begun == {3: 3}


def test_what_cannot_be_committed_is_not_logged(scene: Scene) -> None:
    """Every gateway tries it ten times a second, for as long as Redis refuses to write."""
    scene.empty()
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            scene.empty()
            scene.begin_unheard()
        assert logged == []
        scene.look()
    assert [each["event"] for each in logged] == [
        "the counters of a shard were lost",
        "shards had lost something and began an epoch",
    ]
