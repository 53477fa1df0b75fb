"""Who may send to Stripe's webhook: the signature is the credential, and nothing else is asked for."""

import json
import secrets
import time
from typing import Any

import httpx
import pytest

from tests.acceptance.shop import CATALOG, NOW_S, Shop, bought
from tests.stripe_shapes import PATH, deliver, event, signed
from tests.system import System


@pytest.fixture
def told() -> dict[str, Any]:
    subject = f"u_{secrets.token_hex(4)}"
    return event("created", bought(id=subject, metadata={"quotagate_subject": subject}), NOW_S)


def refused(shop: Shop, told: dict[str, Any], answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_SIGNATURE"), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert shop.secret not in answer.text
    assert shop.held(told["data"]["object"]["id"]) is None


def test_a_wrong_secret_is_refused(shop: Shop, told: dict[str, Any]) -> None:
    refused(shop, told, deliver(shop.door, told, "whsec_wrong_wrong"))


def test_a_delivery_of_long_ago_is_refused(shop: Shop, told: dict[str, Any]) -> None:
    refused(shop, told, deliver(shop.door, told, shop.secret, at_s=time.time() - 310))
    assert deliver(shop.door, told, shop.secret, at_s=time.time() - 280).json()["outcome"] == "applied"


def test_a_body_that_was_changed_on_the_way_is_refused(shop: Shop, told: dict[str, Any]) -> None:
    body = json.dumps(told).encode()
    headers = {"Stripe-Signature": signed(body, shop.secret)}
    changed = body.replace(b"price_starter", b"price_pro")
    refused(shop, told, shop.door.post(PATH, content=changed, headers=headers))


@pytest.mark.parametrize(
    "header", ["", "t=1", "nonsense", "t=x,v1=y", f"t={'9' * 5_000},v1=0", "t=1,v1=ü", "v1=,t=,,==", "x" * 5_000]
)
def test_a_header_that_is_no_signature_is_refused(shop: Shop, told: dict[str, Any], header: str) -> None:
    headers = {"Stripe-Signature": header.encode()}
    answer = shop.door.post(PATH, content=json.dumps(told).encode(), headers=headers)
    refused(shop, told, answer)


def test_no_signature_and_two_are_refused(shop: Shop, told: dict[str, Any]) -> None:
    body = json.dumps(told).encode()
    one = ("Stripe-Signature", signed(body, shop.secret))
    for headers in ([], [one, one], [("Authorization", f"Bearer {shop.tenant.key}")]):
        refused(shop, told, shop.door.post(PATH, content=body, headers=headers))


def test_bytes_that_are_no_text_is_refused(shop: Shop, told: dict[str, Any]) -> None:
    headers = {"Stripe-Signature": signed(b"\xff\xfe", shop.secret)}
    refused(shop, told, shop.door.post(PATH, content=b"\xff\xfe", headers=headers))


def test_a_body_that_is_too_large_is_refused(shop: Shop) -> None:
    answer = shop.door.post(PATH, content=b" " * (256 * 1024 + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")


def test_both_secrets_of_a_tenant_are_good_while_one_is_replaced(shop: Shop, told: dict[str, Any]) -> None:
    answer = deliver(shop.door, told, f"whsec_{shop.tenant.name}_the_next_one")
    assert answer.json() == {"received": True, "outcome": "applied"}
    assert shop.send(told) == "duplicate"


def test_another_tenants_secret_reaches_that_tenant_alone(
    system: System, shop: Shop, told: dict[str, Any], names: dict[str, str]
) -> None:
    other, secret = list(names.items())[1]
    subject = told["data"]["object"]["id"]
    with system.client(system.make_key(other)) as client:
        assert client.put("/v1/catalog", json=CATALOG).status_code == 200
        # The same event's id and the same subscription's, twice: once for each tenant.
        assert deliver(shop.door, told, secret).json()["outcome"] == "applied"
        assert shop.held(subject) is None
        assert shop.send(told) == "applied"
        ended = event("deleted", told["data"]["object"] | {"status": "canceled"}, NOW_S + 1)
        assert shop.send(ended) == "applied"
        assert client.get(f"/v1/subjects/{subject}/subscription").json()["status"] == "active"


def test_the_log_tells_of_wrong_signatures_once_a_minute_and_of_no_secret(
    system: System, shop: Shop, told: dict[str, Any]
) -> None:
    for _ in range(300):
        assert shop.door.post(PATH, content=b"{}").status_code == 400
    text = (system.data / "logs" / "stripe.log").read_text()
    assert 1 <= text.count("wrong or old signature") <= 3
    assert "whsec_" not in text


def test_without_a_secret_there_is_no_such_route(system: System, told: dict[str, Any]) -> None:
    with httpx.Client(base_url=system.urls["gateway"]) as client:
        answer = deliver(client, told, "whsec_12345678")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert "QUOTAGATE_STRIPE_WEBHOOK_SECRETS" in answer.json()["detail"]
