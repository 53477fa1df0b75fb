"""A subscription that changes at an instant: by itself, and for those who are not there to see it."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ledger import subscriptions
from ledger.acts import By
from quota.entitlement import Subscription
from quota.protocol import Charge
from tests.conftest import Database
from tests.integration.resetting import Resetting, name_of


@pytest.fixture
def scene(connection: "redis.Redis", database: Database) -> Iterator[Resetting]:
    with Resetting.on(connection, database) as scene:
        yield scene


class TestScheduledChanges:
    def scheduled(self, scene: Resetting, at_ms: int) -> None:
        scene.pipeline.call(
            subscriptions.put, "t", "u", Subscription("free", "active", None, {"x": 1}), By("test"), now_ms=scene.now_ms
        )
        following = Subscription("pro", "active", None, {})
        words: dict[str, Any] = {"end_of": lambda _: at_ms, "now_ms": scene.pipeline.clocked.now_ms()}
        scene.pipeline.call(subscriptions.schedule, "t", "u", following, by=By("somebody"), **words)

    def test_the_first_request_of_the_period_has_the_new_terms_with_no_job_having_run(self, scene: Resetting) -> None:
        account = name_of("u", "m")
        self.scheduled(scene, scene.today.start_ms)
        scene.used(account, 4)
        shard = scene.shard(account)
        assert (
            shard.consume(shard.step(0, charges=(Charge(account.key(shard.number), 7),)))[0].outcome.value == "denied"
        )
        scene.go_to(scene.today.start_ms)
        (reply,) = shard.consume(shard.step(0, charges=(Charge(account.key(shard.number), 70),)))
        assert reply.outcome.value == "unready" and reply.accounts[0].verdict.value == "stale"
        assert scene.bring_in(account) == "provisioned"
        (reply,) = shard.consume(shard.step(0, charges=(Charge(account.key(shard.number), 70),)))
        assert reply.outcome.value == "allowed"
        assert [entry.kind for entry in shard.entries()][-3:] == ["denied", "close", "consume"]

    def test_a_reset_writes_down_that_it_has_come_to_hold_and_who_wanted_it(self, scene: Resetting) -> None:
        self.scheduled(scene, scene.today.start_ms)
        assert scene.reset().run_once().changed == 1
        row = scene.pipeline.rows("SELECT plan, add_ons, changed_by, scheduled, scheduled_at FROM subscriptions")
        assert row == [("pro", {}, "somebody", None, None)]
        assert scene.reset().run_once().changed == 0

    def test_an_idle_account_enters_its_new_period_under_the_new_terms(self, scene: Resetting) -> None:
        account = name_of("u", "m")
        self.scheduled(scene, scene.today.start_ms)
        scene.used(account, 4)
        scene.pipeline.drained()
        scene.settled()
        assert scene.sealed() == [("u", "m", 4, 4, 3, 0)], (
            "of it are the consume, the change that began it, and the close"
        )
        assert scene.hash(account)["window"].split(" ")[2] == "pro"

    def test_a_change_now_takes_away_what_was_scheduled(self, scene: Resetting) -> None:
        self.scheduled(scene, scene.today.end_ms or 0)
        scene.pipeline.call(
            subscriptions.put, "t", "u", Subscription("free", "active", None, {}), By("test"), now_ms=scene.now_ms
        )
        found = scene.pipeline.call(subscriptions.of_subject, "t", "u")
        assert found is not None and found.scheduled is None
