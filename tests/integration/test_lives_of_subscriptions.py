"""The life of a subscription on real stores: what each status gives, what ends by itself, and what is kept."""

from collections.abc import Iterator
from itertools import permutations

import pytest
import redis

from ledger import overrides, subscriptions
from ledger.acts import By
from quota.entitlement import STATUSES_IN_FORCE, SUBSCRIPTION_STATUSES, Override, Subscription
from quota.protocol import Charge, Mode
from quota.replies import AccountState
from tests.conftest import Database
from tests.integration.resetting import Resetting, name_of
from workers.announce import Announcer
from workers.reset import CHANGES_PAGE

CATALOG = """
default_plan = "free"
past_due_grace_days = 3
[metrics.m]
[metrics.n]
[plans.free]
limits.m = { limit = 10, period = "year" }
[plans.pro]
rank = 1
limits.m = { limit = 100, period = "year" }
"""
ACCOUNT = name_of("u", "m")
DAY_MS = 86_400_000


@pytest.fixture
def scene(request: pytest.FixtureRequest, connection: "redis.Redis", database: Database) -> Iterator[Resetting]:
    catalog = getattr(request, "param", CATALOG)
    with Resetting.on(connection, database, catalog) as scene:
        scene.go_to(scene.now_ms)
        yield scene


def put(scene: Resetting, plan: str, status: str = "active", until_ms: int | None = None, grace: bool = False) -> None:
    subscription = Subscription(plan, status, None, {}, status_until_ms=until_ms)
    now_ms = scene.pipeline.clocked.now_ms()
    scene.pipeline.call(subscriptions.write, "t", "u", subscription, By("somebody"), now_ms=now_ms, has_grace=grace)
    assert scene.bring_in(ACCOUNT) == "provisioned"


def standing(scene: Resetting) -> AccountState:
    """As the next request finds the account, brought in where its terms had ended."""
    shard = scene.shard(ACCOUNT)
    step = shard.step(0, mode=Mode.CHECK, charges=(Charge(ACCOUNT.key(shard.number), 0),))
    (reply,) = shard.consume(step)
    if reply.outcome.value == "unready":
        assert scene.bring_in(ACCOUNT) == "provisioned"
        (reply,) = shard.consume(step)
    return reply.accounts[0]


def plan_of(scene: Resetting) -> tuple[str | None, int | None, int]:
    found = standing(scene)
    return found.window.terms.plan, found.limit, found.used


def consumed(scene: Resetting, amount: int) -> bool:
    shard = scene.shard(ACCOUNT)
    (reply,) = shard.consume(shard.step(0, charges=(Charge(ACCOUNT.key(shard.number), amount),)))
    return reply.outcome.value == "allowed"


def acts_of(scene: Resetting) -> list[tuple[str, str]]:
    return [(act, actor) for act, actor in scene.pipeline.rows("SELECT act, actor FROM acts ORDER BY id")][1:]


def words_of(scene: Resetting) -> list[str]:
    """Of the entries that tell of changes: the status, or what became of the override."""
    return [
        str(each.detail).split(":")[2]
        for each in scene.shard(ACCOUNT).entries()
        if each.kind in {"open", "override"} and each.account == ACCOUNT and each.detail
    ]


@pytest.mark.parametrize(
    "scene", [CATALOG, CATALOG.replace('default_plan = "free"', "")], ids=["default", "without"], indirect=True
)
def test_each_status_gives_its_plan_and_keeps_what_was_used_whichever_it_was_before(scene: Resetting) -> None:
    default = ("free", 10) if plan_of_default(scene) else (None, 0)
    gives = {status: ("pro", 100) if status in STATUSES_IN_FORCE else default for status in SUBSCRIPTION_STATUSES}
    used, told = 0, []
    for statuses in permutations(SUBSCRIPTION_STATUSES, 2):
        for status in statuses:
            put(scene, "pro", status)
            told += [status] if told[-1:] != [status] else []
            assert plan_of(scene) == (*gives[status], used), statuses
            plan, limit = gives[status]
            assert consumed(scene, 1) == (plan is not None and used < limit), statuses
            used += plan is not None and used < limit
    assert used > 10, "more than the default plan gives"
    assert words_of(scene) == told


def plan_of_default(scene: Resetting) -> str | None:
    (document,) = scene.pipeline.rows("SELECT document ->> 'default_plan' FROM catalogs")[0]
    return document


@pytest.mark.parametrize("status", ["past_due", "trialing"])
def test_a_status_that_ends_gives_the_default_plan_from_its_instant_with_no_job_having_run(
    scene: Resetting, status: str
) -> None:
    until_ms = scene.now_ms + 5_000
    put(scene, "pro", status, until_ms)
    assert consumed(scene, 40)
    scene.go_to(until_ms - 1)
    assert plan_of(scene) == ("pro", 100, 40)
    scene.go_to(until_ms)
    assert not consumed(scene, 1)
    assert plan_of(scene) == ("free", 10, 40)
    put(scene, "pro")
    assert plan_of(scene) == ("pro", 100, 40)
    assert words_of(scene) == [status, "lapsed", "active"], "who pays after all has both in the ledger, in their order"
    assert acts_of(scene)[1:] == [("subscription.lapsed", "somebody"), ("subscription.written", "somebody")]


def test_what_lapses_and_what_ends_is_written_down_once_by_the_reset(scene: Resetting) -> None:
    now_ms = scene.now_ms
    scene.go_to(now_ms - 60_000)
    put(scene, "pro", "past_due", now_ms - 30_000)
    override = Override(55, now_ms - 20_000)
    by = By("somebody", reason="a pilot")
    scene.pipeline.call(overrides.set_limit, ACCOUNT, override, by, now_ms - 60_000)
    scene.bring_in(ACCOUNT)
    assert plan_of(scene) == ("pro", 55, 0)
    scene.go_to(now_ms)
    reset = scene.reset()
    assert [reset.run_once().changed for _ in range(3)] == [1, 0, 0]
    expected = ["subscription.written", "override.set", "subscription.lapsed", "override.expired"]
    assert acts_of(scene) == [(act, "somebody") for act in expected]
    assert words_of(scene) == ["past_due", "limit", "lapsed", "ended"]
    assert plan_of(scene) == ("free", 10, 0)


def test_what_was_scheduled_is_an_act_and_an_entry_of_whoever_scheduled_it(scene: Resetting) -> None:
    put(scene, "pro")
    assert consumed(scene, 40)
    by, at_ms = By("planner", "192.0.2.1", "req-9", "too dear"), scene.now_ms - 1
    words = {"end_of": lambda _: at_ms, "now_ms": at_ms - 1000}
    scene.pipeline.call(subscriptions.schedule, "t", "u", Subscription("free", "active", None, {}), by=by, **words)
    scene.reset().run_once()
    Announcer(scene.connection, scene.engine).run_once()
    row = scene.pipeline.rows(
        "SELECT actor, origin, request_id, reason, before ->> 'plan', after ->> 'plan' FROM acts "
        "WHERE act = 'subscription.changed'"
    )
    assert row == [("planner", "192.0.2.1", "req-9", "too dear", "pro", "free")]
    told = scene.shard(ACCOUNT).entries()[-1]
    assert (told.kind, told.about.actor, told.about.reason) == ("open", "planner", "too dear")
    assert plan_of(scene) == ("free", 10, 40)


def test_a_downgrade_below_what_was_used_takes_nothing_away_and_lets_nothing_more_through(scene: Resetting) -> None:
    put(scene, "pro")
    assert consumed(scene, 40)
    put(scene, "free")
    assert plan_of(scene) == ("free", 10, 40)
    assert not consumed(scene, 1)
    put(scene, "pro")
    assert consumed(scene, 60)
    assert not consumed(scene, 1)


def test_past_due_gets_the_catalogs_grace_and_keeps_its_first_end(scene: Resetting) -> None:
    def until() -> int | None:
        found = scene.pipeline.call(subscriptions.of_subject, "t", "u")
        assert found is not None
        return found.status_until_ms

    put(scene, "pro", "past_due", grace=True)
    first_ms = until()
    assert first_ms == scene.now_ms + 3 * DAY_MS
    scene.go_to(scene.now_ms + DAY_MS)
    put(scene, "pro", "past_due", grace=True)
    assert until() == first_ms
    scene.go_to(scene.now_ms + 4 * DAY_MS)
    put(scene, "pro", "past_due", grace=True)
    assert (until(), plan_of(scene)) == (first_ms, ("free", 10, 0))
    put(scene, "pro", grace=True)
    assert until() is None
    put(scene, "pro", "past_due", grace=True)
    assert until() == scene.now_ms + 7 * DAY_MS


def test_an_override_holds_until_its_very_instant(scene: Resetting) -> None:
    put(scene, "pro")
    until_ms = scene.now_ms + 5_000
    by = By("somebody", reason="a pilot")
    scene.pipeline.call(overrides.set_limit, ACCOUNT, Override(200, until_ms), by, scene.now_ms)
    scene.bring_in(ACCOUNT)
    assert consumed(scene, 150)
    scene.go_to(until_ms - 1)
    assert plan_of(scene) == ("pro", 200, 150)
    scene.go_to(until_ms)
    assert not consumed(scene, 1)
    assert plan_of(scene) == ("pro", 100, 150)
    told = [each for each in scene.shard(ACCOUNT).entries() if each.kind == "override"]
    assert [(each.amount, each.change, each.about.reason) for each in told] == [(200, 0, "a pilot")]


def test_an_end_that_was_left_on_a_status_which_has_none_keeps_nobody_waiting(scene: Resetting) -> None:
    rows = f"""
        INSERT INTO subscriptions (tenant, subject, plan, status, changed_by, status_until)
        SELECT 't', 'old' || i, 'pro', 'active', 'an older gateway', now() - interval '2 days'
        FROM generate_series(1, {CHANGES_PAGE}) i
        UNION ALL SELECT 't', 'u', 'pro', 'past_due', 'k', now() - interval '1 day' RETURNING 1
    """
    scene.pipeline.rows(rows)
    assert scene.reset().run_once().changed == 1
    assert scene.pipeline.rows("SELECT has_lapsed FROM subscriptions WHERE subject = 'u'") == [(True,)]
    assert scene.reset().run_once().changed == 0
