"""Changes of catalog and plan: seen by the next request, and never at the cost of what was used or answered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import Tenant
from tests.system import System

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
    system.command("catalog", "apply", str(file), "--tenant", tenant.name, "--data", str(system.data))


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


def test_what_a_catalog_asks_for_and_is_not_applied_yet_is_told(make_tenant: MakeTenant) -> None:
    tenant = make_tenant(CATALOG)
    plans = {"p": {"limits": {"m": {"limit": 9, "period": "month", "caps": {"day": 1}, "rollover": {"max": 2}}}}}
    document = {"metrics": {"m": {"on_outage": "allow"}}, "plans": plans}
    told = tenant.client.put("/v1/catalog?dry_run=true", json=document).json()["warnings"]
    assert [each.split(":")[0] for each in told] == ["plans.p.limits.m.rollover"]


def test_a_query_parameter_that_a_route_does_not_know_is_refused(make_tenant: MakeTenant) -> None:
    tenant = make_tenant(CATALOG)
    answer = tenant.client.get("/v1/subjects/u/status?at=2020-01-01T00:00:00Z")
    assert (answer.status_code, answer.json()["field"]) == (400, "at")
