"""POST /v1/consume/batch, over HTTP against the whole system."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.asking import CATALOG, metric, post
from tests.conftest import Tenant
from tests.system import System

MakeTenant = Callable[[str | dict[str, Any]], Tenant]


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant(CATALOG)


class TestBatch:
    def test_each_item_has_its_own_result_in_the_order_given(self, tenant: Tenant) -> None:
        items: list[Any] = [
            {"subject": "u", "metric": "tokens", "amount": 600},
            {"subject": "u", "metric": "tokens", "amount": 600},
            {"subject": "u", "metric": "tokens", "amount": 400},
            {"subject": "v", "operation": "chat"},
            {"subject": "u", "metric": "nothing"},
            {"subject": "u", "metric": "tokens", "amount": "5"},
            "nonsense",
            {"subject": "w", "metric": "calls", "amount": 11},
        ]
        results = post(tenant, "/v1/consume/batch", {"items": items}).json()["results"]
        assert [each["status"] for each in results] == [200, 429, 200, 200, 404, 400, 400, 429]
        assert [each["used"] for each in results[:3]] == [600, 600, 1000]
        assert results[4]["code"] == "UNKNOWN_METRIC"

    def test_a_thousand_items_of_one_account_are_decided_in_order(self, tenant: Tenant) -> None:
        items = [{"subject": "u", "metric": "tokens", "amount": 1 + place % 2} for place in range(1000)]
        results = post(tenant, "/v1/consume/batch", {"items": items}).json()["results"]
        used = 0
        for item, result in zip(items, results, strict=True):
            fits = used + int(str(item["amount"])) <= 1000
            used += int(str(item["amount"])) if fits else 0
            assert (result["status"], result["used"]) == (200 if fits else 429, used)
        assert used == 1000
        assert post(tenant, "/v1/consume/batch", {"items": [*items, items[0]]}).status_code == 400

    def test_an_atomic_one_charges_all_or_none_of_one_subject(self, tenant: Tenant) -> None:
        items = [{"subject": "u", "metric": "tokens", "amount": 500}, {"subject": "u", "operation": "chat"}]
        body = {"items": items, "atomic": True}
        first = post(tenant, "/v1/consume/batch", body, **{"Idempotency-Key": "b"}).json()["results"]
        again = post(tenant, "/v1/consume/batch", body, **{"Idempotency-Key": "b"})
        assert [each["status"] for each in first] == [200, 200]
        assert again.headers["idempotency-replayed"] == "true"
        assert metric(tenant, "u", "tokens")["used"] == 550
        denied = post(tenant, "/v1/consume/batch", body).json()["results"]
        assert [each["status"] for each in denied] == [429, 429]
        assert (metric(tenant, "u", "tokens")["used"], metric(tenant, "u", "calls")["used"]) == (550, 1)
        mixed = {"items": [*items, {"subject": "v", "metric": "tokens"}], "atomic": True}
        assert post(tenant, "/v1/consume/batch", mixed).status_code == 400

    def test_keys_of_items_and_of_the_whole_make_it_safe_to_repeat(self, tenant: Tenant) -> None:
        items = [
            {"subject": "u", "metric": "tokens", "idempotency_key": "a"},
            {"subject": "u", "metric": "tokens", "idempotency_key": "a"},
            {"subject": "u", "metric": "tokens", "amount": 2, "idempotency_key": "a"},
            {"subject": "u", "metric": "tokens"},
        ]
        first = post(tenant, "/v1/consume/batch", {"items": items}, **{"Idempotency-Key": "w"}).json()["results"]
        assert [each["status"] for each in first] == [200, 200, 422, 200]
        assert [each.get("replayed") for each in first] == [False, True, None, False]
        again = post(tenant, "/v1/consume/batch", {"items": items}, **{"Idempotency-Key": "w"}).json()["results"]
        assert [each.get("replayed") for each in again] == [True, True, None, True]
        assert metric(tenant, "u", "tokens")["used"] == 2

    def test_the_keys_of_the_whole_are_none_that_an_item_can_have(self, system: System, tenant: Tenant) -> None:
        own = {"subject": "u", "metric": "tokens", "idempotency_key": "w#1"}
        items = [own, {"subject": "u", "metric": "tokens"}]
        first, again = [post(tenant, "/v1/consume/batch", {"items": items}, **{"Idempotency-Key": "w"}) for _ in "12"]
        assert [each.get("replayed") for each in first.json()["results"]] == [False, False]
        assert [each.get("replayed") for each in again.json()["results"]] == [True, True]
        system.drained()
        keys = system.sql("SELECT key FROM idempotency_keys WHERE tenant = %s ORDER BY key", tenant.name)
        assert keys == [("w#1",), ("w§1",)]
        theirs = {"items": [{**own, "idempotency_key": "w§1"}]}
        assert post(tenant, "/v1/consume/batch", theirs).json()["results"][0]["status"] == 400
