"""Overrides, and a status with an end, over HTTP: what the next request sees, and what stays in the ledger."""

from collections.abc import Callable
from typing import Any

import pytest

from quota.periods import to_rfc3339
from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
CATALOG: dict[str, Any] = {
    "default_plan": "free",
    "past_due_grace_days": 7,
    "metrics": {"m": {}, "n": {}},
    "plans": {
        "free": {"rank": 0, "limits": {"m": {"limit": 10, "period": "month"}}},
        "pro": {"rank": 1, "limits": {"m": {"limit": 100, "period": "month"}, "n": {"limit": 5}}},
    },
}
OVERRIDE = "/v1/subjects/u/overrides/m"


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant(CATALOG)


def entries(system: System, tenant: Tenant) -> list[tuple[Any, ...]]:
    query = (
        "SELECT metric, kind, amount, change, plan, reason FROM entries WHERE tenant = %s AND kind <> 'consume' "
        "ORDER BY occurred_at, n"
    )
    return system.sql(query, tenant.name)


def soon(system: System, in_ms: int) -> str:
    seconds, microseconds = system.redis().time()
    return to_rfc3339(int(seconds) * 1000 + int(microseconds) // 1000 + in_ms)


def test_the_next_request_sees_an_override_and_its_end(system: System, tenant: Tenant) -> None:
    assert tenant.consume("u", "m", 11).status_code == 429
    answer = tenant.client.put(OVERRIDE, json={"limit": 20, "reason": "a pilot"})
    document = {"metric": "m", "limit": 20, "expires_at": None, "reason": "a pilot"}
    assert (answer.status_code, answer.json()) == (200, {"subject": "u", **document})
    assert tenant.consume("u", "m", 11).json()["limit"] == 20
    assert tenant.client.get("/v1/subjects/u/overrides").json() == {"items": [document], "next_cursor": None}
    assert tenant.client.put(OVERRIDE, json={"limit": None, "reason": "a friend"}).json()["limit"] is None
    assert tenant.consume("u", "m", 1_000).json()["unlimited"] is True
    assert tenant.client.delete(f"{OVERRIDE}?reason=enough").status_code == 204
    assert (tenant.consume("u", "m", 1).status_code, tenant.status("u")["metrics"][0]["used"]) == (429, 1_011)
    assert tenant.client.get("/v1/subjects/u/overrides").json()["items"] == []
    assert tenant.client.delete(OVERRIDE).status_code == 404
    told = [
        ("m", "override", 20, 0, "free", "a pilot"),
        ("m", "override", 0, 0, "free", "a friend"),
        ("m", "override", 0, 0, "free", "enough"),
    ]
    eventually(lambda: [each for each in entries(system, tenant) if each[1] == "override"] == told, "they are entries")
    acts = system.sql("SELECT act, reason FROM acts WHERE tenant = %s AND object = 'm' ORDER BY id", tenant.name)
    assert acts == [("override.set", "a pilot"), ("override.set", "a friend"), ("override.removed", "enough")]


def test_one_that_ends_ends_by_itself_and_its_end_becomes_an_entry(system: System, tenant: Tenant) -> None:
    until = soon(system, 2_000)
    body = {"limit": 20, "reason": "an hour", "expires_at": until}
    assert tenant.client.put(OVERRIDE, json=body).json()["expires_at"] == until
    assert tenant.consume("u", "m", 15).status_code == 200
    eventually(lambda: tenant.consume("u", "m", 1).status_code == 429 or soon(system, 0) < until, "it has ended")
    eventually(lambda: soon(system, 0) > until and tenant.consume("u", "m", 1).status_code == 429, "it has ended")
    assert tenant.status("u")["metrics"][0]["limit"] == 10

    def told() -> list[Any]:
        return [each[2] for each in entries(system, tenant) if each[1] == "override"]

    eventually(lambda: told() == [20, 0], "its end is an entry", 30.0)


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        (OVERRIDE, {"reason": "r"}, 400, "limit"),
        (OVERRIDE, {"limit": 1}, 400, "reason"),
        (OVERRIDE, {"limit": -1, "reason": "r"}, 400, "limit"),
        (OVERRIDE, {"limit": 1.0, "reason": "r"}, 400, "limit"),
        (OVERRIDE, {"limit": 1, "reason": ""}, 400, "reason"),
        (OVERRIDE, {"limit": 1, "reason": "r", "expires_at": "2020-01-01T00:00:00Z"}, 400, "expires_at"),
        ("/v1/subjects/u/overrides/nothing", {"limit": 1, "reason": "r"}, 404, None),
    ],
)
def test_what_is_no_override_is_refused_and_changes_nothing(
    tenant: Tenant, path: str, body: dict[str, Any], status: int, field: str | None
) -> None:
    answer = tenant.client.put(path, json=body)
    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
    assert tenant.client.get("/v1/subjects/u/overrides").json()["items"] == []


def test_a_plan_change_is_an_entry_at_once_with_who_and_why(system: System, tenant: Tenant) -> None:
    tenant.subscribe("u", "pro", reason="they paid")
    told = [("m", "open", 0, 0, "pro", "they paid"), ("n", "open", 0, 0, "pro", "they paid")]
    eventually(lambda: sorted(entries(system, tenant)) == told, "each account's change is an entry")
    actors = system.sql("SELECT DISTINCT actor, request_id IS NULL FROM entries WHERE tenant = %s", tenant.name)
    acts = system.sql("SELECT actor, reason FROM acts WHERE act = 'subscription.written' AND tenant = %s", tenant.name)
    assert (actors, acts) == ([(acts[0][0], False)], [(acts[0][0], "they paid")])


def test_a_status_has_an_end_and_past_due_gets_the_catalogs(system: System, tenant: Tenant) -> None:
    until = soon(system, 1_500)
    answer = tenant.subscribe("u", "pro", status="trialing", status_until=until).json()
    assert answer["status_until"] == tenant.status("u")["subscription"]["status_until"] == until
    assert tenant.consume("u", "m", 50).json()["plan"] == "pro"
    eventually(lambda: soon(system, 0) > until, "the trial is over")
    assert tenant.consume("u", "m", 1).status_code == 429
    assert (tenant.status("u")["plan"], tenant.status("u")["subscription"]["status"]) == ("free", "trialing")
    first = tenant.subscribe("u", "pro", status="past_due").json()["status_until"]
    assert first > soon(system, 6 * 86_400_000)
    assert tenant.subscribe("u", "pro", status="past_due").json()["status_until"] == first
    assert tenant.subscribe("u", "pro", status="past_due", status_until=None).json()["status_until"] is None
    assert tenant.subscribe("u", "pro").json()["status_until"] is None


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "active", "status_until": "9999-01-01T00:00:00Z"},
        {"status": "past_due", "status_until": "2020-01-01T00:00:00Z"},
        {"status": "past_due", "status_until": "2026-11-31"},
        {"status": "trialing", "effective": "period_end", "status_until": "SOON"},
    ],
)
def test_an_end_that_is_none_is_refused(system: System, tenant: Tenant, fields: dict[str, str]) -> None:
    before = tenant.subscribe("u", "pro").json()
    body = {name: soon(system, 60_000) if value == "SOON" else value for name, value in fields.items()}
    answer = tenant.client.put("/v1/subjects/u/subscription", json={"plan": "pro", **body})
    assert answer.status_code == 400, answer.text
    assert tenant.client.get("/v1/subjects/u/subscription").json() == before
