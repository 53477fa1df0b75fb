"""Overrides: a limit in place of the plan's, and all else as it was."""

from dataclasses import replace

import pytest

from quota.catalog import parse_toml
from quota.entitlement import Override, Subscription, entitlement

CATALOG = parse_toml(
    """
default_plan = "free"
[metrics.m]
[metrics.other]
[metrics.nobodys]
[plans.free]
limits.m = { limit = 10, period = "month", enforcement = "soft", caps = { day = 4 }, rollover = { max = 5 } }
[plans.pro]
rank = 1
limits.other = { limit = 7, period = "day", enforcement = "soft", caps = {} }
[plans.team]
rank = 2
limits.m = { limit = 100 }
limits.other = { limit = 70 }
[add_ons.extra]
adds = { m = 50, nobodys = 3 }
"""
)
ACTIVE = Subscription("free", "active", 1_700_000_000_000, {})


@pytest.mark.parametrize("limit", [0, 3, 500, None])
def test_it_is_in_place_of_the_plans_limit_and_of_nothing_else(limit: int | None) -> None:
    plain, found = (entitlement(CATALOG, ACTIVE, "m", override) for override in (None, Override(limit)))
    assert found == replace(plain, limit=limit, rollover=None if limit is None else 5)


def test_add_ons_count_on_top_and_unlimited_stays_so() -> None:
    bought = replace(ACTIVE, add_ons={"extra": 2})
    assert entitlement(CATALOG, bought, "m", Override(30)).limit == 130
    assert entitlement(CATALOG, bought, "m", Override(None)).limit is None


def test_of_a_metric_that_the_plan_does_not_name_it_takes_the_lowest_ranked_plans_terms() -> None:
    found = entitlement(CATALOG, ACTIVE, "other", Override(5))
    assert (found.plan, found.limit, found.kind, found.enforcement) == ("free", 5, "day", "soft")


def test_of_a_metric_that_no_plan_names_it_is_for_a_lifetime_and_hard() -> None:
    found = entitlement(CATALOG, replace(ACTIVE, add_ons={"extra": 1}), "nobodys", Override(5))
    assert (found.limit, found.kind, found.enforcement) == (8, "lifetime", "hard")


def test_without_a_plan_in_force_it_waits() -> None:
    without = parse_toml("[metrics.m]\n[plans.free]\nlimits.m = { limit = 10 }")
    paused = replace(ACTIVE, status="paused")
    assert entitlement(without, paused, "m", Override(5)) == entitlement(without, paused, "m")
    assert entitlement(without, replace(paused, status="active"), "m", Override(5)).limit == 5


def test_a_metric_that_has_left_the_catalog_has_none() -> None:
    assert entitlement(CATALOG, ACTIVE, "gone", Override(5)).limit == 0
