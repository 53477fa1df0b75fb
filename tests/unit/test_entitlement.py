"""Entitlements: whose plan counts, what it allows, what an operation costs and when to warn."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.catalog import parse_toml
from quota.entitlement import (
    SUBSCRIPTION_STATUSES,
    Entitlement,
    Subscription,
    charges_of,
    entitlement,
    plan_in_force,
    warning_level,
)
from quota.errors import InvalidRequest, UnknownOperation
from quota.identifiers import MAX_AMOUNT
from quota.periods import PeriodKind

CATALOG_TOML = f"""
default_plan = "free"
upgrade_url = "https://example.com/{{plan}}/upgrade?plan={{plan}}"
[metrics.generations]
warn_at_pct = [50, 80]
[metrics.exports]
[metrics.searches]
[metrics.projects]
kind = "level"
[operations.reel]
charges = {{ generations = 5, exports = 1 }}
[operations.post]
[plans."team/eu"]
rank = 3
limits.generations = {{ limit = 500, period = "month" }}
limits.exports = {{ period = "year" }}
limits.projects = {{ limit = 5 }}
[plans.free]
limits.generations = {{ limit = 10, period = "month" }}
limits.projects = {{ limit = 3 }}
[plans.starter]
rank = 2
limits.generations = {{ limit = 100, period = "month" }}
limits.exports = {{ limit = 1, period = "week", enforcement = "soft" }}
limits.projects = {{ limit = 10 }}
[plans.vast]
rank = 9
limits.generations = {{ limit = {MAX_AMOUNT}, period = "day" }}
[add_ons.extra]
adds = {{ generations = 100, exports = 1, searches = 7 }}
"""
CATALOG = parse_toml(CATALOG_TOML)
CATALOG_WITHOUT_DEFAULT = parse_toml(CATALOG_TOML.replace('default_plan = "free"', ""))
ANCHOR_MS = 1_700_000_000_123
ENDED = ("canceled", "paused")
LIVE = tuple(status for status in SUBSCRIPTION_STATUSES if status not in ENDED)


def subscribed(
    plan: str = "starter", status: str = "active", anchor_ms: int | None = None, **add_ons: int
) -> Subscription:
    return Subscription(plan=plan, status=status, anchor_ms=anchor_ms, add_ons=add_ons)


@pytest.mark.parametrize("status", LIVE)
def test_a_live_subscription_gives_its_plan(status: str) -> None:
    assert plan_in_force(CATALOG, subscribed(status=status)) == "starter"


@pytest.mark.parametrize("subscription", [None, *(subscribed(status=status) for status in ENDED), subscribed("gone")])
def test_without_a_plan_in_force_the_default_one_counts(subscription: Subscription | None) -> None:
    assert plan_in_force(CATALOG, subscription) == "free"
    assert plan_in_force(CATALOG_WITHOUT_DEFAULT, subscription) is None


def test_a_status_that_nobody_knows_is_not_in_force() -> None:
    assert plan_in_force(CATALOG, subscribed(status="Active")) == "free"


def test_the_plans_limit_its_period_and_the_anchor_make_the_entitlement() -> None:
    expected = Entitlement("starter", 100, "hard", PeriodKind.MONTH, ANCHOR_MS, (50, 80))
    assert entitlement(CATALOG, subscribed(anchor_ms=ANCHOR_MS), "generations") == expected
    assert entitlement(CATALOG, subscribed(), "exports").enforcement == "soft"


def test_a_limit_without_a_period_holds_for_a_lifetime() -> None:
    assert entitlement(CATALOG, None, "projects") == Entitlement(
        "free", 3, "hard", PeriodKind.LIFETIME, None, (80, 95), "level"
    )


def test_add_ons_are_added_as_often_as_they_were_bought() -> None:
    assert entitlement(CATALOG, subscribed(extra=3), "generations").limit == 400
    assert entitlement(CATALOG, subscribed(extra=0), "generations").limit == 100
    assert entitlement(CATALOG, subscribed(extra=1, gone=5), "projects").limit == 10


def test_add_ons_to_what_is_unlimited_change_nothing() -> None:
    assert entitlement(CATALOG, subscribed("team/eu", extra=3), "exports").limit is None


def test_a_limit_stops_at_the_largest_amount_that_can_be_counted() -> None:
    assert entitlement(CATALOG, subscribed("vast", extra=1), "generations").limit == MAX_AMOUNT
    assert entitlement(CATALOG, subscribed(extra=MAX_AMOUNT), "generations").limit == MAX_AMOUNT


def test_a_metric_that_the_plan_does_not_name_is_denied_but_for_add_ons() -> None:
    assert entitlement(CATALOG, None, "searches") == Entitlement("free", 0, "hard", PeriodKind.LIFETIME, None, (80, 95))
    assert entitlement(CATALOG, subscribed(extra=2), "searches").limit == 14


@pytest.mark.parametrize("status", ENDED)
def test_anchor_and_add_ons_end_with_the_subscription(status: str) -> None:
    expected = Entitlement("free", 10, "hard", PeriodKind.MONTH, None, (50, 80))
    assert entitlement(CATALOG, subscribed(status=status, anchor_ms=ANCHOR_MS, extra=1), "generations") == expected


def test_anchor_and_add_ons_stay_when_only_the_plan_has_left_the_catalog() -> None:
    expected = Entitlement("free", 110, "hard", PeriodKind.MONTH, ANCHOR_MS, (50, 80))
    assert entitlement(CATALOG, subscribed("gone", anchor_ms=ANCHOR_MS, extra=1), "generations") == expected


@pytest.mark.parametrize("subscription", [None, subscribed(status="canceled", extra=1), subscribed("gone", extra=1)])
def test_without_any_plan_nothing_is_granted(subscription: Subscription | None) -> None:
    expected = Entitlement(None, 0, "hard", PeriodKind.LIFETIME, None, (50, 80))
    assert entitlement(CATALOG_WITHOUT_DEFAULT, subscription, "generations") == expected


@pytest.mark.parametrize("subscription", [None, subscribed()])
def test_of_a_metric_that_has_left_the_catalog_nothing_is_granted(subscription: Subscription | None) -> None:
    expected = Entitlement(None, 0, "hard", PeriodKind.LIFETIME, None, ())
    assert entitlement(CATALOG, subscription, "coins") == expected


def test_an_add_on_cannot_be_bought_less_than_never() -> None:
    with pytest.raises(AssertionError, match="bought -1 times"):
        entitlement(CATALOG, subscribed(extra=-1), "generations")


def test_an_operation_charges_each_metric_times_the_quantity() -> None:
    assert charges_of(CATALOG, "reel", 1) == {"generations": 5, "exports": 1}
    assert charges_of(CATALOG, "reel", 4) == {"generations": 20, "exports": 4}


def test_charges_are_the_callers_own_and_leave_the_catalog_alone() -> None:
    charges_of(CATALOG, "reel", 1).clear()
    assert CATALOG.operations["reel"].charges == {"generations": 5, "exports": 1}


def test_a_free_operation_charges_nothing_in_any_quantity() -> None:
    assert charges_of(CATALOG, "post", MAX_AMOUNT) == {}


def test_an_operation_that_nobody_declared_is_unknown() -> None:
    with pytest.raises(UnknownOperation, match="no operation film"):
        charges_of(CATALOG, "film", 1)


@pytest.mark.parametrize("quantity", [0, -1, MAX_AMOUNT // 5 + 1, MAX_AMOUNT, MAX_AMOUNT + 1])
def test_a_quantity_that_cannot_be_charged_is_an_invalid_request(quantity: int) -> None:
    with pytest.raises(InvalidRequest, match="quantity"):
        charges_of(CATALOG, "reel", quantity)


def test_the_largest_quantity_that_can_be_charged_is_charged() -> None:
    assert charges_of(CATALOG, "reel", MAX_AMOUNT // 5)["generations"] == MAX_AMOUNT // 5 * 5


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [
        *((0, 100, None), (79, 100, None), (80, 100, 80), (94, 100, 80), (95, 100, 95), (99, 100, 95)),
        *((100, 100, 100), (101, 100, 100), (10_000, 100, 100)),
        *((0, 0, None), (1, 0, 100), (1, 1, 100), (0, 1, None), (1, 2, None), (2, 3, None), (3, 3, 100)),
        *((5, None, None), (0, None, None), (-1, 0, None)),
        # 95 % of this limit is 8556839292003941.45: divided as doubles, the unit below it would warn too.
        *((8_556_839_292_003_941, MAX_AMOUNT, 80), (8_556_839_292_003_942, MAX_AMOUNT, 95)),
        *((MAX_AMOUNT - 1, MAX_AMOUNT, 95), (MAX_AMOUNT, MAX_AMOUNT, 100)),
    ],
)
def test_a_warning_is_the_highest_level_that_was_reached(used: int, limit: int | None, expected: int | None) -> None:
    assert warning_level(used, limit, (80, 95)) == expected


def test_a_metric_without_levels_of_its_own_still_warns_at_100() -> None:
    assert [warning_level(used, 10, ()) for used in (1, 9, 10)] == [None, None, 100]


@given(used=st.integers(1, MAX_AMOUNT), limit=st.integers(1, MAX_AMOUNT), levels=st.sets(st.integers(1, 99)))
def test_warnings_agree_with_exact_fractions(used: int, limit: int, levels: set[int]) -> None:
    reached = [level for level in (*levels, 100) if Fraction(used, limit) >= Fraction(level, 100)]
    assert warning_level(used, limit, tuple(sorted(levels))) == max(reached, default=None)


def test_caps_and_the_kind_of_a_metric_come_along() -> None:
    capped = parse_toml(
        """
[metrics.m]
[plans.weekly]
limits.m = { limit = 1000, period = "month", caps = { day = 20, week = 50 } }
"""
    )
    found = entitlement(capped, subscribed("weekly"), "m")
    assert (found.caps, found.nature) == ({"day": 20, "week": 50}, "counter")
    assert entitlement(CATALOG, None, "projects").nature == "level"
    assert entitlement(CATALOG_WITHOUT_DEFAULT, None, "projects").nature == "level"
    assert entitlement(CATALOG_WITHOUT_DEFAULT, None, "projects").caps == {}
