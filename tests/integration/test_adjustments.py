"""What is booked into a period after its end, by whichever way it comes, is an adjustment with a line of its own."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ledger import replay_verification, sealed_reports
from ledger.reports import Wanted
from quota.formats import Terms, Window, detail_of_charge
from quota.keys import AccountName
from quota.periods import PeriodKind
from quota.protocol import Charge, Mode
from tests.conftest import Database
from tests.integration.resetting import Resetting, name_of


@pytest.fixture
def scene(connection: "redis.Redis", database: Database) -> Iterator[Resetting]:
    with Resetting.on(connection, database) as scene:
        yield scene


def let_through_yesterday(scene: Resetting, account: AccountName, amount: int) -> None:
    """In an outage, and charged today."""
    charged_today(scene, account, amount)
    scene.pipeline.drained()


def charged_today(scene: Resetting, account: AccountName, amount: int) -> None:
    shard = scene.shard(account, is_clocked=False)
    at_ms = (scene.yesterday.end_ms or 0) - 5_000
    detail = detail_of_charge(at_ms, Window(scene.yesterday, Terms("free", PeriodKind.DAY, None, ())))
    charge = Charge(account.key(shard.number), amount, detail)
    (reply,) = shard.consume(shard.step(0, mode=Mode.CHARGE, charges=(charge,)))
    assert reply.outcome.value == "allowed"


def gone_back_behind_the_close(scene: Resetting, account: AccountName) -> None:
    """Nine units are sealed, of which Redis knows four; it goes on at a place that the ledger has passed."""
    scene.used(account, 4)
    scene.pipeline.drained()
    kept = {name: scene.connection.dump(name) for name in scene.connection.scan_iter()}
    for _ in range(5):
        scene.used(account, 1)
    scene.pipeline.drained()
    scene.settled()
    assert told(scene) == [(9, 9, [])]
    scene.connection.flushall()
    for name, value in kept.items():
        scene.connection.restore(name, 0, value, replace=True)
    scene.go_to(scene.now_ms)
    assert scene.bring_in(account) == "provisioned"


def told(scene: Resetting) -> list[tuple[int, int | None, list[int]]]:
    """Of each sealed period what was used, what the counters said, and its adjustments."""
    piece = scene.pipeline.call(sealed_reports.sealed_periods_after, Wanted("t"), None, 10)
    found = []
    for each in piece.rows:
        changes = [late.change for late in each.adjustments]
        assert (each.row.late_entries, each.row.late_change) == (len(changes), sum(changes))
        found.append((each.row.used, each.row.stated, changes))
    return found


def sealed_differences(scene: Resetting) -> list[Any]:
    cursor, found = None, []
    while True:
        step = replay_verification.step(scene.engine, {}, cursor)
        found += [each for each in step.found if each["what"] in {"sealed", "balance"}]
        cursor = step.cursor
        if step.result is not None:
            return found


def test_an_account_that_had_nothing_else_in_its_period_is_sealed_with_nothing_and_adjusted(scene: Resetting) -> None:
    account = name_of("u")
    scene.go_to(scene.now_ms)
    scene.used(account, 1)
    let_through_yesterday(scene, account, 3)
    done = scene.settled()
    assert (done.sealed, done.differing, scene.pipeline.incidents()) == (1, 0, [])
    assert told(scene) == [(0, None, [3])]
    assert sealed_differences(scene) == []


def test_one_at_a_place_that_redis_gave_out_again_is_told_though_the_close_has_a_later_one(scene: Resetting) -> None:
    account = name_of("u")
    gone_back_behind_the_close(scene, account)
    let_through_yesterday(scene, account, 3)
    assert told(scene) == [(9, 9, [3])]
    assert sealed_differences(scene) == []


def test_the_balance_after_each_has_itself_in_it_though_the_ledger_has_passed_its_place(scene: Resetting) -> None:
    account = name_of("u")
    gone_back_behind_the_close(scene, account)
    for amount in (3, 20):
        charged_today(scene, account, amount)
    scene.pipeline.drained()
    assert scene.pipeline.rows("SELECT change, used_after FROM entries WHERE is_late ORDER BY n") == [(3, 12), (20, 32)]
