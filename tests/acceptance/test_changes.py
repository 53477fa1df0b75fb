"""Changes of catalog and plan: seen by the next request, and never at the cost of what was used or answered; and the
list of plans."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]

CATALOG: dict[str, Any] = {
    "default_plan": "month",
    "metrics": {"m": {}, "extra": {}},
    "operations": {"o": {"charges": {}}},
    "plans": {
        "month": {"rank": 0, "limits": {"m": {"limit": 10, "period": "month"}, "extra": {}}},
        "day": {"rank": 1, "limits": {"m": {"limit": 20, "period": "day"}, "extra": {}}},
    },
}


def _apply_from_a_shell(system: System, tenant: Tenant, document: dict[str, Any], folder: Path) -> None:
    """As another process would: the gateway under test is not told but by Redis."""
    file = folder / "catalog.json"
    file.write_text(json.dumps(document))
    system.command("catalog", "apply", str(file), "--yes", "--tenant", tenant.name, "--data", str(system.data))


def test_an_operation_that_was_free_costs_from_the_next_request_on(
    system: System, make_tenant: MakeTenant, tmp_path: Path
) -> None:
    tenant = make_tenant(CATALOG)
    assert tenant.operate("u", "o").json()["charges"] == []
    _apply_from_a_shell(system, tenant, CATALOG | {"operations": {"o": {"charges": {"m": 11}}}}, tmp_path)
    assert tenant.operate("u", "o").status_code == 429


def test_a_status_survives_a_metric_that_was_taken_out_elsewhere(
    system: System, make_tenant: MakeTenant, tmp_path: Path
) -> None:
    tenant = make_tenant(CATALOG)
    assert {each["metric"] for each in tenant.status("u")["metrics"]} == {"extra", "m"}
    plans = {name: plan | {"limits": {"m": plan["limits"]["m"]}} for name, plan in CATALOG["plans"].items()}
    _apply_from_a_shell(system, tenant, CATALOG | {"metrics": {"m": {}}, "plans": plans}, tmp_path)
    assert [each["metric"] for each in tenant.status("u")["metrics"]] == ["m"]


def test_what_was_taken_of_a_metric_that_has_left_the_catalog_is_settled_and_given_back(
    make_tenant: MakeTenant,
) -> None:
    tenant, stranger = make_tenant(CATALOG), make_tenant({"metrics": {}})
    taken = tenant.consume("u", "extra", 3).json()["receipt"]
    held = [
        tenant.client.post(
            "/v1/reservations", json={"subject": "u", "metric": "extra", "amount": 2, "ttl_s": 60}
        ).json()["id"]
        for _ in range(2)
    ]
    plans = {name: plan | {"limits": {"m": plan["limits"]["m"]}} for name, plan in CATALOG["plans"].items()}
    assert tenant.client.put("/v1/catalog", json=CATALOG | {"metrics": {"m": {}}, "plans": plans}).status_code == 200
    foreign = stranger.client.post(f"/v1/reservations/{held[0]}/commit", json={})
    assert (foreign.status_code, foreign.json()["code"]) == (404, "RESERVATION_NOT_FOUND")
    committed = tenant.client.post(f"/v1/reservations/{held[0]}/commit", json={})
    assert (committed.status_code, committed.json()["used"]) == (200, 5)
    released = tenant.client.post(f"/v1/reservations/{held[1]}/release", json={})
    assert (released.status_code, released.json()["held"]) == (200, 0)
    refunded = tenant.client.post("/v1/refunds", json={"receipt": taken})
    assert (refunded.status_code, refunded.json()["refunded"]) == (200, 3)
    assert tenant.consume("u", "extra", 1).json()["code"] == "UNKNOWN_METRIC"


def test_a_repeat_gets_its_first_answer_though_the_metric_has_left_the_catalog(make_tenant: MakeTenant) -> None:
    tenant = make_tenant(CATALOG)
    first = tenant.consume("u", "extra", 3, **{"Idempotency-Key": "k"})
    plans = {name: plan | {"limits": {"m": plan["limits"]["m"]}} for name, plan in CATALOG["plans"].items()}
    assert tenant.client.put("/v1/catalog", json=CATALOG | {"metrics": {"m": {}}, "plans": plans}).status_code == 200
    again = tenant.consume("u", "extra", 3, **{"Idempotency-Key": "k"})
    assert (again.status_code, again.json()) == (200, first.json() | {"replayed": True})
    assert tenant.consume("u", "extra", 3, **{"Idempotency-Key": "new"}).status_code == 404


def test_a_free_operation_remembers_its_idempotency_key(make_tenant: MakeTenant) -> None:
    tenant = make_tenant(CATALOG)
    assert tenant.operate("u", "o", 1, **{"Idempotency-Key": "k"}).json()["replayed"] is False
    assert tenant.operate("u", "o", 1, **{"Idempotency-Key": "k"}).json()["replayed"] is True
    assert tenant.operate("u", "o", 2, **{"Idempotency-Key": "k"}).status_code == 422


def test_a_query_parameter_that_a_route_does_not_know_is_refused(make_tenant: MakeTenant) -> None:
    tenant = make_tenant(CATALOG)
    answer = tenant.client.get("/v1/subjects/u/status?when=2020-01-01T00:00:00Z")
    assert (answer.status_code, answer.json()["field"]) == (400, "when")


class TestPlans:
    """The list that pages first; the others do it by the same means."""

    @pytest.fixture
    def tenant(self, make_tenant: MakeTenant) -> Tenant:
        ranks = random.Random(1).sample(range(1000), 150)
        return make_tenant({"metrics": {}, "plans": {f"p{rank}": {"rank": rank} for rank in ranks}})

    def page(self, tenant: Tenant, **query: str | int) -> tuple[list[int], str | None]:
        answer = tenant.client.get("/v1/plans", params=query)
        assert answer.status_code == 200, answer.text
        return [each["rank"] for each in answer.json()["items"]], answer.json()["next_cursor"]

    def test_pages_of_any_size_add_up_to_the_whole_list_in_its_order(self, tenant: Tenant) -> None:
        whole, end = self.page(tenant, limit=1000)
        assert (whole, len(whole), end) == (sorted(whole), 150, None)
        for limit in (1, 7, 50, 149, 150):
            found, cursor = self.page(tenant, limit=limit)
            pages = 1
            while cursor is not None:
                items, cursor = self.page(tenant, limit=limit, cursor=cursor)
                assert 0 < len(items) <= limit
                assert items[0] > found[-1]
                found, pages = found + items, pages + 1
            assert (found, pages) == (whole, -(-150 // limit))

    def test_a_page_has_a_hundred_items_if_nobody_says_how_many(self, tenant: Tenant) -> None:
        items, cursor = self.page(tenant)
        assert (len(items), cursor is None) == (100, False)

    def test_what_is_taken_out_meanwhile_shifts_nothing(self, tenant: Tenant) -> None:
        whole, _ = self.page(tenant, limit=1000)
        _, cursor = self.page(tenant, limit=10)
        left = {f"p{rank}": {"rank": rank} for rank in whole if rank != whole[9]}
        assert tenant.client.put("/v1/catalog", json={"metrics": {}, "plans": left}).status_code == 200
        assert self.page(tenant, limit=5, cursor=cursor or "")[0] == whole[10:15]

    def test_a_limit_or_a_cursor_that_is_none_is_refused(self, tenant: Tenant) -> None:
        limits = ("0", "1001", "-1", "1.0", "1e2", "ten", "", "5&limit=6", "10000")
        cursors = ("", "x", "WzFd&cursor=WzFd", "WyJhIl0", "WzEsMl0", "%ff", "W" * 2000)
        queries = [f"limit={each}" for each in limits] + [f"cursor={each}" for each in cursors] + ["page=2"]
        for query in queries:
            answer = tenant.client.get(f"/v1/plans?{query}")
            field = query.partition("=")[0]
            assert (answer.status_code, answer.json()["field"]) == (400, field), query


ROLLING: dict[str, Any] = {
    "metrics": {"m": {}},
    "plans": {
        "rolling": {"rank": 0, "limits": {"m": {"limit": 10, "period": "month", "rollover": {"max": 5}}}},
        "life": {"rank": 1, "limits": {"m": {"limit": 3}}},
    },
}


class TestAtThePeriodsEnd:
    def put(self, tenant: Tenant, plan: str, **fields: Any) -> dict[str, Any]:
        return dict(tenant.subscribe("u", plan, **fields).json())

    def test_what_is_scheduled_is_shown_and_nothing_changes_before(self, make_tenant: MakeTenant) -> None:
        tenant = make_tenant(CATALOG)
        self.put(tenant, "month", anchor="2026-01-31T06:00:00Z")
        answer = self.put(tenant, "day", effective="period_end", add_ons={})
        assert (answer["plan"], answer["anchor"]) == ("month", "2026-01-31T06:00:00Z")
        assert tenant.consume("u", "m", 11).status_code == 429
        (period,) = {each["period"]["end"] for each in tenant.status("u")["metrics"] if each["metric"] == "m"}
        scheduled = {"at": period, "plan": "day", "status": "active", "anchor": None, "add_ons": {}}
        assert answer["scheduled"] == tenant.status("u")["subscription"]["scheduled"] == scheduled
        assert tenant.client.get("/v1/subjects/u/subscription").json() == answer
        assert self.put(tenant, "day")["scheduled"] is None
        assert tenant.consume("u", "m", 11).status_code == 200

    def test_it_needs_a_subscription_and_a_period_that_ends(self, make_tenant: MakeTenant) -> None:
        tenant = make_tenant(ROLLING)
        body = {"plan": "rolling", "effective": "period_end"}
        assert tenant.client.put("/v1/subjects/u/subscription", json=body).status_code == 404
        self.put(tenant, "life")
        answer = tenant.client.put("/v1/subjects/u/subscription", json=body)
        assert (answer.status_code, answer.json()["field"]) == (400, "effective")
        assert tenant.status("u")["subscription"]["scheduled"] is None

    def test_a_period_of_which_something_goes_on_is_opened_though_nothing_is_used(
        self, system: System, make_tenant: MakeTenant
    ) -> None:
        tenant = make_tenant(ROLLING)
        self.put(tenant, "rolling")
        where = (tenant.name, "u")
        query = "SELECT kind, change, used_after FROM entries WHERE (tenant, subject) = (%s, %s)"
        eventually(lambda: system.sql(query, *where) == [("open", 0, 0)], "its period is opened")
        assert tenant.status("u")["metrics"][0]["used"] == 0
        self.put(tenant, "rolling")
        tenant.consume("u", "m", 2)
        kinds = [("consume", 2, 2), ("open", 0, 0)]
        eventually(lambda: sorted(system.sql(query, *where)) == kinds, "it is opened once")
