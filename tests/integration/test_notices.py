"""Changes of a subject's terms become entries, each exactly once, whatever dies in between."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ledger import grants, notices, openings, replay_verification, subscriptions
from ledger.acts import By
from quota import protocol
from quota.entitlement import Subscription
from quota.errors import TooMany
from quota.journal import About, Entry
from tests.conftest import Database
from tests.integration.replaying import through
from tests.integration.resetting import Resetting, name_of
from workers.announce import Announcer

ACCOUNT = name_of("u", "m")
BY = By("key_1", "192.0.2.7", "req-1", "they paid")
SAID = About(request_id="req-1", actor="key_1", reason="they paid")


@pytest.fixture
def scene(connection: "redis.Redis", database: Database) -> Iterator[Resetting]:
    with Resetting.on(connection, database) as scene:
        scene.go_to(scene.now_ms)
        yield scene


def put(scene: Resetting, plan: str, status: str = "active", by: By = BY) -> None:
    scene.pipeline.call(subscriptions.put, "t", "u", Subscription(plan, status, None, {}), by, now_ms=scene.now_ms)


def entries(scene: Resetting) -> list[Entry]:
    return scene.shard(ACCOUNT).entries()


def in_ledger(scene: Resetting) -> list[tuple[str, str | None]]:
    query = "SELECT kind, plan FROM entries WHERE metric = 'm' ORDER BY epoch, n"
    return [(kind, plan) for kind, plan in scene.pipeline.rows(query)]


def lose_redis(scene: Resetting) -> None:
    scene.connection.flushall()
    scene.begin(2)
    scene.go_to(scene.now_ms)


def test_a_change_is_an_entry_with_who_what_and_why_under_the_new_plan(scene: Resetting) -> None:
    scene.used(ACCOUNT, 4)
    put(scene, "pro")
    assert scene.bring_in(ACCOUNT) == "provisioned"
    opened = entries(scene)[-1]
    assert (opened.kind, opened.amount, opened.change, opened.used_after) == ("open", 0, 0, 4)
    assert (opened.window.terms.plan, opened.about) == ("pro", SAID)


def test_two_changes_before_a_touch_are_two_entries(scene: Resetting) -> None:
    scene.used(ACCOUNT, 4)
    put(scene, "pro", by=By("a"))
    put(scene, "pro", "paused", by=By("b"))
    scene.bring_in(ACCOUNT)
    assert [(each.kind, each.about.actor) for each in entries(scene)[1:]] == [("open", "a"), ("open", "b")]


def test_a_subscription_that_is_put_again_as_it_was_is_no_entry(scene: Resetting) -> None:
    put(scene, "pro")
    put(scene, "pro")
    scene.bring_in(ACCOUNT)
    assert scene.shard(ACCOUNT).kinds() == ["open"]


def test_however_often_an_account_is_brought_in_each_change_is_written_once(scene: Resetting) -> None:
    put(scene, "pro")
    for _ in range(3):
        assert scene.bring_in(ACCOUNT) == "provisioned"
    scene.pipeline.drained()
    scene.bring_in(ACCOUNT)
    scene.pipeline.drained()
    assert in_ledger(scene) == [("open", "pro")]
    assert scene.pipeline.rows("SELECT count(*) FROM notices WHERE metric = 'm'") == [(0,)]


@pytest.mark.parametrize("is_drained", [True, False])
def test_one_that_redis_lost_is_written_again_and_one_that_the_ledger_has_is_not(
    scene: Resetting, is_drained: bool
) -> None:
    put(scene, "pro")
    scene.bring_in(ACCOUNT)
    if is_drained:
        scene.pipeline.drained()
    lose_redis(scene)
    for _ in range(2):
        assert scene.bring_in(ACCOUNT, epoch=2) == "provisioned"
    scene.pipeline.drained()
    assert in_ledger(scene) == [("open", "pro")]


def test_what_a_gateway_did_not_live_to_tell_becomes_entries_by_the_job(
    scene: Resetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.announce.OLDER_THAN_S", 0.0)
    put(scene, "pro")
    announcer = Announcer(scene.connection, scene.engine)
    announcer.run_once()
    assert [each.kind for each in entries(scene) if each.account == ACCOUNT] == ["open"]
    assert announcer.run_once() == 0, "it waits for the drain before it tells again"
    scene.connection.flushall()
    assert announcer.run_once() == 0
    scene.begin(2)
    scene.pipeline.rows("UPDATE notices SET next_try_at = now() - interval '1 s' RETURNING id")
    announcer.run_once()
    scene.pipeline.drained()
    assert in_ledger(scene) == [("open", "pro")]


def test_what_an_older_drain_left_is_taken_away_and_keeps_nobody_waiting(
    scene: Resetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It books the entries, and does not know of notices."""
    for number in range(notices.MAX_WAITING):
        put(scene, "pro", "active" if number % 2 else "past_due")
    scene.bring_in(ACCOUNT)
    with monkeypatch.context() as older:
        older.setattr("ledger.entries.notices.note_staged", lambda _: None)
        scene.pipeline.drained()
    with pytest.raises(TooMany):
        put(scene, "free")
    monkeypatch.setattr("workers.announce.OLDER_THAN_S", 0.0)
    Announcer(scene.connection, scene.engine).run_once()
    assert scene.pipeline.rows("SELECT count(*) FROM notices WHERE metric = 'm'") == [(0,)]
    scene.pipeline.drained()
    assert len(in_ledger(scene)) == notices.MAX_WAITING
    put(scene, "free")


def test_an_account_has_room_for_so_many_changes_that_the_ledger_has_not_got(scene: Resetting) -> None:
    for number in range(notices.MAX_WAITING):
        put(scene, "pro", "active" if number % 2 else "past_due")
    with pytest.raises(TooMany, match="not in the ledger yet"):
        put(scene, "free")
    found = scene.pipeline.call(subscriptions.of_subject, "t", "u")
    assert found is not None and found.plan == "pro"
    scene.bring_in(ACCOUNT)
    scene.bring_in(name_of("u", "r"))
    assert scene.shard(ACCOUNT).kinds().count("open") == 2 * notices.MAX_WAITING
    scene.pipeline.drained()
    put(scene, "free")


def test_counters_and_ledger_agree_about_accounts_with_changes(scene: Resetting) -> None:
    scene.used(ACCOUNT, 4)
    for plan in ("pro", "free", "pro"):
        put(scene, plan)
        scene.bring_in(ACCOUNT)
        scene.bring_in(name_of("u", "r"))
        scene.used(ACCOUNT, 1)
    scene.pipeline.drained()
    run = scene.pipeline.reconcile().run_once()
    assert (run.drifts, scene.pipeline.incidents()) == ([], [])
    assert through(scene.pipeline, replay_verification.step)[1] == []
    assert scene.hash(ACCOUNT)["state"].split(" ")[0] == "7"


def test_an_account_without_changes_has_no_field_for_them(scene: Resetting) -> None:
    scene.used(ACCOUNT, 4)
    assert set(scene.hash(ACCOUNT)) == {"state", "rule", "window"}
    put(scene, "pro")
    scene.bring_in(ACCOUNT)
    assert set(scene.hash(ACCOUNT)) == {"state", "rule", "window", "newest_notice"}


@pytest.mark.parametrize("kind", ["grant", "gift"])
def test_the_entry_of_a_grant_says_who_gave_it_and_why(scene: Resetting, kind: str) -> None:
    scene.pipeline.call(grants.add, "t", "u", "m", amount=5, priority=0, expires_ms=None, by=BY)
    scene.pipeline.rows("UPDATE grants SET kind = :kind RETURNING id", kind=kind)
    for _ in range(2):
        scene.bring_in(ACCOUNT)
        ((told, amount, about),) = [(each.kind, each.amount, each.about) for each in entries(scene)]
        assert (told, amount, about) == (kind, 5, SAID)
    scene.pipeline.drained()
    assert scene.pipeline.rows("SELECT journalled, kind FROM grants") == [(True, kind)]
    lose_redis(scene)
    scene.bring_in(ACCOUNT, epoch=2)
    assert entries(scene) == []


def test_no_entry_comes_before_the_terms_that_it_tells_of(scene: Resetting, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.used(ACCOUNT, 4)
    of_subjects, is_put = openings.subscriptions.of_subjects, []

    def of_subjects_and_put(*words: Any) -> Any:
        found = of_subjects(*words)
        if not is_put:
            is_put.append(True)
            put(scene, "pro")  # another gateway's, committed between two reads of this one
        return found

    monkeypatch.setattr(openings.subscriptions, "of_subjects", of_subjects_and_put)
    for _ in range(2):
        scene.bring_in(ACCOUNT)
        shard = scene.shard(ACCOUNT)
        shard.run(protocol.publish(shard.number, "t", 1, [ACCOUNT.key(shard.number)]))
    assert [each.window.terms.plan for each in entries(scene) if each.kind == "open"] == ["pro"]
