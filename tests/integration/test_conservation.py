"""After any mix of traffic the ledger knows what Redis knows, to the unit, and can make it again."""

from unittest.mock import patch

import pytest

from ledger import accounts, grants, holds
from ledger.store import ALL_TENANTS, transaction
from quota.formats import CapState, parsed_parts
from quota.keys import AccountName
from tests.integration.pipeline import Pipeline
from tests.integration.traffic import COUNTED, GRANTED, Traffic

ACCOUNT = "tenant, subject, metric, period_kind, period_start"
STEPS = 200
SEEDS = 3


def assert_balances_are_the_sums(pipeline: Pipeline) -> None:
    sums = f"SELECT {ACCOUNT}, sum(change)::bigint, max((epoch, n)) FROM entries GROUP BY {ACCOUNT} ORDER BY {ACCOUNT}"
    found = f"SELECT {ACCOUNT}, used, (epoch, n) FROM balances ORDER BY {ACCOUNT}"
    assert pipeline.rows(found) == pipeline.rows(sums)


def assert_each_balance_follows_from_the_one_before(pipeline: Pipeline) -> None:
    """Of late entries too, whose balance the drain works out."""
    wrong = f"""
        SELECT * FROM (
            SELECT shard, epoch, n, kind, change, used_after, coalesce(lag(used_after) OVER w, 0) AS used_before
            FROM entries WINDOW w AS (PARTITION BY {ACCOUNT} ORDER BY epoch, n)
        ) AS statement WHERE used_before + change <> used_after
    """
    assert pipeline.rows(wrong) == []


def window_of(fields: dict[str, str]) -> tuple[str, int]:
    words = fields["window"].split(" ")
    return words[3], int(words[0])


def holds_of(fields: dict[str, str]) -> dict[str, str]:
    return {name[2:]: text for name, text in fields.items() if name.startswith("h:")}


def assert_nothing_drifts(traffic: Traffic) -> None:
    # By the clock of the traffic: what has expired by it is no difference.
    with patch.object(traffic.pipeline.journal, "now_ms", traffic.shard.now_ms):
        run = traffic.pipeline.reconcile().run_once()
    assert (run.accounts, run.drifts, traffic.pipeline.incidents()) == (5, [], [])


def assert_capped_windows_have_used_what_is_spent_and_not_held(traffic: Traffic) -> None:
    for metric in ("capped", "unlimited"):
        account, fields = AccountName("t", "u", metric), traffic.shard.account(metric)
        with transaction(traffic.pipeline.engine, ALL_TENANTS) as connection:
            spent = accounts.cap_spent(connection, [account], traffic.shard.now_ms()).get(account, {})
        held = [text.split(" ") for text in holds_of(fields).values()]
        for cap in map(CapState.parsed, fields["caps"].split(";")):
            window = f"{cap.period.kind}:{cap.period.start_ms}"
            only_held = sum(int(words[0]) for words in held if window in words[3].split(","))
            assert cap.spent - only_held == spent.get((cap.period.kind, cap.period.start_ms), 0), (metric, window)


def assert_grants_have_left_and_taken_what_redis_says(traffic: Traffic) -> None:
    for metric in GRANTED:
        account, fields = AccountName("t", "u", metric), traffic.shard.account(metric)
        with transaction(traffic.pipeline.engine, ALL_TENANTS) as connection:
            of_account = grants.of_accounts(connection, [account], traffic.shard.now_ms()).get(account, [])
        parts = [part for text in holds_of(fields).values() for part in parsed_parts(text.split(" ")[2])]
        in_ledger = [
            (
                each.id,
                each.left - sum(part.units for part in parts if part.grant == each.id),
                each.taken.get(window_of(fields), 0),
            )
            for each in of_account
        ]
        words = [text.split(" ") for text in fields.get("grants", "").split(";") if text]
        in_redis = [(int(each[0]), int(each[3]), int(each[4])) for each in words]
        assert [each for each in in_ledger if any(each[1:])] == [each for each in in_redis if any(each[1:])]
        assert all(each.journalled for each in of_account)


def assert_the_open_holds_are_those_of_redis(traffic: Traffic) -> None:
    for metric in COUNTED:
        account = AccountName("t", "u", metric)
        with transaction(traffic.pipeline.engine, ALL_TENANTS) as connection:
            found = holds.open_of(connection, [account]).get(account, {})
        assert found == holds_of(traffic.shard.account(metric))


def assert_the_ledger_knows_all_that_redis_knows(traffic: Traffic) -> None:
    assert_balances_are_the_sums(traffic.pipeline)
    assert_each_balance_follows_from_the_one_before(traffic.pipeline)
    assert_nothing_drifts(traffic)
    assert_capped_windows_have_used_what_is_spent_and_not_held(traffic)
    assert_grants_have_left_and_taken_what_redis_says(traffic)
    assert_the_open_holds_are_those_of_redis(traffic)


def remembered(fields: dict[str, str]) -> dict[str, object]:
    """What must not be lost of an account: all but its places, its warnings and the denials of the last minute."""
    grants_in_use = [text for text in fields.get("grants", "").split(";") if text and not text.endswith(" 0 0 0")]
    return {
        "used": fields["state"].split(" ")[0],
        "window": window_of(fields),
        "held": fields.get("held", "").split(" ")[:2],  # the third is a bound
        "caps": fields.get("caps"),
        "grants": grants_in_use,
        "holds": holds_of(fields),
    }


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_any_traffic_the_ledger_knows_what_redis_knows_and_makes_it_again_when_it_is_lost(
    pipeline: Pipeline, seed: int
) -> None:
    traffic = Traffic(pipeline, seed)
    for _ in range(2):
        traffic.go_on(STEPS)
        traffic.settle()
        assert_the_ledger_knows_all_that_redis_knows(traffic)
        before = {metric: remembered(traffic.shard.account(metric)) for metric in traffic.offers}
        traffic.lose_redis()
        assert {metric: remembered(traffic.shard.account(metric)) for metric in traffic.offers} == before
    traffic.settle()
    assert_the_ledger_knows_all_that_redis_knows(traffic)
    kinds = {kind for (kind,) in pipeline.rows("SELECT DISTINCT kind FROM entries")}
    assert {
        "consume",
        "hold",
        "commit",
        "refund",
        "release",
        "grant",
        "expire",
        "open",
        "close",
        "set",
        "correct",
        "gift",
    } <= kinds
    assert pipeline.rows("SELECT count(*) > 0 FROM entries WHERE is_late") == [(True,)]
