"""Consume, check and status, over HTTP against the whole system."""

from collections.abc import Callable
from typing import Any

import httpx

from tests.conftest import Tenant

MakeTenant = Callable[[str | dict[str, Any]], Tenant]


def test_a_consume_counts_and_says_what_is_left(make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    answer = tenant.consume("u_1", "credits", 5)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["used"], body["remaining"], body["limit"], body["plan"]) == (5, 30, 35, "free")
    assert body["receipt"]
    assert tenant.consume("u_1", "credits", 1).json()["used"] == 6


def test_a_denial_changes_nothing_and_names_the_upgrade(make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    tenant.consume("u_1", "credits", 30)
    denied = tenant.consume("u_1", "credits", 6)
    assert denied.status_code == 429
    assert denied.headers["content-type"] == "application/problem+json"
    body = denied.json()
    assert body["code"] == "QUOTA_EXCEEDED"
    assert (body["used"], body["remaining"], body["amount"]) == (30, 5, 6)
    assert body["upgrade"]["plan"] == "starter"
    assert int(denied.headers["retry-after"]) == body["retry_after_s"] > 0
    assert tenant.consume("u_1", "credits", 5).status_code == 200


def test_an_idempotency_key_charges_once(make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    first = tenant.consume("u_1", "credits", 5, **{"Idempotency-Key": "k1"})
    again = tenant.consume("u_1", "credits", 5, **{"X-Idempotency-Key": '"k1"'})
    assert again.status_code == 200
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json() | {"replayed": True}
    other = tenant.consume("u_1", "credits", 6, **{"Idempotency-Key": "k1"})
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert tenant.consume("u_1", "credits", 1).json()["used"] == 6


def test_a_key_may_come_under_both_names_when_it_is_the_same(make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    first = tenant.consume("u_1", "credits", 5, **{"Idempotency-Key": "k1", "X-Idempotency-Key": '"k1"'})
    again = tenant.consume("u_1", "credits", 5, **{"Idempotency-Key": "k1"})
    assert (first.status_code, again.json()) == (200, first.json() | {"replayed": True})
    two = tenant.consume("u_1", "credits", 5, **{"Idempotency-Key": "k1", "X-Idempotency-Key": "k2"})
    assert (two.status_code, two.json()["code"]) == (400, "INVALID_REQUEST")


def test_nothing_under_a_key_is_only_a_look(make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    looks = [tenant.consume("u_1", "credits", 0, **{"Idempotency-Key": "k1"}).json() for _ in range(2)]
    assert [(look["receipt"], look["replayed"]) for look in looks] == [(None, False)] * 2
    assert tenant.consume("u_1", "credits", 5, **{"Idempotency-Key": "k1"}).json()["used"] == 5


def test_a_plan_change_is_seen_by_the_next_request(make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    assert tenant.consume("u_1", "credits", 36).status_code == 429
    assert tenant.consume("u_1", "credits", 35).status_code == 200
    tenant.subscribe("u_1", "starter")
    answer = tenant.consume("u_1", "credits", 1)
    assert answer.status_code == 200
    assert (answer.json()["used"], answer.json()["limit"]) == (36, 200)


def test_every_answer_has_the_request_id(make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    for answer in (
        tenant.consume("u_1", "credits", 1, **{"X-Request-Id": "mine-1"}),
        tenant.client.get("/v1/subjects/u_1/status", headers={"X-Request-Id": "mine-1"}),
        tenant.client.get("/nothing/here", headers={"X-Request-Id": "mine-1"}),
    ):
        assert answer.headers["x-request-id"] == "mine-1"
    made: httpx.Response = tenant.consume("u_1", "credits", 1, **{"X-Request-Id": "not sane"})
    assert made.headers["x-request-id"] != "not sane"
