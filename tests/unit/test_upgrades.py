"""What is offered to whom was denied: the cheapest plan on which the request would have passed."""

from pathlib import Path

import pytest

from quota.catalog import Catalog, parse_toml
from quota.entitlement import Need, Upgrade, charges_of, cheapest_upgrade
from quota.identifiers import MAX_AMOUNT
from tests.unit.test_entitlement import CATALOG, CATALOG_TOML


def upgrade_to(plan: str | None, catalog: Catalog = CATALOG, **needs: int) -> Upgrade | None:
    wanted = {metric: Need(total, total) for metric, total in needs.items()}
    return cheapest_upgrade(catalog, plan, wanted, next(iter(needs)))


def test_the_upgrade_is_the_lowest_plan_above_on_which_the_request_fits() -> None:
    assert upgrade_to("free", generations=11) == Upgrade(
        "starter", 100, "https://example.com/starter/upgrade?plan=starter"
    )
    assert upgrade_to("free", generations=100) == upgrade_to("free", generations=11)


def test_a_plans_name_is_percent_encoded_in_the_address() -> None:
    assert upgrade_to("free", generations=101) == Upgrade(
        "team/eu", 500, "https://example.com/team%2Feu/upgrade?plan=team%2Feu"
    )


def test_a_plan_is_offered_only_if_every_need_fits() -> None:
    four = {"generations": Need(200, 1), "projects": Need(4, 1)}
    both = cheapest_upgrade(CATALOG, "free", four, "projects")
    assert both is not None
    assert (both.plan, both.limit) == ("team/eu", 5)
    assert cheapest_upgrade(CATALOG, "free", four | {"projects": Need(6, 1)}, "projects") is None


def test_a_plan_of_the_same_or_a_lower_rank_is_no_upgrade() -> None:
    assert upgrade_to("starter", projects=7) is None
    assert upgrade_to("vast", projects=1) is None


def test_soft_and_unlimited_fit_whatever_is_needed() -> None:
    soft, unlimited = upgrade_to("free", exports=1_000), upgrade_to("starter", exports=MAX_AMOUNT * 2)
    assert soft is not None
    assert unlimited is not None
    assert (soft.plan, soft.limit, unlimited.plan, unlimited.limit) == ("starter", 1, "team/eu", None)


@pytest.mark.parametrize("plan", [None, "gone"])
def test_without_a_plan_every_plan_is_an_upgrade(plan: str | None) -> None:
    upgrade = upgrade_to(plan, generations=1)
    assert upgrade is not None
    assert upgrade.plan == "free"


def test_a_plan_that_does_not_name_the_metric_is_no_upgrade() -> None:
    assert upgrade_to("free", searches=1) is None


CAPPED = parse_toml(
    """
[metrics.m]
[plans.small]
limits.m = { limit = 100, period = "month", caps = { day = 10 } }
[plans.wide]
rank = 1
limits.m = { limit = 1000, period = "month", caps = { day = 10 } }
[plans.weekly]
rank = 2
limits.m = { limit = 1000, period = "month", caps = { day = 20, week = 50 } }
[plans.open]
rank = 3
limits.m = { period = "month", caps = { day = 50 } }
[plans.free_of_caps]
rank = 4
limits.m = { limit = 1000, period = "month" }
"""
)


def capped_upgrade(plan: str, need: Need) -> str | None:
    found = cheapest_upgrade(CAPPED, plan, {"m": need}, "m")
    return None if found is None else found.plan


@pytest.mark.parametrize(
    ("need", "plan"),
    [
        (Need(30, 1, {"day": 10}), "wide"),
        (Need(30, 1, {"day": 11}), "weekly"),
        (Need(30, 20, {"day": 20}), "weekly"),
        (Need(30, 21, {"day": 21}), "open"),
        (Need(30, 1, {"day": 51}), "free_of_caps"),
        (Need(1000, 1, {"day": 51}), "free_of_caps"),
        (Need(1001, 1, {"day": 50}), "open"),
        (Need(1001, 1, {"day": 51}), None),
    ],
)
def test_an_upgrade_has_room_in_the_period_and_in_every_cap(need: Need, plan: str | None) -> None:
    assert capped_upgrade("small", need) == plan


def test_a_cap_that_was_not_counted_so_far_needs_room_for_the_amount_alone() -> None:
    """Nobody counted this week's units: they are not known to be too many, but the amount itself must fit."""
    assert capped_upgrade("wide", Need(900, 15, {"day": 15})) == "weekly"
    assert capped_upgrade("small", Need(60, 51, {})) == "free_of_caps"
    assert capped_upgrade("small", Need(60, 50, {})) == "open"


def test_without_an_address_the_upgrade_has_none() -> None:
    catalog = parse_toml(CATALOG_TOML.replace("upgrade_url", "# upgrade_url"))
    assert upgrade_to("free", catalog, generations=11) == Upgrade("starter", 100, None)


def test_the_credits_example_prices_its_operations_and_offers_the_next_plan() -> None:
    credits = parse_toml((Path(__file__).parents[2] / "examples" / "credits.toml").read_text())
    prices = {name: charges_of(credits, name, 1).get("credits", 0) for name in credits.operations}
    assert prices == {
        **{"create_reel": 5, "create_carousel": 1, "generate_ai_image": 3},
        **{"regenerate_copy": 1, "publish": 1, "create_post": 0},
    }
    by_rank = sorted(credits.plans, key=lambda name: credits.plans[name].rank)
    assert [(name, credits.plans[name].limits["credits"].limit) for name in by_rank] == [
        *(("free", 35), ("starter", 200), ("pro", 700), ("business", 2_000), ("agency", 7_000))
    ]
    assert upgrade_to("free", credits, credits=36) == Upgrade(
        "starter", 200, "https://example.com/pricing?plan=starter"
    )
