"""Deliveries of Stripe's as they come in on several gateways at once, in any order, and for ever again."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from ledger import catalogs, overrides, stripe, subscriptions
from ledger.acts import By
from ledger.store import transaction
from quota.catalog import Catalog, parse_toml
from quota.entitlement import Override, Subscription
from quota.errors import UnknownPrice
from quota.keys import AccountName
from quota.stripe_events import Heard, Snapshot, StripeEvent
from tests.integration.pipeline import Pipeline

CATALOG = """
[metrics.m]
[plans.starter]
rank = 1
stripe_prices = ["price_starter"]
[plans.pro]
rank = 2
stripe_prices = ["price_pro"]
[add_ons.extra]
adds.m = 1
stripe_prices = ["price_extra"]
"""
NOW_MS = 1_766_000_000_000
BY = By("cli")


def state(status: str = "active", price: str = "price_pro", subject: str = "u", **fields: Any) -> Snapshot:
    return Snapshot(status, "cus_1", ((price, 1),), 1_766_000_000, subject, **fields)


def told(ident: str, found: Snapshot, created_s: int, of: str = "sub_1", **heard: Any) -> StripeEvent:
    kind = heard.pop("kind", "stated")
    return StripeEvent("customer.subscription.updated", created_s, of, Heard(ident, kind, found, **heard))


def apply(pipeline: Pipeline, catalog: Catalog, tenant: str = "t") -> None:
    pipeline.call(catalogs.apply, tenant, catalog, BY, dry_run=False)


def take(pipeline: Pipeline, event: StripeEvent, tenant: str = "t") -> str:
    with transaction(pipeline.engine, tenant) as connection:
        return stripe.take(connection, tenant, event, now_ms=NOW_MS, request_id="r").outcome


def held(pipeline: Pipeline, tenant: str = "t", subject: str = "u") -> Subscription | None:
    return pipeline.call(subscriptions.of_subject, tenant, subject)


@pytest.fixture
def shop(pipeline: Pipeline) -> Pipeline:
    apply(pipeline, parse_toml(CATALOG))
    return pipeline


def test_one_event_on_many_gateways_at_once_is_taken_once(shop: Pipeline) -> None:
    event = told("evt_1", state(), 1)
    with ThreadPoolExecutor(4) as gateways:
        outcomes = list(gateways.map(lambda _: take(shop, event), range(40)))
    assert sorted(outcomes) == ["applied", *["duplicate"] * 39]
    assert shop.rows("SELECT count(*) FROM acts WHERE act = 'subscription.written'") == [(1,)]
    assert shop.rows("SELECT outcome FROM stripe_events") == [("applied",)]


def test_the_end_of_one_and_the_beginning_of_another_at_once_leave_the_living_one(shop: Pipeline) -> None:
    with ThreadPoolExecutor(2) as gateways:
        for number in range(30):
            subject = f"u_{number}"
            old, new = f"sub_{number}_old", f"sub_{number}_new"
            take(shop, told(f"evt_{number}_0", state(subject=subject), 1, old))
            both = [
                told(f"evt_{number}_1", state("canceled", subject=subject), 2, old, kind="deleted"),
                told(f"evt_{number}_2", state(price="price_starter", subject=subject), 2, new, kind="created"),
            ]
            assert list(gateways.map(lambda each: take(shop, each), both)) == ["applied", "applied"]
            found = held(shop, subject=subject)
            assert found is not None
            assert (found.plan, found.status) == ("starter", "active")


def test_two_that_change_places_at_once_do_not_wait_for_each_other_for_ever(shop: Pipeline) -> None:
    subjects = ("u_a", "u_b")
    for place, name in enumerate(subjects):
        take(shop, told(f"evt_{place}", state(subject=name), 0, f"sub_{place}"))
    with ThreadPoolExecutor(2) as gateways:
        for number in range(1, 31):
            both = [
                told(f"evt_{number}_{place}", state(subject=subjects[(place + number) % 2]), number, f"sub_{place}")
                for place in (0, 1)
            ]
            assert list(gateways.map(lambda each: take(shop, each), both)) == ["applied", "applied"]


STATES = st.sampled_from(
    [
        state(),
        state("past_due"),
        state("unpaid"),
        state("paused"),
        state(price="price_starter"),
        state(cancels_at_s=1_790_000_000),
        state(pause="void"),
    ]
)
LIVES = st.tuples(
    st.sampled_from([state("incomplete"), state("trialing"), state()]),
    st.lists(st.tuples(STATES, st.integers(0, 1)), max_size=4),
    st.booleans(),
)


def events_of(of: str, life: Any) -> list[StripeEvent]:
    """A subscription's events in the order in which they happened."""
    first, steps, has_ended = life
    second, before = 1, first
    found = [told(f"evt_{of}_0", first, second, of, kind="created")]
    for number, (after, later_s) in enumerate(steps, 1):
        second += later_s
        found.append(told(f"evt_{of}_{number}", after, second, of, kind="updated", before=before))
        before = after
    if has_ended:
        found.append(told(f"evt_{of}_end", state("canceled"), second, of, kind="deleted"))
    return found


@settings(max_examples=40, deadline=timedelta(seconds=20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=st.tuples(LIVES, LIVES), data=st.data())
def test_two_lives_in_any_order_end_as_they_do_in_their_own(shop: Pipeline, lives: Any, data: st.DataObject) -> None:
    number = shop.rows("SELECT count(DISTINCT tenant) FROM catalogs")[0][0]
    events = [each for place, life in enumerate(lives) for each in events_of(f"sub_{place}", life)]
    mixed = data.draw(st.permutations(events + events[:3]))

    def lived(tenant: str, deliveries: Sequence[StripeEvent]) -> Subscription | None:
        apply(shop, parse_toml(CATALOG), tenant)
        for each in deliveries:
            take(shop, each, tenant)
        return held(shop, tenant)

    assert lived(f"mixed_{number}", mixed) == lived(f"own_{number}", events)


def test_what_cannot_be_used_yet_leaves_nothing_behind(shop: Pipeline) -> None:
    event = told("evt_1", state(price="price_new"), 1)
    with pytest.raises(UnknownPrice):
        take(shop, event)
    for table in ("stripe_events", "stripe_subscriptions", "subscriptions", "announcements"):
        count = {"announcements": "SELECT count(*) FROM announcements WHERE subject = 'u'"}
        assert shop.rows(count.get(table, f"SELECT count(*) FROM {table}")) == [(0,)]
    apply(shop, parse_toml(CATALOG.replace("price_pro", "price_new")))
    assert take(shop, event) == "applied"


def test_a_living_one_whose_price_has_left_the_catalog_is_not_forgotten_for_another(shop: Pipeline) -> None:
    take(shop, told("evt_1", state(), 1))
    apply(shop, parse_toml(CATALOG.replace("price_pro", "price_other")))
    with pytest.raises(UnknownPrice):
        take(shop, told("evt_2", state("canceled", "price_starter"), 2, "sub_2"))
    take(shop, told("evt_3", state("canceled"), 3))
    assert take(shop, told("evt_2", state("canceled", "price_starter"), 2, "sub_2")) == "applied"


def test_an_upgrade_is_not_refused_for_another_subscription_whose_price_has_left_the_catalog(shop: Pipeline) -> None:
    take(shop, told("evt_1", state(), 1, "sub_old"))
    take(shop, told("evt_2", state(price="price_starter"), 2, "sub_new"))
    apply(shop, parse_toml(CATALOG.replace("price_pro", "price_pro_2")))
    with pytest.raises(UnknownPrice):  # the old one is what is held, and the new one is less
        take(shop, told("evt_3", state("past_due", "price_starter"), 3, "sub_new"))
    assert take(shop, told("evt_4", state(price="price_pro_2"), 4, "sub_new")) == "applied"
    found = held(shop)
    assert found is not None
    assert (found.plan, found.status) == ("pro", "active")


def test_one_that_is_paid_for_is_held_however_many_others_have_ended_since(shop: Pipeline) -> None:
    take(shop, told("evt_0", state(), 1, "sub_paid"))
    for number in range(stripe.MAX_OF_A_SUBJECT):
        ended = state("canceled", price="price_starter")
        take(shop, told(f"evt_b{number}", ended, 2 + number, f"sub_{number:03}", kind="deleted"))
    found = held(shop)
    assert found is not None
    assert (found.plan, found.status) == ("pro", "active")


def test_what_is_due_is_told_by_the_clock_of_redis(shop: Pipeline) -> None:
    """Which is a long way behind Postgres's here."""
    account, day_ms = AccountName("t", "u", "m"), 86_400_000
    shop.call(overrides.set_limit, account, Override(500, NOW_MS + day_ms), By("k", reason="deal"), NOW_MS)
    take(shop, told("evt_1", state(cancels_at_s=NOW_MS // 1000 + 10 * 86_400), 1))
    assert shop.rows('SELECT "limit" FROM overrides') == [(500,)]
    found = held(shop)
    assert found is not None
    assert found.status == "active"


def test_a_second_with_more_events_than_are_kept_goes_on_from_its_end(shop: Pipeline) -> None:
    for number in range(stripe.MAX_HEARD + 10):
        take(shop, told(f"evt_{number}", state(cancels_at_s=1_790_000_000 + number), 1, kind="stated"))
    take(shop, told("evt_last", state("canceled"), 1, kind="deleted"))
    found = held(shop)
    assert found is not None
    assert found.status == "canceled"
    assert shop.rows("SELECT jsonb_array_length(heard) <= 32 FROM stripe_subscriptions") == [(True,)]


def test_events_are_forgotten_after_forty_days_and_their_subscriptions_never(shop: Pipeline) -> None:
    for number in range(3):
        take(shop, told(f"evt_{number}", state(), number))

    def aged(connection: Connection) -> None:
        connection.exec_driver_sql(
            "INSERT INTO stripe_events (tenant, id, type, subscription, outcome, created_s, received_at) "
            "SELECT 't', 'old_' || number, 'x', 'sub_1', 'applied', 0, now() - interval '41 days' "
            "FROM generate_series(1, 5) AS number"
        )

    shop.call(aged)
    assert shop.call(stripe.forget) == 5
    assert shop.call(stripe.forget) == 0
    assert shop.rows("SELECT count(*) FROM stripe_events") == [(3,)]
    assert take(shop, told("old_1", state("unpaid"), 0)) == "stale"
