"""What an account is opened with: which of the ledger's balances is carried into which window."""

from dataclasses import replace
from typing import Any

from ledger.accounts import Balance
from ledger.grants import Granted
from ledger.openings import Reading, opening
from quota.catalog import Catalog, Limit, Metric, Plan
from quota.entitlement import Subscription
from quota.formats import CapState, GrantState
from quota.journal import Place
from quota.keys import AccountName
from quota.periods import PeriodKind, period_at

NOW_MS = 1_795_000_000_000
ACCOUNT = AccountName("t", "u", "m")
CATALOG = Catalog(
    metrics={"m": Metric()},
    plans={
        "monthly": Plan(rank=0, limits={"m": Limit(limit=10, period="month")}),
        "daily": Plan(rank=1, limits={"m": Limit(limit=20, period="day")}),
        "capped": Plan(rank=2, limits={"m": Limit(limit=20, period="month", caps={"day": 3, "week": 9})}),
    },
)
MONTH, WEEK, DAY = (period_at(kind, NOW_MS) for kind in (PeriodKind.MONTH, PeriodKind.WEEK, PeriodKind.DAY))


def reading(plan: str | None, *balances: Balance, **known: Any) -> Reading:
    """`known` is what Postgres says of ACCOUNT: cap_spent, grants, holds, seals."""
    subscribed = {} if plan is None else {("t", "u"): Subscription(plan, "active", None, {})}
    by_account = {name: {ACCOUNT: value} for name, value in known.items()}
    return Reading({"t": (3, CATALOG)}, subscribed, {ACCOUNT: list(balances)}, **by_account)


def test_the_balance_of_the_window_that_holds_is_taken_as_it_is() -> None:
    found = opening(ACCOUNT, NOW_MS, reading("monthly", Balance(MONTH, "monthly", 7, Place(1, 4))))
    assert (found.period, found.used, found.entry, found.cut) == (MONTH, 7, "1-4", None)


def test_nothing_that_is_known_opens_at_zero() -> None:
    found = opening(ACCOUNT, NOW_MS, reading("monthly"))
    assert (found.period, found.used, found.entry, found.cut, found.ttl_ms) == (MONTH, 0, "-", None, 0)


def test_units_of_another_running_window_are_moved_here() -> None:
    found = opening(ACCOUNT, NOW_MS, reading("daily", Balance(MONTH, "monthly", 7, Place(1, 4))))
    assert (found.period, found.used) == (DAY, 7)
    assert found.cut is not None
    assert found.cut.period == MONTH


def test_units_come_back_with_a_plan_that_comes_back() -> None:
    """Month, then day (the month handed its units on and stands at 0), then Redis is lost, then month again."""
    known = (Balance(DAY, "daily", 7, Place(1, 6)), Balance(MONTH, "monthly", 0, Place(1, 5)))
    found = opening(ACCOUNT, NOW_MS, reading("monthly", *known))
    assert (found.period, found.used) == (MONTH, 7)
    assert found.cut is not None
    assert found.cut.period == DAY


def test_without_a_plan_the_window_that_runs_is_kept_and_the_note_expires() -> None:
    found = opening(ACCOUNT, NOW_MS, reading(None, Balance(MONTH, "monthly", 7, Place(1, 4))))
    assert (found.entitlement.plan, found.entitlement.limit, found.period, found.used) == (None, 0, MONTH, 7)
    assert found.keeps_window
    assert found.ttl_ms > 0


def test_the_window_that_was_cut_keeps_the_plan_that_it_ran_on() -> None:
    found = opening(ACCOUNT, NOW_MS, reading("daily", Balance(MONTH, "monthly", 7, Place(1, 4))))
    assert str(found.cut) == f"{MONTH.start_ms} {MONTH.end_ms} monthly month - -"


def test_each_cap_opens_with_what_its_own_window_has_spent() -> None:
    yesterday = ("day", DAY.start_ms - 1)
    spent = {("day", DAY.start_ms): 2, yesterday: 3, ("week", WEEK.start_ms): 5, ("month", MONTH.start_ms): 7}
    found = opening(ACCOUNT, NOW_MS, reading("capped", Balance(MONTH, "capped", 7, Place(1, 4)), cap_spent=spent))
    assert found.caps == (CapState(DAY, 3, 2), CapState(WEEK, 9, 5))


def test_a_cap_of_which_nobody_knows_anything_opens_at_zero() -> None:
    found = opening(ACCOUNT, NOW_MS, reading("capped"))
    assert found.caps == (CapState(DAY, 3, 0), CapState(WEEK, 9, 0))
    assert opening(ACCOUNT, NOW_MS, reading("monthly", cap_spent={("day", DAY.start_ms): 2})).caps == ()


def test_grants_come_in_the_order_of_their_use_with_what_this_period_took_of_them() -> None:
    taken = {("month", MONTH.start_ms): 4, ("day", DAY.start_ms): 9}
    known = [Granted(8, -1, NOW_MS + 1, 5, taken, journalled=True), Granted(9, 0, None, 6)]
    found = opening(ACCOUNT, NOW_MS, reading("monthly", Balance(MONTH, "monthly", 14, Place(1, 4)), grants=known))
    assert found.grants == (GrantState(8, -1, NOW_MS + 1, 5, 4), GrantState(9, 0, None, 6, 0))


def test_what_a_cut_window_took_of_a_grant_moves_with_its_units() -> None:
    known = [Granted(8, 0, None, 5, {("month", MONTH.start_ms): 4}, journalled=True)]
    found = opening(ACCOUNT, NOW_MS, reading("daily", Balance(MONTH, "monthly", 14, Place(1, 4)), grants=known))
    assert (found.period, found.grants) == (DAY, (GrantState(8, 0, None, 5, 4),))


def test_only_a_grant_that_redis_has_not_heard_of_is_told_as_new() -> None:
    known = [Granted(9, 0, None, 1, journalled=True), Granted(11, 1, None, 1), Granted(7, 2, None, 1, journalled=True)]
    assert opening(ACCOUNT, NOW_MS, reading("monthly", grants=known)).journalled_grant == 9
    assert opening(ACCOUNT, NOW_MS, reading("monthly", grants=known[1:2])).journalled_grant == 0


def test_open_holds_and_the_last_seal_come_along_as_they_are() -> None:
    holds = {"1-7": f"5 {NOW_MS} 5 -", "1-9": f"3 {NOW_MS} 0,8:0:-:3 day:0"}
    found = opening(ACCOUNT, NOW_MS, reading("monthly", holds=holds, seals=Place(1, 6)))
    assert (found.holds, found.seal) == (holds, "1-6")
    assert (opening(ACCOUNT, NOW_MS, reading("monthly")).holds, found.entry) == ({}, "-")
    assert opening(ACCOUNT, NOW_MS, reading("monthly")).seal is None


def test_what_is_known_of_another_account_is_left_out() -> None:
    other = AccountName("t", "u2", "m")
    found = opening(other, NOW_MS, reading("capped", Balance(MONTH, "capped", 7, Place(1, 4)), seals=Place(1, 1)))
    assert (found.used, found.seal, found.entitlement.plan, found.keeps_window) == (0, None, None, True)


def test_a_metric_that_has_left_the_catalog_keeps_what_was_used_and_gives_no_more() -> None:
    gone = AccountName("t", "u", "gone")
    known = replace(reading("monthly"), balances={gone: [Balance(MONTH, "monthly", 7, Place(1, 4))]})
    found = opening(gone, NOW_MS, known)
    assert (found.used, found.period, found.entitlement.plan, found.entitlement.limit) == (7, MONTH, None, 0)
    assert found.keeps_window
