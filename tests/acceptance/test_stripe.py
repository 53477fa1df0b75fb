"""Stripe's webhook as Stripe calls it: a customer's whole life, and deliveries in any order and twice."""

import itertools
import secrets
import time
from typing import Any

import pytest

from tests.acceptance.shop import CATALOG, NOW_S, Shop, bought
from tests.stripe_shapes import deliver, event, item
from tests.system import System

MONTH_END_S = NOW_S + 20 * 86_400


def test_a_customers_whole_life_is_seen_by_the_next_request(system: System, shop: Shop) -> None:
    subject, ident = f"u_{secrets.token_hex(4)}", f"sub_{secrets.token_hex(4)}"
    named: dict[str, Any] = {"id": ident, "metadata": {"quotagate_subject": subject}}
    extras = [item("price_pro"), item("price_extra", 2)]
    life: list[tuple[str, dict[str, Any], tuple[str, str, int]]] = [
        ("created", bought(**named, status="incomplete"), ("free", "paused", 1)),
        ("updated", bought(**named), ("starter", "active", 10)),
        ("updated", bought(item("price_pro"), **named), ("pro", "active", 100)),
        ("updated", bought(*extras, **named), ("pro", "active", 200)),
        ("updated", bought(*extras, **named, status="past_due"), ("pro", "past_due", 200)),
        ("updated", bought(*extras, **named), ("pro", "active", 200)),
        ("paused", bought(*extras, **named, status="paused"), ("free", "paused", 1)),
        ("resumed", bought(*extras, **named), ("pro", "active", 200)),
        ("updated", bought(*extras, **named, cancel_at=MONTH_END_S), ("pro", "active", 200)),
        ("deleted", bought(*extras, **named, status="canceled"), ("free", "canceled", 1)),
    ]
    events, before, used = [], None, 0
    with shop.gateway.client(shop.tenant.key) as client:
        for number, (kind, found, expected) in enumerate(life):
            told = event(kind, found, NOW_S + number, before=before if kind == "updated" else None)
            assert shop.send(told) == "applied"
            asked = {"subject": subject, "metric": "m", "amount": 1}
            # On the gateway that was told, and then on the one that was not.
            for each in (client, shop.tenant.client):
                answer = each.post("/v1/consume", json=asked)
                fits = used < expected[2]
                assert (answer.status_code, answer.json()["limit"]) == (200 if fits else 429, expected[2]), number
                used += fits
            assert shop.plan(subject) == expected
            if found["cancel_at"]:
                scheduled = (shop.held(subject) or {})["scheduled"]
                assert scheduled["status"] == "canceled"
                assert scheduled["at"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(MONTH_END_S))
            events.append(told)
            before = found
    assert [shop.send(each) for each in events] == ["duplicate"] * len(life)
    assert shop.plan(subject) == ("free", "canceled", 1)
    rows = system.sql(
        "SELECT actor, origin, reason, after ->> 'status' FROM acts WHERE tenant = %s AND subject = %s ORDER BY id",
        shop.tenant.name,
        subject,
    )
    assert rows == [("stripe", told["id"], told["type"], each[2][1]) for told, each in zip(events, life, strict=True)]
    assert system.sql("SELECT count(*) FROM announcements WHERE tenant = %s", shop.tenant.name) == [(0,)]


@pytest.mark.parametrize("second", [0, 1], ids=["in one second", "a second apart"])
def test_every_order_of_a_short_lifes_deliveries_each_of_them_twice_ends_the_same(shop: Shop, second: int) -> None:
    ended = set()
    for order in itertools.permutations(range(3)):
        subject, ident = f"u_{secrets.token_hex(4)}", f"sub_{secrets.token_hex(4)}"
        named: dict[str, Any] = {"id": ident, "metadata": {"quotagate_subject": subject}}
        states = [
            bought(**named, status="incomplete"),
            bought(**named),
            bought(item("price_pro"), item("price_extra", 3), **named),
        ]
        steps = enumerate(itertools.pairwise(states), 1)
        events = [
            event("created", states[0], NOW_S),
            *(event("updated", after, NOW_S + number * second, before=before) for number, (before, after) in steps),
        ]
        for place in order:
            assert shop.send(events[place]) in {"applied", "stale"}
            assert shop.send(events[place]) == "duplicate"
        ended.add(shop.plan(subject))
    assert ended == {("pro", "active", 250)}


def test_after_the_end_nothing_begins_it_again(shop: Shop) -> None:
    subject, ident = f"u_{secrets.token_hex(4)}", f"sub_{secrets.token_hex(4)}"
    named: dict[str, Any] = {"id": ident, "metadata": {"quotagate_subject": subject}}
    assert shop.send(event("deleted", bought(**named, status="canceled"), NOW_S)) == "applied"
    late = event("updated", bought(**named), NOW_S, before=bought(**named, status="past_due"))
    assert shop.send(late) == "stale"
    assert shop.send(event("created", bought(**named, status="incomplete"), NOW_S - 60)) == "stale"
    assert shop.plan(subject) == ("free", "canceled", 1)


def test_an_old_subscription_that_ends_takes_nothing_from_a_living_new_one(shop: Shop) -> None:
    for order in itertools.permutations(range(3)):
        subject = f"u_{secrets.token_hex(4)}"
        old: dict[str, Any] = {"id": f"sub_{secrets.token_hex(4)}", "metadata": {"quotagate_subject": subject}}
        new: dict[str, Any] = old | {"id": f"sub_{secrets.token_hex(4)}"}
        events = [
            event("created", bought(item("price_pro"), **old), NOW_S - 60),
            event("created", bought(**new), NOW_S),
            event("deleted", bought(item("price_pro"), **old, status="canceled"), NOW_S + 1),
        ]
        for place in order:
            shop.send(events[place])
        assert shop.plan(subject) == ("starter", "active", 10), order


def test_a_checkout_that_was_never_paid_takes_away_nothing(shop: Shop) -> None:
    subject = f"u_{secrets.token_hex(4)}"
    shop.tenant.subscribe(subject, "pro")
    named: dict[str, Any] = {"id": f"sub_{secrets.token_hex(4)}", "metadata": {"quotagate_subject": subject}}
    shop.send(event("created", bought(**named, status="incomplete"), NOW_S))
    shop.send(event("updated", bought(**named, status="incomplete_expired"), NOW_S + 1))
    assert shop.plan(subject) == ("pro", "active", 100)


def test_what_a_caller_writes_in_between_holds_until_stripes_next_event(shop: Shop) -> None:
    subject = f"u_{secrets.token_hex(4)}"
    named: dict[str, Any] = {"id": f"sub_{secrets.token_hex(4)}", "metadata": {"quotagate_subject": subject}}
    first = event("created", bought(**named), NOW_S)
    shop.send(first)
    shop.tenant.subscribe(subject, "pro")
    assert shop.send(first) == "duplicate"
    assert shop.plan(subject) == ("pro", "active", 100)
    shop.send(event("updated", bought(**named, status="past_due"), NOW_S + 1))
    assert shop.plan(subject) == ("starter", "past_due", 10)


def test_a_subscription_that_is_given_to_another_subject_leaves_the_first(shop: Shop) -> None:
    first, second = f"u_{secrets.token_hex(4)}", f"u_{secrets.token_hex(4)}"
    ident = f"sub_{secrets.token_hex(4)}"
    shop.send(event("created", bought(id=ident, metadata={}, customer=first), NOW_S))
    assert shop.plan(first) == ("starter", "active", 10)
    moved = bought(id=ident, metadata={"quotagate_subject": second}, customer=first)
    shop.send(event("updated", moved, NOW_S + 1))
    assert shop.plan(second) == ("starter", "active", 10)
    assert shop.plan(first) == ("free", "canceled", 1)


def test_a_price_that_is_unknown_is_refused_until_the_catalog_knows_it(shop: Shop) -> None:
    subject = f"u_{secrets.token_hex(4)}"
    named: dict[str, Any] = {"id": f"sub_{secrets.token_hex(4)}", "metadata": {"quotagate_subject": subject}}
    told = event("created", bought(item("price_new"), **named), NOW_S)
    for _ in range(2):
        refused = deliver(shop.door, told, shop.secret)
        assert (refused.status_code, refused.json()["code"], refused.json()["prices"]) == (
            409,
            "UNKNOWN_PRICE",
            ["price_new"],
        )
    assert shop.held(subject) is None
    starter = CATALOG["plans"]["starter"]
    plans = CATALOG["plans"] | {"starter": starter | {"stripe_prices": ["price_starter", "price_new"]}}
    assert shop.tenant.client.put("/v1/catalog", json=CATALOG | {"plans": plans}).status_code == 200
    assert shop.send(told) == "applied"
    assert shop.plan(subject) == ("starter", "active", 10)


def test_a_subject_that_cannot_be_one_is_told_where_to_write_it(shop: Shop) -> None:
    told = event("created", bought(metadata={"quotagate_subject": "no name"}), NOW_S)
    refused = deliver(shop.door, told, shop.secret)
    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_REQUEST")
    assert "metadata in Stripe" in refused.json()["detail"]


def test_what_says_nothing_of_a_subscription_is_acknowledged(shop: Shop) -> None:
    paid = {"id": "evt_1", "object": "event", "type": "invoice.paid", "created": NOW_S, "data": {"object": {}}}
    assert shop.send(paid) == "ignored"
