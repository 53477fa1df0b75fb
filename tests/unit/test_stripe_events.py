"""What Stripe's events say, which of them is the newest, and what they entitle to."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from quota.catalog import parse_toml
from quota.entitlement import Scheduled, Subscription
from quota.errors import CatalogInvalid, InvalidRequest, UnknownPrice
from quota.stripe_events import Heard, Snapshot, StripeEvent, parse
from quota.stripe_order import newest
from quota.stripe_terms import Candidate, held, plans_of, subject_of, subscription_of
from tests.stripe_shapes import event, item, subscription

CATALOG = parse_toml("""
[metrics.m]
[plans.free]
[plans.starter]
rank = 1
stripe_prices = ["price_starter"]
[plans.pro]
rank = 2
stripe_prices = ["price_pro", "price_pro_old"]
[add_ons.extra]
adds.m = 100
stripe_prices = ["price_extra", "price_extra_old"]
[add_ons.support]
adds = {}
stripe_prices = ["price_support"]
""")
ANCHOR_MS = 1_766_000_000_000


def parsed(told: dict[str, Any]) -> StripeEvent:
    found = parse(json.dumps(told).encode())
    assert found is not None
    return found


def snapshot(*items: dict[str, Any], **fields: Any) -> Snapshot:
    return parsed(event("updated", subscription(*items, **fields), 1)).heard.after


def mapped(*items: dict[str, Any], **fields: Any) -> Subscription:
    return subscription_of(snapshot(*items, **fields), CATALOG)


@pytest.mark.parametrize(
    ("stripes", "ours"),
    [
        ("trialing", "trialing"),
        ("active", "active"),
        ("past_due", "past_due"),
        ("paused", "paused"),
        ("unpaid", "paused"),
        ("incomplete", "paused"),
        ("incomplete_expired", "canceled"),
        ("canceled", "canceled"),
    ],
)
def test_every_status_of_stripes_is_one_of_ours(stripes: str, ours: str) -> None:
    assert mapped(status=stripes).status == ours


def test_a_status_that_stripe_has_not_yet_changes_nothing() -> None:
    with pytest.raises(InvalidRequest, match="'hibernating' is not known"):
        mapped(status="hibernating")


@pytest.mark.parametrize(
    ("behavior", "status", "ours"),
    [
        ("void", "active", "paused"),
        ("void", "trialing", "paused"),
        ("void", "canceled", "canceled"),
        ("keep_as_draft", "active", "active"),
        ("mark_uncollectible", "active", "active"),
    ],
)
def test_a_paused_collection_pauses_where_no_service_is_owed(behavior: str, status: str, ours: str) -> None:
    assert mapped(status=status, pause_collection={"behavior": behavior, "resumes_at": None}).status == ours


def test_prices_become_the_plan_and_the_add_ons_with_their_quantities() -> None:
    found = mapped(item("price_pro_old", 3), item("price_extra", 2), item("price_extra_old"), item("price_support"))
    assert found == Subscription("pro", "active", ANCHOR_MS, {"extra": 3, "support": 1})


def test_a_metered_price_was_bought_once_and_a_quantity_of_nothing_not_at_all() -> None:
    assert mapped(item("price_pro"), item("price_extra", None)).add_ons == {"extra": 1}
    assert mapped(item("price_pro"), item("price_extra", 0)).add_ons == {}


def test_of_two_plans_the_highest_rank_counts() -> None:
    both = snapshot(item("price_starter"), item("price_pro"))
    assert subscription_of(both, CATALOG).plan == "pro"
    assert plans_of(both, CATALOG) == ["pro", "starter"]


def test_a_price_that_the_catalog_does_not_know_is_told_with_what_to_do() -> None:
    with pytest.raises(UnknownPrice, match=r"no plan or add-on .* price_new: write it into the stripe_prices") as told:
        mapped(item("price_pro"), item("price_new"))
    assert told.value.extra == {"prices": ["price_new"]}
    with pytest.raises(UnknownPrice, match=r"none of the subscription's prices is a plan's"):
        mapped(item("price_extra"))


def test_what_has_ended_ends_though_its_price_has_left_the_catalog() -> None:
    ended = snapshot(item("price_gone"), status="canceled")
    assert subscription_of(ended, CATALOG, "pro") == Subscription("pro", "canceled", ANCHOR_MS, {})
    with pytest.raises(UnknownPrice):
        subscription_of(ended, CATALOG)


@pytest.mark.parametrize(
    ("fields", "end_s"),
    [
        ({"cancel_at": 1_790_000_000}, 1_790_000_000),
        ({"cancel_at_period_end": True}, 1_800_000_000),
        ({"cancel_at_period_end": True, "current_period_end": 1_799_000_000}, 1_799_000_000),
        ({"cancel_at_period_end": True, "cancel_at": 1_790_000_000}, 1_790_000_000),
    ],
)
def test_a_cancellation_to_come_is_scheduled_in_every_version_of_the_api(fields: dict[str, Any], end_s: int) -> None:
    found = mapped(**fields)
    running = Subscription("pro", "active", ANCHOR_MS, {})
    assert found == replace(running, scheduled=Scheduled(replace(running, status="canceled"), end_s * 1000))


def test_with_items_of_different_lengths_the_earliest_end_counts() -> None:
    items = [item("price_pro", current_period_end=1_900_000_000), item("price_extra")]
    assert snapshot(*items, cancel_at_period_end=True).cancels_at_s == 1_800_000_000


def test_an_item_of_long_ago_has_a_plan_and_no_price() -> None:
    old = item("x", price=None, plan={"id": "price_starter", "object": "plan"})
    assert mapped(old).plan == "starter"


def test_the_subject_is_the_one_in_the_metadata_else_the_customer() -> None:
    assert subject_of(snapshot()) == "u_1"
    assert subject_of(snapshot(metadata={})) == "cus_Na6dX7aXxi11N4"
    assert subject_of(snapshot(metadata={}, customer={"id": "cus_2", "object": "customer"})) == "cus_2"
    with pytest.raises(
        InvalidRequest, match=r"write the subject into the subscription's metadata .* quotagate_subject"
    ):
        subject_of(snapshot(metadata={"quotagate_subject": "nobody's name"}))


def test_a_deletion_ends_it_whatever_its_status_says() -> None:
    assert parsed(event("deleted", subscription(status="active"), 1)).heard.after.status == "canceled"


def test_an_update_says_what_was_before_it() -> None:
    first = subscription(status="incomplete", metadata={})
    second = subscription(item("price_pro"), item("price_extra", 2))
    found = parsed(event("updated", second, 1, before=first)).heard
    assert found.before == parsed(event("created", first, 1)).heard.after
    assert found.after == parsed(event("created", second, 1)).heard.after


@pytest.mark.parametrize("kind", ["trial_will_end", "pending_update_applied"])
def test_what_says_nothing_of_terms_is_left_alone(kind: str) -> None:
    assert parse(json.dumps(event(kind, {"object": "subscription"}, 1)).encode()) is None
    assert parse(b'{"type": "invoice.paid", "data": 7}') is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"type": 7}',
        b'{"type": "customer.subscription.created"}',
        json.dumps(event("created", subscription(billing_cycle_anchor="soon"), 1)).encode(),
        json.dumps(event("created", subscription(billing_cycle_anchor=10**18), 1)).encode(),
        json.dumps(event("created", subscription(item("price_pro", -1)), 1)).encode(),
        json.dumps(event("created", subscription(item("price\x00")), 1)).encode(),
        json.dumps(event("created", subscription(*[item("price_pro")] * 101), 1)).encode(),
        json.dumps(event("created", subscription(item("x", price=None)), 1)).encode(),
    ],
)
def test_what_stripe_does_not_send_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse(body)


def walk(*states: Snapshot) -> list[Heard]:
    """A creation, and an update from each state to the next."""
    found = [Heard("evt_0", "created", states[0])]
    for number, (before, after) in enumerate(itertools.pairwise(states), 1):
        found.append(Heard(f"evt_{number}", "updated", after, before))
    return found


INCOMPLETE = snapshot(status="incomplete")
ACTIVE = snapshot()
LATE = snapshot(status="past_due")
ENDING = snapshot(cancel_at_period_end=True)


@pytest.mark.parametrize(
    "states",
    [
        (INCOMPLETE, ACTIVE),
        (INCOMPLETE, ACTIVE, LATE),
        (INCOMPLETE, ACTIVE, LATE, ACTIVE),
        (ACTIVE, ENDING, ACTIVE, ENDING),
        (ACTIVE, ACTIVE, LATE),
        (ACTIVE, LATE, LATE),
    ],
)
def test_of_one_second_the_end_of_the_walk_is_the_newest_in_whichever_order_it_is_heard(
    states: tuple[Snapshot, ...],
) -> None:
    for heard in itertools.permutations(walk(*states)):
        assert newest(heard).after == states[-1]


def test_a_deletion_is_the_last_of_its_second_and_a_creation_the_first() -> None:
    deleted = Heard("evt_9", "deleted", snapshot(status="canceled"))
    for heard in itertools.permutations([*walk(INCOMPLETE, ACTIVE), deleted]):
        assert newest(heard) == deleted
    paused = Heard("evt_9", "stated", snapshot(status="paused"))
    for heard in itertools.permutations([Heard("evt_0", "created", ACTIVE), paused]):
        assert newest(heard) == paused


def test_what_only_says_how_things_are_says_no_more_than_the_steps() -> None:
    paused = snapshot(status="paused")
    steps = walk(ACTIVE, paused, ACTIVE)
    for heard in itertools.permutations([*steps, Heard("evt_8", "stated", paused)]):
        assert newest(heard).after == ACTIVE


def test_a_circle_of_which_nobody_knows_the_beginning_ends_in_the_customers_favour() -> None:
    for heard in itertools.permutations(walk(ACTIVE, LATE, INCOMPLETE, ACTIVE)[1:]):
        assert newest(heard).after == ACTIVE


PRO, STARTER = Subscription("pro", "active", None, {}), Subscription("starter", "active", None, {})


@pytest.mark.parametrize(
    ("candidates", "best"),
    [
        ([PRO, STARTER], 0),
        ([STARTER, PRO], 1),
        ([replace(PRO, status="canceled"), STARTER], 1),
        ([STARTER, replace(PRO, status="canceled")], 0),
        ([replace(PRO, status="paused"), STARTER], 1),
        ([replace(PRO, status="canceled"), replace(STARTER, status="paused")], 1),
        ([replace(PRO, status="past_due"), STARTER], 0),
        ([replace(PRO, scheduled=Scheduled(replace(PRO, status="canceled"), 999)), STARTER], 1),
    ],
)
def test_the_one_in_force_with_the_highest_rank_holds(candidates: list[Subscription], best: int) -> None:
    found = held([Candidate(f"sub_{place}", each) for place, each in enumerate(candidates)], CATALOG, 1_000)
    assert found == (f"sub_{best}", candidates[best])


def test_when_the_one_that_holds_ends_the_next_one_follows() -> None:
    ending = replace(PRO, scheduled=Scheduled(replace(PRO, status="canceled"), 2_000))
    found = held([Candidate("sub_0", ending), Candidate("sub_1", STARTER)], CATALOG, 1_000)
    assert found == ("sub_0", replace(PRO, scheduled=Scheduled(STARTER, 2_000)))


@pytest.mark.parametrize(
    ("prices", "told"),
    [
        ('["price_pro", "price_pro"]', "price_pro stands in plans.a.stripe_prices too"),
        ('["price_b"]', "price_b stands in plans.a.stripe_prices too"),
        ('["a price"]', "plans.a.stripe_prices: write ids of prices as Stripe shows them"),
    ],
)
def test_a_price_stands_once_in_the_whole_catalog(prices: str, told: str) -> None:
    with pytest.raises(CatalogInvalid, match=told):
        parse_toml(f"""
[plans.a]
stripe_prices = {prices}
[plans.b]
rank = 1
[add_ons.c]
adds = {{}}
stripe_prices = ["price_b"]
""")
