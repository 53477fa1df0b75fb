"""Gifts through everything that may die in between: real gateways' parts, a real drain, and stores that forget."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway, Parts
from ledger import catalogs, gifts, grants, replay_verification
from ledger.acts import By
from ledger.gifts import Gift, Wanted
from quota import keys
from quota.catalog import Catalog, parse_toml
from quota.errors import CountersUnavailable, NotEnoughUnits, TooMany
from quota.keys import AccountName
from quota.settings import Settings
from tests.conftest import SHARDS, Database, Stores
from tests.integration.counting import within
from tests.integration.pipeline import Pipeline
from tests.integration.replaying import through
from workers.announce import Announcer

CATALOG: Catalog = parse_toml("""
default_plan = "free"
[metrics.m]
[plans.free]
limits.m = { limit = 3, period = "month" }
""")
GIVER = "u"
RECEIVER = next(f"v{n}" for n in range(99) if keys.shard_of("t", f"v{n}", SHARDS) != keys.shard_of("t", GIVER, SHARDS))
GIFTS = 200
UNITS = 300


class Scene:
    """Two subjects in different shards, and two gateways that serve them."""

    def __init__(self, pipeline: Pipeline, parts: tuple[Parts, Parts]) -> None:
        self.pipeline, self.parts = pipeline, parts

    async def grant(self, subject: str, amount: int) -> None:
        words = {"priority": 0, "expires_ms": None, "by": By("k", reason="to give away")}
        self.pipeline.call(grants.add, "t", subject, "m", amount=amount, **words)
        await self.announced(subject)

    async def announced(self, *subjects: str) -> None:
        """What a gateway does after a change, and a worker where that died."""
        for subject in subjects:
            await self.parts[0].admission.announce("t", subject)

    def ask(self, amount: int, giver: str = GIVER, receiver: str = RECEIVER) -> Gift:
        words = {"by": By("k"), "idempotency_key": None, "caps": None, "now_ms": self.pipeline.shard.now_ms()}
        gift, _ = self.pipeline.call(gifts.ask, "t", Wanted(giver, receiver, "m", amount), **words)
        return gift

    async def take(self, gift: Gift, gateway: int = 0) -> str:
        try:
            await self.parts[gateway].giving.take(gift)
        except NotEnoughUnits:
            return "refused"
        except CountersUnavailable:
            return "unknown"
        return "taken"

    async def settle(self) -> None:
        """As time goes by: what waits is asked again by whichever gateway, and the drain books it."""
        for _ in range(50):
            self.pipeline.drained()
            owner = "UPDATE gifts SET next_try_at = now() WHERE state IN ('asked', 'taken') RETURNING id"
            if not self.pipeline.rows(owner):
                return
            for parts in self.parts:
                with suppress(CountersUnavailable):
                    await parts.giving.run()
        raise AssertionError("there are gifts that are never settled")

    def state(self, gift: Gift) -> str:
        return self.pipeline.call(gifts.read, "t", gift.id).state

    def left(self, subject: str) -> int:
        """As the ledger knows it."""
        account = AccountName("t", subject, "m")
        found = self.pipeline.call(grants.of_accounts, [account], self.pipeline.shard.now_ms())
        return sum(each.left for each in found.get(account, []))

    def lefts(self) -> tuple[int, int]:
        return self.left(GIVER), self.left(RECEIVER)

    def assert_all_agree(self) -> None:
        assert self.pipeline.reconcile().run_once().drifts == []
        result, found, _ = through(self.pipeline, replay_verification.step)
        assert (result["differing"], found) == (0, [])


@asynccontextmanager
async def scene_of(pipeline: Pipeline, stores: Stores, database: Database, folder: Path) -> AsyncIterator[Scene]:
    pipeline.call(catalogs.apply, "t", CATALOG, By("k"), dry_run=False)
    urls = {"redis_url": stores.redis_url, "database_url": database.application_url}
    settings = Settings(**urls, outage_dir=str(folder), deadline_ms=5_000, durability="none")
    gateways = [Gateway(settings), Gateway(settings)]
    first, second = [await gateway.open() for gateway in gateways]
    try:
        yield Scene(pipeline, (first, second))
    finally:
        for gateway in gateways:
            await gateway.close()


@pytest.fixture
def on_scene(pipeline: Pipeline, stores: Stores, database: Database, tmp_path: Path) -> Any:
    def run(story: Any) -> None:
        async def told() -> None:
            async with scene_of(pipeline, stores, database, tmp_path) as scene:
                await story(scene)

        within(told(), 240)

    return run


def test_a_gateway_that_died_before_it_asked_the_counters_is_stood_in_for(on_scene: Any) -> None:
    async def story(scene: Scene) -> None:
        await scene.grant(GIVER, 9)
        gift = scene.ask(4)
        await scene.settle()
        assert (scene.state(gift), scene.lefts()) == ("given", (5, 4))
        scene.assert_all_agree()

    on_scene(story)


def test_one_that_no_longer_fits_is_refused_and_says_why(on_scene: Any) -> None:
    async def story(scene: Scene) -> None:
        await scene.grant(GIVER, 3)
        gift = scene.ask(4)
        await scene.settle()
        found = scene.pipeline.call(gifts.read, "t", gift.id)
        assert (found.state, scene.lefts()) == ("refused", (3, 0))
        assert "u has 3 unused units of grants of m" in str(found.refusal)

    on_scene(story)


def test_two_gateways_at_once_take_once(on_scene: Any) -> None:
    async def story(scene: Scene) -> None:
        await scene.grant(GIVER, 9)
        gift = scene.ask(4)
        assert await asyncio.gather(*(scene.take(gift, each % 2) for each in range(20))) == ["taken"] * 20
        await scene.settle()
        assert scene.lefts() == (5, 4)
        scene.assert_all_agree()

    on_scene(story)


@pytest.mark.parametrize("when", ["before it was asked", "before the drain had it", "after the drain had it"])
def test_redis_may_forget_everything_at_each_step(on_scene: Any, when: str) -> None:
    async def story(scene: Scene) -> None:
        await scene.grant(GIVER, 9)
        gift = scene.ask(4)
        if when != "before it was asked":
            assert await scene.take(gift) == "taken"
        if when == "after the drain had it":
            scene.pipeline.drained()
        scene.pipeline.connection.flushall()
        await scene.settle()
        assert (scene.state(gift), scene.lefts()) == ("given", (5, 4))
        scene.assert_all_agree()

    on_scene(story)


def test_what_is_taken_again_after_the_ledger_had_it_goes_back_to_the_giver(on_scene: Any) -> None:
    """A gateway was slow: between its look at the row and its question to Redis that was emptied, and all was done."""

    async def story(scene: Scene) -> None:
        await scene.grant(GIVER, 9)
        gift = scene.ask(4)
        assert await scene.take(gift) == "taken"
        scene.pipeline.drained()
        scene.pipeline.connection.flushall()
        assert await scene.take(gift, 1) == "taken"
        scene.pipeline.drained()
        assert (scene.state(gift), scene.lefts()) == ("given", (5, 4))
        rows = scene.pipeline.rows("SELECT act, subject, after ->> 'to' FROM acts WHERE act LIKE 'gift.%' ORDER BY id")
        assert rows == [("gift.given", GIVER, RECEIVER), ("gift.returned", GIVER, GIVER)]
        scene.assert_all_agree()

    on_scene(story)


def test_a_gift_whose_entry_an_older_drain_booked_is_given_once(on_scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Scene) -> None:
        await scene.grant(GIVER, 9)
        gift = scene.ask(4)
        assert await scene.take(gift) == "taken"
        with monkeypatch.context() as older:
            older.setattr("ledger.entries.gifts_booked.book_staged", lambda _: None)
            older.setattr("ledger.entries.movements.move_grant_balances", lambda _: None)
            scene.pipeline.drained()
        assert (scene.state(gift), scene.lefts()) == ("asked", (9, 0))
        monkeypatch.setattr("ledger.older_drains.LEFT_FOR_S", 0)
        announcer = Announcer(scene.pipeline.connection, scene.pipeline.engine)
        for _ in range(2):
            announcer.run_once()
            assert (scene.state(gift), scene.lefts()) == ("given", (5, 4))
        scene.assert_all_agree()

    on_scene(story)


def test_what_was_taken_for_a_gift_that_was_refused_goes_back(on_scene: Any) -> None:
    async def story(scene: Scene) -> None:
        await scene.grant(GIVER, 9)
        gift = scene.ask(4)
        assert scene.pipeline.call(gifts.refuse, gift.id, "not enough")
        assert await scene.take(gift) == "taken"
        scene.pipeline.drained()
        assert (scene.state(gift), scene.lefts()) == ("refused", (9, 0))
        scene.assert_all_agree()

    on_scene(story)


def test_of_gifts_to_and_fro_not_a_unit_is_lost_whatever_dies(on_scene: Any) -> None:
    """At every step somebody may die, Redis may be emptied, or two may do the same at once."""
    chances = random.Random(1)

    async def story(scene: Scene) -> None:
        for subject in (GIVER, RECEIVER):
            await scene.grant(subject, UNITS)
        waiting: list[Gift] = []
        for _ in range(GIFTS):
            giver, receiver = chances.sample((GIVER, RECEIVER), 2)
            try:
                waiting.append(scene.ask(chances.randint(1, 200), giver, receiver))
            except TooMany:
                await scene.settle()
                continue
            if chances.random() < 0.1:
                continue  # the gateway died before it asked the counters
            gift = chances.choice(waiting[-5:])
            await asyncio.gather(*(scene.take(gift, each) for each in range(chances.choice((1, 1, 2)))))
            if chances.random() < 0.1:
                scene.pipeline.drained()
                await scene.announced(GIVER, RECEIVER)
            if chances.random() < 0.03:
                scene.pipeline.connection.flushall()
                await asyncio.gather(*(scene.take(each) for each in waiting[-3:]))
            if chances.random() < 0.02:
                await scene.settle()
        await scene.settle()
        states = dict(scene.pipeline.rows("SELECT state, count(*) FROM gifts GROUP BY state"))
        assert set(states) == {"given", "refused"}
        assert min(states.values()) > 10
        assert sum(scene.lefts()) == 2 * UNITS
        scene.assert_all_agree()

    on_scene(story)


def ask_with_key(pipeline: Pipeline, now_ms: int) -> tuple[Gift, bool]:
    words = {"by": By("k"), "idempotency_key": "once", "caps": None, "now_ms": now_ms}
    return pipeline.call(gifts.ask, "t", Wanted(GIVER, RECEIVER, "m", 1), **words)


def test_a_key_is_known_for_a_day(pipeline: Pipeline) -> None:
    now_ms = pipeline.shard.now_ms()
    first, _ = ask_with_key(pipeline, now_ms)
    assert ask_with_key(pipeline, now_ms + 2 * gifts.KEY_KEPT_MS) == (first, True)  # it is not settled
    pipeline.rows("UPDATE gifts SET state = 'given' RETURNING id")
    assert ask_with_key(pipeline, now_ms + gifts.KEY_KEPT_MS - 1)[1]
    second, is_known = ask_with_key(pipeline, now_ms + gifts.KEY_KEPT_MS)
    assert (is_known, second.id == first.id) == (False, False)


def test_a_receiver_gets_no_more_grants_than_an_account_may_have(pipeline: Pipeline) -> None:
    for giver in ("g1", "g2"):
        for priority in range(40):
            words = {"amount": 1, "priority": priority, "expires_ms": None, "by": By("k", reason="to give away")}
            pipeline.call(grants.add, "t", giver, "m", **words)
    words = {"by": By("k"), "idempotency_key": None, "caps": None, "now_ms": pipeline.shard.now_ms()}
    pipeline.call(gifts.ask, "t", Wanted("g1", RECEIVER, "m", 40), **words)
    with pytest.raises(TooMany, match="more than fit in"):
        pipeline.call(gifts.ask, "t", Wanted("g2", RECEIVER, "m", 40), **words)
    pipeline.call(gifts.ask, "t", Wanted("g2", RECEIVER, "m", 24), **words)
