"""What a reply of the counters means, which window a charge ran into, and what a plan would have to allow."""

from dataclasses import replace
from typing import Any

import pytest

from quota.decisions import Bound, charged, decision
from quota.demands import Demand
from quota.entitlement import Need
from quota.formats import Terms, Window
from quota.keys import AccountName
from quota.periods import PeriodKind
from quota.protocol import Mode
from quota.replies import AccountState, LiveGrant, Outcome, Reply, Verdict
from tests.unit.decided import DAY, LIFETIME, MONTH, WEEK, capped, charge, decided

DEMAND = Demand("t", "u_1", Mode.CONSUME, "r-1")
STATE = AccountState(
    Verdict.FITS,
    AccountName("t", "u:1", "a:b").key(3),
    5,
    used=85,
    held=2,
    limit=100,
    plan_limit=60,
    window=Window(MONTH, Terms("starter", PeriodKind.MONTH, None, (80,))),
    caps=capped(),
    grants=(LiveGrant(7, None, 40),),
)


def test_an_account_of_a_reply_is_told_as_it_stands() -> None:
    found = charged(STATE)
    assert (found.metric, found.amount, found.fits, found.plan) == ("a:b", 5, True, "starter")
    assert (found.limit, found.plan_limit, found.used, found.held, found.remaining) == (100, 60, 85, 2, 13)
    assert (found.warning, found.period, found.caps, found.grants) == (80, MONTH, STATE.caps, STATE.grants)
    assert charged(replace(STATE, refunded=3)).refunded == 3


def test_all_that_was_held_is_told_as_nothing_where_nothing_was_held() -> None:
    assert charged(replace(STATE, amount=None)).amount == 0


def test_a_receipt_names_as_many_entries_as_there_are_charges() -> None:
    reply = Reply(Outcome.ALLOWED, 42, 2, "0", 7, (STATE, STATE))
    found = decision(DEMAND, 3, reply)
    assert (found.allowed, found.receipt, found.now_ms, found.subject) == (True, "3.2-7.2", 42, "u_1")


@pytest.mark.parametrize(
    "reply", [Reply(Outcome.ALLOWED, 42, 2, "0", None, (STATE,)), Reply(Outcome.DENIED, 42, accounts=(STATE,))]
)
def test_where_nothing_was_charged_there_is_no_receipt(reply: Reply) -> None:
    assert decision(DEMAND, 3, reply).receipt is None


@pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.ALLOWED])
def test_nothing_but_allowed_is_allowed(outcome: Outcome) -> None:
    assert not decision(DEMAND, 3, Reply(outcome, 42, accounts=(STATE,))).allowed


def test_a_first_answer_that_comes_again_keeps_its_receipt() -> None:
    found = decision(replace(DEMAND, operation="reel"), 3, Reply(Outcome.ALLOWED, 42, 2, "0", 7, (STATE,), True))
    assert (found.replayed, found.receipt, found.operation) == (True, "3.2-7.1", "reel")


def test_the_charge_that_binds_is_the_first_that_did_not_fit() -> None:
    fits, other, third = charge(), charge("b", fits=False), charge("c", fits=False)
    assert decided(fits, other, third, allowed=False).binding == other
    assert decided(fits, charge("b")).binding == fits


def test_a_subject_lacks_a_plan_only_where_nothing_has_one() -> None:
    without = charge(plan=None, limit=0, fits=False)
    assert decided(without, allowed=False).lacks_plan
    assert not decided(without, charge(), allowed=False).lacks_plan
    assert not decided(without, allowed=True).lacks_plan
    assert not decided(charge(plan=None, limit=3, fits=False), allowed=False).lacks_plan, "it has been granted units"


def test_what_fits_ran_into_nothing() -> None:
    assert charge(caps=capped(day=(10, 10))).cap is None
    assert charge(caps=capped()).bound == Bound(100, 42, 0, MONTH)


@pytest.mark.parametrize(
    ("amount", "could_fit", "changes"),
    [
        (100, True, {"used": 100}),
        (101, False, {}),
        (10, True, {"caps": capped((10, 10))}),
        (11, False, {"caps": capped((10, 0))}),
        (51, False, {"caps": capped((60, 0))}),
        (9_999, True, {"limit": None}),
        (11, False, {"limit": None, "caps": capped()}),
        (101, True, {"enforcement": "soft"}),
        (0, True, {"limit": 0}),
        (100, True, {"limit": 150, "plan_limit": 100, "used": 150}),
        (101, False, {"limit": 150, "plan_limit": 100, "used": 150}),
        (120, True, {"limit": 150, "plan_limit": 100, "used": 130, "grants": (LiveGrant(1, None, 20),)}),
        (121, False, {"limit": 150, "plan_limit": 100, "used": 130, "grants": (LiveGrant(1, None, 20),)}),
        (120, True, {"limit": 120, "plan_limit": 100, "grants": (LiveGrant(1, MONTH.end_ms + 1, 20),)}),
        (101, False, {"limit": 120, "plan_limit": 100, "grants": (LiveGrant(1, MONTH.end_ms, 20),)}),
    ],
)
def test_what_is_more_than_a_whole_window_could_never_fit(
    amount: int, could_fit: bool, changes: dict[str, Any]
) -> None:
    assert charge(amount=amount, fits=False, **changes).could_fit is could_fit


@pytest.mark.parametrize(
    ("used", "day", "week", "kind"),
    [
        (42, 8, 20, PeriodKind.DAY),
        (42, 5, 46, PeriodKind.WEEK),
        (42, 8, 46, PeriodKind.WEEK),
        (96, 8, 46, None),
        (95, 8, 20, PeriodKind.DAY),
        (42, 5, 45, None),
    ],
)
def test_the_cap_that_bound_is_one_without_room_when_the_period_had_some(
    used: int, day: int, week: int, kind: PeriodKind | None
) -> None:
    found = charge(used=used, fits=False, caps=capped((10, day), (50, week)))
    assert (found.cap.period.kind if found.cap else None) == kind
    expected = {
        None: Bound(100, used, 0, MONTH),
        PeriodKind.DAY: Bound(10, day, 0, DAY),
        PeriodKind.WEEK: Bound(50, week, 0, WEEK),
    }
    assert found.bound == expected[kind]


def test_what_is_held_takes_room_from_the_period_before_a_cap_is_looked_at() -> None:
    assert charge(used=90, held=6, fits=False, caps=capped()).bound == Bound(100, 90, 6, MONTH)


def test_without_a_limit_only_a_cap_can_bind() -> None:
    assert charge(limit=None, fits=False, caps=capped()).bound == Bound(10, 8, 0, DAY)


def test_the_need_is_the_amount_on_top_of_all_that_counts_already() -> None:
    assert charge(used=98, held=1).need == Need(104, 5, {})
    assert charge(caps=capped()).need == Need(47, 5, {"day": 13, "week": 25})


def test_a_commit_needs_only_what_is_more_than_was_held() -> None:
    """What was held is in `held`, and in the caps, already."""
    settled = charge(amount=70, used=10, held=60, of_hold=60, fits=False, caps=capped((100, 62), (200, 70)))
    assert settled.need == Need(80, 70, {"day": 72, "week": 80})
    assert (settled.more, settled.cap) == (10, None)
    assert charge(amount=5, of_hold=7).more == 0


def test_a_commit_that_runs_into_a_cap_is_told_of_the_cap() -> None:
    settled = charge(amount=60, used=10, held=50, of_hold=50, fits=False, caps=capped((55, 50), (200, 70)))
    assert settled.bound == Bound(55, 50, 0, DAY)


def test_units_of_grants_need_no_plan() -> None:
    """A grant of 40 is in the limit, and comes along to every plan."""
    assert charge(used=98, limit=100, plan_limit=60).need.total == 98 + 5 - 40
    assert charge(used=1, limit=100, plan_limit=10).need.total == 0


def test_an_unlimited_account_needs_what_it_has_used() -> None:
    assert charge(limit=None, plan_limit=None, used=7, period=LIFETIME).need == Need(12, 5, {})
