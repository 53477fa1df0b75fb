"""Stripe's webhook as Stripe calls it: a customer's whole life, deliveries in any order and twice, and who may send."""

import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Tenant
from tests.stripe_shapes import PATH, deliver, event, item, signed, subscription
from tests.system import Gateway, System

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
NOW_S = int(time.time())
MONTH_END_S = NOW_S + 20 * 86_400

CATALOG: dict[str, Any] = {
    "default_plan": "free",
    "metrics": {"m": {}},
    "plans": {
        "free": {"rank": 0, "limits": {"m": {"limit": 1, "period": "month"}}},
        "starter": {"rank": 1, "limits": {"m": {"limit": 10, "period": "month"}}, "stripe_prices": ["price_starter"]},
        "pro": {"rank": 2, "limits": {"m": {"limit": 100, "period": "month"}}, "stripe_prices": ["price_pro"]},
    },
    "add_ons": {"extra": {"adds": {"m": 50}, "stripe_prices": ["price_extra"]}},
}


class Shop:
    """One tenant's Stripe, and a gateway that knows its secrets."""

    def __init__(self, tenant: Tenant, gateway: Gateway, secret: str) -> None:
        self.tenant, self.gateway, self.secret = tenant, gateway, secret

    def send(self, told: dict[str, Any]) -> str:
        answer = deliver(self.gateway.url, told, self.secret)
        assert answer.status_code == 200, answer.text
        assert answer.json().keys() == {"received", "outcome"}
        return str(answer.json()["outcome"])

    def plan(self, subject: str = "u_1") -> tuple[str | None, str, int | None]:
        """The plan in force, the subscription's status, and what may be used in a month."""
        found = self.tenant.status(subject)
        return found["plan"], (found["subscription"] or {}).get("status", ""), found["metrics"][0]["limit"]

    def held(self, subject: str) -> dict[str, Any] | None:
        answer = self.tenant.client.get(f"/v1/subjects/{subject}/subscription")
        return answer.json() if answer.status_code == 200 else None


@pytest.fixture(scope="module")
def names() -> dict[str, str]:
    """Tenants with their secrets, which a gateway is told at its start."""
    return {f"shop-{secrets.token_hex(4)}": f"whsec_{secrets.token_hex(16)}" for _ in range(2)}


@pytest.fixture(scope="module")
def gateway(system: System, names: dict[str, str]) -> Iterator[Gateway]:
    told = [f"{name}={secret}" for name, secret in names.items()]
    first = next(iter(names))
    told.insert(0, f"{first}=whsec_{first}_the_next_one")  # while one is replaced, there are two
    gateway = Gateway(system, "stripe", stripe_webhook_secrets=",".join(told)).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def shop(system: System, gateway: Gateway, names: dict[str, str]) -> Iterator[Shop]:
    name = next(iter(names))
    key = system.make_key(name)
    with system.client(key) as client:
        assert client.put("/v1/catalog", json=CATALOG).status_code == 200
        yield Shop(Tenant(name, key, client), gateway, names[name])


def bought(*items: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return subscription(*(items or (item("price_starter"),)), **fields)


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
    for order in itertools.permutations(range(4)):
        subject, ident = f"u_{secrets.token_hex(4)}", f"sub_{secrets.token_hex(4)}"
        named: dict[str, Any] = {"id": ident, "metadata": {"quotagate_subject": subject}}
        states = [
            bought(**named, status="incomplete"),
            bought(**named),
            bought(**named, status="past_due"),
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
        refused = deliver(shop.gateway.url, told, shop.secret)
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
    refused = deliver(shop.gateway.url, told, shop.secret)
    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_REQUEST")
    assert "metadata in Stripe" in refused.json()["detail"]


class TestWhoMaySend:
    """The signature is the credential, and nothing else is asked for."""

    @pytest.fixture
    def told(self) -> dict[str, Any]:
        subject = f"u_{secrets.token_hex(4)}"
        return event("created", bought(id=subject, metadata={"quotagate_subject": subject}), NOW_S)

    def refused(self, shop: Shop, told: dict[str, Any], answer: httpx.Response) -> None:
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_SIGNATURE"), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert shop.secret not in answer.text
        assert shop.held(told["data"]["object"]["id"]) is None

    def test_a_wrong_secret(self, shop: Shop, told: dict[str, Any]) -> None:
        self.refused(shop, told, deliver(shop.gateway.url, told, "whsec_wrong_wrong"))

    def test_a_delivery_of_long_ago(self, shop: Shop, told: dict[str, Any]) -> None:
        self.refused(shop, told, deliver(shop.gateway.url, told, shop.secret, at_s=time.time() - 310))
        assert deliver(shop.gateway.url, told, shop.secret, at_s=time.time() - 280).json()["outcome"] == "applied"

    def test_a_body_that_was_changed_on_the_way(self, shop: Shop, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        headers = {"Stripe-Signature": signed(body, shop.secret)}
        changed = body.replace(b"price_starter", b"price_pro")
        self.refused(shop, told, httpx.post(shop.gateway.url + PATH, content=changed, headers=headers))

    @pytest.mark.parametrize(
        "header", ["", "t=1", "nonsense", "t=x,v1=y", f"t={'9' * 5_000},v1=0", "t=1,v1=ü", "v1=,t=,,==", "x" * 5_000]
    )
    def test_a_header_that_is_no_signature(self, shop: Shop, told: dict[str, Any], header: str) -> None:
        headers = {"Stripe-Signature": header.encode()}
        answer = httpx.post(shop.gateway.url + PATH, content=json.dumps(told).encode(), headers=headers)
        self.refused(shop, told, answer)

    def test_no_signature_and_two(self, shop: Shop, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        one = ("Stripe-Signature", signed(body, shop.secret))
        for headers in ([], [one, one], [("Authorization", f"Bearer {shop.tenant.key}")]):
            self.refused(shop, told, httpx.post(shop.gateway.url + PATH, content=body, headers=headers))

    def test_bytes_that_are_no_text(self, shop: Shop, told: dict[str, Any]) -> None:
        headers = {"Stripe-Signature": signed(b"\xff\xfe", shop.secret)}
        self.refused(shop, told, httpx.post(shop.gateway.url + PATH, content=b"\xff\xfe", headers=headers))

    def test_a_body_that_is_too_large(self, shop: Shop) -> None:
        answer = httpx.post(shop.gateway.url + PATH, content=b" " * (256 * 1024 + 1))
        assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")

    def test_both_secrets_of_a_tenant_are_good_while_one_is_replaced(self, shop: Shop, told: dict[str, Any]) -> None:
        answer = deliver(shop.gateway.url, told, f"whsec_{shop.tenant.name}_the_next_one")
        assert answer.json() == {"received": True, "outcome": "applied"}
        assert shop.send(told) == "duplicate"

    def test_another_tenants_secret_reaches_that_tenant_alone(
        self, system: System, shop: Shop, told: dict[str, Any], names: dict[str, str]
    ) -> None:
        other, secret = list(names.items())[1]
        subject = told["data"]["object"]["id"]
        with system.client(system.make_key(other)) as client:
            assert client.put("/v1/catalog", json=CATALOG).status_code == 200
            # The same event's id and the same subscription's, twice: once for each tenant.
            assert deliver(shop.gateway.url, told, secret).json()["outcome"] == "applied"
            assert shop.held(subject) is None
            assert shop.send(told) == "applied"
            ended = event("deleted", told["data"]["object"] | {"status": "canceled"}, NOW_S + 1)
            assert shop.send(ended) == "applied"
            assert client.get(f"/v1/subjects/{subject}/subscription").json()["status"] == "active"

    def test_the_log_tells_of_wrong_signatures_once_a_minute_and_of_no_secret(
        self, system: System, shop: Shop, told: dict[str, Any]
    ) -> None:
        with httpx.Client() as client:
            for _ in range(300):
                assert client.post(shop.gateway.url + PATH, content=b"{}").status_code == 400
        text = (system.data / "logs" / "stripe.log").read_text()
        assert 1 <= text.count("wrong or old signature") <= 3
        assert "whsec_" not in text

    def test_without_a_secret_there_is_no_such_route(self, system: System, told: dict[str, Any]) -> None:
        answer = deliver(system.urls["gateway"], told, "whsec_12345678")
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
        assert "QUOTAGATE_STRIPE_WEBHOOK_SECRETS" in answer.json()["detail"]


def test_what_says_nothing_of_a_subscription_is_acknowledged(shop: Shop) -> None:
    paid = {"id": "evt_1", "object": "event", "type": "invoice.paid", "created": NOW_S, "data": {"object": {}}}
    assert shop.send(paid) == "ignored"
