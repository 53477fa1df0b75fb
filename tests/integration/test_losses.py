"""What Redis had forgotten is told, but nobody waits until millions of entries are counted."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import redis
import redis.asyncio
from sqlalchemy import NullPool, create_engine, text

from gateway import epochs as epochs_module
from gateway.epochs import Epochs, Looks, begin_where_lost
from ledger import losses, shards
from ledger.store import Store
from quota import keys
from quota.acknowledged import Acknowledged, Told
from quota.bulk import Bulk
from quota.errors import CountersUnavailable, LedgerUnavailable
from quota.journal import Place
from quota.lives import NOWHERE, Lives, Looking, Standing
from tests.conftest import SHARDS, Database, Stores
from tests.integration.counting import counting, within
from tests.integration.pipeline import Pipeline

NO_LEDGER = "postgresql+psycopg://nobody:nothing@127.0.0.1:1/nothing"


def begun(pipeline: Pipeline, found: dict[int, Standing], told: dict[int, Place]) -> dict[int, int]:
    """The epochs that begin."""
    return pipeline.call(losses.begin_epochs, found, dict.fromkeys(found, NOWHERE) | told)[0]


def told(pipeline: Pipeline) -> dict[str, Any]:
    """Of a Redis that went back to its first entry: seven of one account and one of another are gone."""
    pipeline.shard.open(limit=None).open("other", limit=None)
    pipeline.shard.consume(*[pipeline.shard.step(2)] * 8, pipeline.shard.step(5, metric="other"))
    pipeline.drained()
    assert begun(pipeline, {3: Standing(1, Place(1, 0))}, {}) == {3: 2}
    ((shard, kind, detail),) = pipeline.incidents()
    assert (shard, kind, detail["counters_had"], detail["ledger_has"]) == (3, "rewound", "1-0", "1-8")
    return detail


def test_it_is_told_to_the_unit_and_by_account(pipeline: Pipeline) -> None:
    detail = told(pipeline)
    assert (detail["entries"], detail["units"], "and_more" in detail) == (8, 7 * 2 + 5, False)
    assert [(each["metric"], each["units"]) for each in detail["accounts"]] == [("m", 14), ("other", 5)]


def test_of_more_than_can_be_counted_in_time_the_first_are_told(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "MAX_COUNTED_ENTRIES", 3)
    detail = told(pipeline)
    assert (detail["entries"], detail["units"], detail["and_more"]) == (3, 6, True)


def test_of_what_no_gateway_remembers_the_number_is_told(pipeline: Pipeline) -> None:
    """Callers were told of places up to 1-9; the ledger has those up to 1-4, and the gateway remembers the last two."""
    pipeline.shard.open(limit=None)
    pipeline.shard.consume(*[pipeline.shard.step(2)] * 5)
    pipeline.drained()
    remembered = [Told(3, Place(1, n), 1_000, pipeline.shard.key(), 2) for n in (8, 9)]
    assert pipeline.call(losses.tell_of_lost, 3, 1, remembered, 7) == 2 + 3
    ((_, kind, detail),) = pipeline.incidents()
    assert (kind, detail["entries"], detail["units"], detail["unnamed_at_most"]) == ("lost_entries", 2, 4, 3)
    assert detail["and_more"] is True


@pytest.mark.parametrize("dropped", [None, 4])
def test_of_what_the_ledger_has_nothing_is_told(pipeline: Pipeline, dropped: int | None) -> None:
    pipeline.shard.open(limit=None)
    pipeline.shard.consume(*[pipeline.shard.step(2)] * 5)
    pipeline.drained()
    assert pipeline.call(losses.tell_of_lost, 3, 1, [], dropped) == 0
    assert pipeline.incidents() == []


def emptied(pipeline: Pipeline, told: dict[int, Place]) -> list[tuple[int, str, dict[str, Any]]]:
    """What is told of a FLUSHALL of four shards, of which the third is in use; each has an epoch after it."""
    wanted = range(2, 6)
    for shard in wanted:
        pipeline.call(shards.take_epoch, shard, 1)
    pipeline.shard.open(limit=None)
    pipeline.shard.consume(*[pipeline.shard.step(2)] * 3)
    pipeline.drained()
    found = dict.fromkeys(wanted, Standing(None, NOWHERE))
    assert begun(pipeline, found, told) == dict.fromkeys(wanted, 2)
    return pipeline.incidents()


def test_a_shard_in_which_there_was_nothing_has_lost_nothing(pipeline: Pipeline) -> None:
    ((shard, kind, detail),) = emptied(pipeline, {})
    assert (shard, kind, detail) == (3, "lost", {"lost_epoch": 1, "epoch": 2, "ledger_has": "1-2"})


def test_a_shard_of_which_callers_were_told_has_lost_something(pipeline: Pipeline) -> None:
    _, (shard, kind, detail) = emptied(pipeline, {4: Place(1, 6)})
    assert (shard, kind, detail["ledger_has"], detail["callers_were_told"]) == (4, "lost", "0-0", "1-6")


def test_an_older_file_in_which_an_empty_shard_was_empty_has_forgotten_nothing(pipeline: Pipeline) -> None:
    pipeline.call(shards.take_epoch, 3, 2)
    assert begun(pipeline, {3: Standing(1, NOWHERE)}, {}) == {3: 3}
    assert pipeline.incidents() == []


@pytest.mark.parametrize("head", ["of an unused shard", "after an epoch", "ahead"])
def test_a_journal_that_is_something_else_goes_whatever_the_ledger_has_of_its_shard(
    pipeline: Pipeline, stores: Stores, database: Database, head: str
) -> None:
    """Else no shard's entries are drained."""
    pipeline.shard.open(limit=None)
    if head != "of an unused shard":
        pipeline.shard.consume(pipeline.shard.step(2))
        pipeline.drained()

    async def look() -> int:
        store, looking = Store(database.application_url), Looking(redis.asyncio.Redis.from_url(stores.redis_url))
        begun = await begin_where_lost(looking, store, {3: NOWHERE}, await looking.standings([3]))
        await looking.close()
        await store.close()
        return begun

    if head == "after an epoch":
        pipeline.connection.flushall()
    within(look())
    if head == "ahead":
        pipeline.connection.hset(keys.head(3), "epoch", 7)
    pipeline.connection.delete(keys.journal(3))
    pipeline.connection.set(keys.journal(3), "no stream")
    assert Bulk(pipeline.connection).heads([3])[3].epoch == 0  # nothing is brought in until it is mended
    assert (within(look()), within(look())) == (1, 0)
    assert (pipeline.connection.exists(keys.journal(3)), pipeline.drained()) == (0, 0)


def test_a_gateway_is_not_ready_while_a_journal_is_something_else_and_its_epoch_cannot_begin(
    pipeline: Pipeline, stores: Stores, database: Database
) -> None:
    pipeline.shard.open(limit=None)
    pipeline.connection.set(keys.journal(3), "no stream")

    async def ask() -> None:
        async with counting(stores.redis_url) as (counters, client):
            for url, refusal in (
                (NO_LEDGER, "journal of shard 3 in Redis is something"),
                (database.application_url, ""),
            ):
                looking, store = Looking(client), Store(url)
                looks = Looks(counters, looking, Lives(), store, shard_count=SHARDS, most_waiting=10)
                with pytest.raises(LedgerUnavailable) if refusal else nullcontext():
                    await looks.look()
                with pytest.raises(CountersUnavailable, match=refusal) if refusal else nullcontext():
                    await counters.ping()
                await store.close()

    within(ask())


class Looked(Looking):
    """After it has first given shards their heads, every session of the database is ended, as by a fail-over."""

    owner_url: str
    is_first = True

    async def begin(self, epochs: Mapping[int, int], store: str) -> None:
        await super().begin(epochs, store)
        if not self.is_first:
            return
        self.is_first = False
        engine = create_engine(self.owner_url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )


def test_a_loss_is_told_though_its_epoch_could_not_be_committed(
    pipeline: Pipeline, stores: Stores, database: Database
) -> None:
    pipeline.shard.open(limit=None)
    pipeline.shard.consume(*[pipeline.shard.step(2)] * 3)
    pipeline.drained()
    pipeline.connection.flushall()

    async def look() -> None:
        store = Store(database.application_url, pool_size=3)
        looking = Looked(redis.asyncio.Redis.from_url(stores.redis_url))
        looking.owner_url = database.owner_url
        with pytest.raises(LedgerUnavailable):
            await begin_where_lost(looking, store, {3: NOWHERE}, await looking.standings([3]))
        assert (await looking.standings([3]))[3].epoch == 2
        for begun in (1, 0):
            assert await begin_where_lost(looking, store, {3: NOWHERE}, await looking.standings([3])) == begun
        await looking.close()
        await store.close()

    within(look())
    pipeline.engine.dispose()
    ((shard, kind, detail),) = pipeline.incidents()
    assert (shard, kind, detail["epoch"], detail["ledger_has"]) == (3, "lost", 2, "1-2")


def lose_a_charge(pipeline: Pipeline) -> None:
    """Redis is emptied after the ledger has heard of it."""
    pipeline.shard.open(limit=None)
    pipeline.shard.consume(pipeline.shard.step(2))
    pipeline.drained()
    pipeline.connection.flushall()


class Crowded(Looking):
    """Counts who looks at once."""

    looking = most = 0

    async def standings(self, shards: Sequence[int]) -> dict[int, Standing]:
        self.looking += 1
        self.most = max(self.most, self.looking)
        found = await super().standings(shards)
        self.looking -= 1
        return found


def test_requests_that_find_a_shard_lost_one_after_the_other_begin_its_epoch_once_and_wait_for_one_look(
    pipeline: Pipeline, stores: Stores, database: Database
) -> None:
    """Else all connections of the store would wait for the shard's row."""
    lose_a_charge(pipeline)

    async def ask() -> int:
        store, looking = Store(database.application_url), Crowded(redis.asyncio.Redis.from_url(stores.redis_url))
        epochs = Epochs(looking, store, Acknowledged())
        async with asyncio.TaskGroup() as requests:
            for _ in range(100):
                requests.create_task(epochs.begin(3))
                await asyncio.sleep(0)
        await looking.close()
        await store.close()
        return looking.most

    assert within(ask()) == 1
    assert [kind for _, kind, _ in pipeline.incidents()] == ["lost"]


class Hanging(Crowded):
    """Finds out nothing."""

    async def standings(self, shards: Sequence[int]) -> dict[int, Standing]:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


def test_a_request_that_comes_while_others_wait_for_an_epoch_waits_no_longer_than_they_do(
    stores: Stores, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn comes after theirs."""
    monkeypatch.setattr(epochs_module, "DEADLINE_S", 0.05)

    async def ask() -> None:
        store, looking = Store(database.application_url), Hanging(redis.asyncio.Redis.from_url(stores.redis_url))
        epochs = Epochs(looking, store, Acknowledged())
        told = await asyncio.gather(*[epochs.begin(shard) for shard in (3, 4)], return_exceptions=True)
        assert [type(each) for each in told] == [LedgerUnavailable] * 2
        with pytest.raises(LedgerUnavailable):
            await epochs.begin(5)
        await looking.close()
        await store.close()

    within(ask(), 10)


def test_a_redis_that_refuses_to_write_is_told_of_once(pipeline: Pipeline, stores: Stores, database: Database) -> None:
    """However often it is looked at meanwhile."""
    lose_a_charge(pipeline)

    async def look() -> None:
        store, looking = Store(database.application_url), Looking(redis.asyncio.Redis.from_url(stores.redis_url))
        for _ in range(3):
            with pytest.raises(CountersUnavailable):
                await begin_where_lost(looking, store, {3: NOWHERE}, await looking.standings([3]))
        pipeline.connection.config_set("min-replicas-to-write", 0)
        assert await begin_where_lost(looking, store, {3: NOWHERE}, await looking.standings([3])) == 1
        await looking.close()
        await store.close()

    pipeline.connection.config_set("min-replicas-to-write", 1)
    try:
        within(look())
    finally:
        pipeline.connection.config_set("min-replicas-to-write", 0)
    assert [kind for _, kind, _ in pipeline.incidents()] == ["lost"]
