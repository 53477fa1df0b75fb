"""The end of a period, for those who are not there to see it: swept, sealed and rolled over, once, whoever dies."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ledger import grants, sealing, subscriptions
from ledger.acts import By
from ledger.sealing import Due
from quota.entitlement import Subscription
from quota.keys import AccountName
from quota.periods import DAY_MS
from quota.protocol import Charge, Mode
from tests.conftest import Database
from tests.integration.pipeline import Crashed, crash
from tests.integration.resetting import Resetting, name_of
from workers import reset as module
from workers.bringing_in import BringingIn
from workers.reset import Done, Reset

MANY = {name_of(f"u{place}"): place % 7 + 1 for place in range(12)}


@pytest.fixture
def scene(connection: "redis.Redis", database: Database) -> Iterator[Resetting]:
    with Resetting.on(connection, database) as scene:
        yield scene


def test_idle_accounts_are_swept_and_their_periods_sealed_with_what_their_entries_add_up_to(scene: Resetting) -> None:
    scene.used_yesterday(MANY)
    done = scene.settled()
    assert (done.swept, done.sealed, done.differing) == (len(MANY), len(MANY), 0)
    assert scene.sealed() == sorted((name.subject, "m", used, used, 2, 0) for name, used in MANY.items())
    assert {scene.window(name) for name in MANY} == {scene.today}
    assert {scene.hash(name)["state"].split(" ")[0] for name in MANY} == {"0"}
    assert scene.reset().run_once() == Done()
    assert scene.pipeline.reconcile().run_once().drifted == 0


def test_an_account_that_was_used_again_by_itself_is_sealed_and_not_swept(scene: Resetting) -> None:
    scene.used_yesterday({name_of("u"): 4})
    scene.go_to(scene.now_ms)
    scene.used(name_of("u"), 3)
    scene.pipeline.drained()
    done = scene.reset().run_once()
    assert (done.swept, done.sealed) == (0, 1)
    assert scene.sealed() == [("u", "m", 4, 4, 2, 0)]
    assert scene.hash(name_of("u"))["state"].split(" ")[0] == "3"


def test_a_counter_that_drifted_before_its_period_was_closed_is_an_incident_and_seals_with_the_ledgers_word(
    scene: Resetting,
) -> None:
    account = name_of("u")
    scene.used_yesterday({account: 4})
    used, place = scene.hash(account)["state"].split(" ")
    scene.connection.hset(account.key(scene.shard(account).number), "state", f"{int(used) + 2} {place}")
    assert scene.settled().differing == 1
    assert scene.sealed() == [("u", "m", 4, 6, 2, 0)]
    (incident,) = [each for each in scene.pipeline.incidents() if each[1] == "seal"]
    assert (incident[2]["used"], incident[2]["stated"]) == (4, 6)


def test_a_period_that_ended_while_redis_was_lost_is_closed_and_sealed(scene: Resetting) -> None:
    scene.used_yesterday(MANY)
    scene.connection.flushall()
    scene.begin(2)
    done = scene.settled()
    assert (done.sealed, done.differing) == (len(MANY), 0)
    assert [row[2] for row in scene.sealed()] == [row[3] for row in scene.sealed()]
    assert {scene.window(name) for name in MANY} == {scene.today}


def test_shards_whose_epoch_is_about_to_begin_are_left_alone(scene: Resetting) -> None:
    scene.used_yesterday(MANY)
    scene.connection.flushall()
    assert scene.reset().run_once() == Done(due=len(MANY), waiting=len(MANY))
    assert not scene.connection.keys("*")


def test_a_window_that_was_cut_short_has_handed_its_units_on_and_is_not_sealed(scene: Resetting) -> None:
    account = name_of("u", "r")
    scene.used_yesterday({account: 4})
    scene.pipeline.call(
        subscriptions.put, "t", "u", Subscription("pro", "active", None, {}), By("test"), now_ms=scene.now_ms
    )
    assert scene.bring_in(account) == "provisioned"
    scene.pipeline.drained()
    assert scene.window(account).kind == "month"
    done = scene.settled()
    assert (done.sealed, scene.sealed()) == (0, [])
    assert scene.pipeline.rows("SELECT used, is_sealed FROM balances ORDER BY period_kind") == [(0, True), (4, False)]
    assert scene.reset().run_once() == Done()


def test_what_is_left_rolls_over_up_to_its_bound_and_ends_with_the_next_period(scene: Resetting) -> None:
    scene.used_yesterday({name_of("idle", "r"): 0, name_of("little", "r"): 7, name_of("much", "r"): 10})
    done = scene.settled()
    assert (done.sealed, done.rolled) == (3, 6 + 3)
    assert [row[5] for row in scene.sealed()] == [6, 3, 0]
    assert scene.grants() == [("idle", 6, "reset"), ("little", 3, "reset")]
    ends = scene.pipeline.rows("SELECT DISTINCT extract(epoch FROM expires_at) * 1000 FROM grants")
    assert [int(end[0]) for end in ends] == [scene.today.end_ms]
    assert scene.pipeline.rows("SELECT count(*) FROM announcements WHERE subject IS NOT NULL") == [(0,)], (
        "Redis has heard of them"
    )
    shard = scene.shard(name_of("little", "r"), is_clocked=False)
    charge = Charge(name_of("little", "r").key(shard.number), 13)
    assert shard.consume(shard.step(0, charges=(charge,)))[0].outcome.value == "allowed"


def test_without_a_subscription_nothing_rolls_over_and_a_made_up_name_is_opened_nowhere(scene: Resetting) -> None:
    account = name_of("made_up", "r")
    assert scene.bring_in(account) == "provisioned"
    assert scene.pipeline.drained() == 0
    assert "rollover" not in scene.hash(account)


def test_units_that_rolled_over_are_of_the_closing_balance_and_do_not_roll_over_again(scene: Resetting) -> None:
    account = name_of("u", "r")
    scene.go_to(scene.yesterday.start_ms - DAY_MS)
    scene.used_yesterday({account: 5})
    scene.go_to(scene.yesterday.start_ms + 1)
    assert scene.bring_in(account) == "provisioned"
    scene.pipeline.drained()
    due = scene.pipeline.call(sealing.due_after, sealing.FIRST, scene.yesterday.start_ms + 1, 10)
    (sealed,) = scene.pipeline.call(sealing.seal, due, scene.yesterday.start_ms + 1)
    assert sealed.rolled_over == 5
    scene.used(account, 12)
    scene.pipeline.drained()
    done = scene.settled()
    assert (done.sealed, done.differing) == (1, 0)
    assert [(row[2], row[5]) for row in scene.sealed()] == [(5, 5), (12, 0)]
    assert scene.hash(account).get("grants", "") == "", "the rest of it has ended with the period"


def test_nothing_rolls_over_from_a_plan_without_it_and_nothing_once_the_plan_is_gone(scene: Resetting) -> None:
    account = name_of("u", "r")
    scene.used_yesterday({account: 2})
    scene.pipeline.call(
        subscriptions.put, "t", "u", Subscription("pro", "active", None, {}), By("test"), now_ms=scene.now_ms
    )
    scene.connection.hset(account.key(scene.shard(account).number), "rule", _outdated(scene, account))
    done = scene.settled()
    assert done.rolled == 8 - 2  # the period that is over was one of the plan with it
    assert "rollover" not in scene.hash(account)


def _outdated(scene: Resetting, account: AccountName) -> str:
    epoch, _, *others = scene.hash(account)["rule"].split(" ")
    return " ".join([epoch, "-1", *others])


@pytest.mark.parametrize(
    "where",
    [(Reset, "_book"), (BringingIn, "bring_in"), (sealing, "_write"), (grants, "note_swept"), (Reset, "_sweep")],
    ids=lambda where: where[1],
)
def test_whoever_is_killed_has_left_to_the_next_run_what_was_not_done_and_nothing_is_done_twice(
    scene: Resetting, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    scene.used_yesterday({name_of(f"u{place}", "r"): place for place in range(8)})
    reset = scene.reset()
    if where != (Reset, "_sweep"):
        reset.run_once()
        scene.pipeline.drained()
    with monkeypatch.context() as killing:
        killing.setattr(*where, crash)
        with pytest.raises(Crashed):
            reset.run_once()
    scene.settled()
    wanted = [(f"u{place}", min(6, 10 - place)) for place in range(8)]
    assert [(subject, amount) for subject, amount, _ in scene.grants()] == wanted
    assert [(row[0], row[5]) for row in scene.sealed()] == wanted
    assert scene.pipeline.reconcile().run_once().drifted == 0


def test_several_at_once_seal_each_period_once_and_give_one_grant(scene: Resetting) -> None:
    scene.used_yesterday({name_of(f"u{place}", "r"): 4 for place in range(40)})
    scene.reset().run_once()
    scene.pipeline.drained()
    resets, begun = [scene.reset() for _ in range(4)], threading.Barrier(4)
    done: list[Done] = []

    def run(reset: Reset) -> None:
        begun.wait(10)
        done.append(reset.run_once())

    threads = [threading.Thread(target=run, args=(reset,)) for reset in resets]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert sum(each.sealed for each in done) == len(scene.sealed()) == len(scene.grants()) == 40


def test_what_cannot_be_sealed_yet_does_not_keep_it_from_the_others(
    scene: Resetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 3)
    scene.used_yesterday(MANY)
    stuck = {name for name in MANY if scene.shard(name).number == scene.shard(next(iter(MANY))).number}
    scene.connection.delete(f"qg:{{{scene.shard(next(iter(stuck))).number}}}:h")
    reset = scene.reset()
    for _ in range(4):
        reset.run_once()
        scene.pipeline.drained()
    assert {row[0] for row in scene.sealed()} == {name.subject for name in MANY.keys() - stuck}
    assert {due.account for due in _due(scene)} == stuck


def _due(scene: Resetting) -> list[Due]:
    return scene.pipeline.call(sealing.due_after, sealing.FIRST, scene.now_ms, 100)


class TestGrants:
    def given(self, scene: Resetting, account: AccountName, amount: int, used: int) -> None:
        scene.pipeline.call(
            grants.add,
            account.tenant,
            account.subject,
            account.metric,
            amount=amount,
            priority=0,
            expires_ms=scene.now_ms - 60_000,
            by=By("k", reason="r"),
        )
        scene.used(account, used)
        scene.pipeline.drained()

    def test_one_that_has_expired_is_let_go_though_nobody_looks(self, scene: Resetting) -> None:
        account = name_of("u", "m")
        scene.go_to(scene.now_ms - 120_000)
        self.given(scene, account, amount=5, used=2)
        assert "grants" in scene.hash(account)
        assert scene.settled().expired == 1
        assert scene.pipeline.rows("SELECT expiry_journalled, is_swept FROM grants") == [(True, True)]
        assert "grants" not in scene.hash(account)

    def test_one_that_was_used_up_is_looked_at_once(self, scene: Resetting) -> None:
        self.given(scene, name_of("u", "m"), amount=5, used=15)
        scene.settled()
        assert scene.pipeline.rows("SELECT is_swept FROM grants") == [(True,)]
        assert scene.reset().run_once() == Done()

    def test_one_that_redis_never_heard_of_is_noted_as_over(self, scene: Resetting) -> None:
        scene.pipeline.call(grants.add, "t", "u", "m", amount=5, priority=0, expires_ms=1, by=By("k", reason="r"))
        assert scene.reset().run_once().expired == 1


def test_a_hold_whose_time_is_over_is_let_go_though_nobody_asks(scene: Resetting) -> None:
    account = name_of("u")
    scene.used(account, 1)
    shard = scene.shard(account)
    charge = Charge(account.key(shard.number), 3, "60000")
    assert shard.consume(shard.step(0, mode=Mode.HOLD, charges=(charge,)))[0].outcome.value == "allowed"
    scene.pipeline.drained()
    assert scene.reset().run_once().released == 1
    scene.pipeline.drained()
    assert scene.pipeline.rows("SELECT settled_by FROM holds") == [("expire",)]
    assert scene.reset().run_once().released == 0
