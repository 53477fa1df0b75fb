"""/v1/api_keys: a tenant makes, lists and revokes its own keys, and nobody gets more than he has."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.acceptance.door import assert_problem
from tests.conftest import Tenant
from tests.system import Gateway, System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
MEMBERS = {
    "id", "tenant", "name", "scopes", "created_at", "created_by", "expires_at", "last_used_at", "revoked_at",
    "replaces",
}  # fmt: skip
HEARD_AFTER_S = 5.0
"""A second is what is promised, to a machine that does nothing else."""


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant("credits")


@pytest.fixture(scope="module")
def second(system: System) -> Iterator[Gateway]:
    """One more gateway on the same stores."""
    gateway = Gateway(system, "second").start()
    yield gateway
    gateway.stop()


def make(tenant: Tenant, *scopes: str, **fields: Any) -> dict[str, Any]:
    answer = tenant.client.post("/v1/api_keys", json={"scopes": scopes, **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def listed(tenant: Tenant) -> list[dict[str, Any]]:
    return list(tenant.client.get("/v1/api_keys").json()["items"])


def in_(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def status_of(client: httpx.Client) -> int:
    return client.get("/v1/plans").status_code


class TestMake:
    def test_a_key_does_what_its_scopes_say_and_its_secret_is_shown_once(self, system: System, tenant: Tenant) -> None:
        answer = tenant.client.post("/v1/api_keys", json={"name": "checkout", "scopes": ["read", "consume"]})
        made = answer.json()
        assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
        assert made.keys() == MEMBERS | {"secret"}
        assert made["secret"].startswith(f"qg_{made['id']}_")
        assert (made["name"], made["scopes"], made["tenant"]) == ("checkout", ["consume", "read"], tenant.name)
        assert made["created_by"] == tenant.key.split("_")[1]
        assert [made[name] for name in ("expires_at", "last_used_at", "revoked_at", "replaces")] == [None] * 4
        with system.client(made["secret"]) as client:
            assert client.post("/v1/check", json={"subject": "u", "metric": "credits"}).status_code == 200
            assert client.get("/v1/api_keys").status_code == 200
            assert_problem(client.post("/v1/api_keys", json={"scopes": ["read"]}), 403, "FORBIDDEN")
        shown = [each for each in listed(tenant) if each["id"] == made["id"]]
        assert [each.keys() for each in shown] == [MEMBERS]
        assert made["secret"].split("_", 2)[2] not in tenant.client.get("/v1/api_keys").text

    def test_nobody_gives_a_scope_that_he_has_not_got(self, system: System, tenant: Tenant) -> None:
        maker = make(tenant, "admin", "read")["secret"]
        before = listed(tenant)
        with system.client(maker) as client:
            for scope in ("ops", "consume"):
                refused = client.post("/v1/api_keys", json={"scopes": ["read", scope]})
                assert assert_problem(refused, 403, "FORBIDDEN")["scope"] == scope
            assert [each["id"] for each in listed(tenant)] == [each["id"] for each in before]
            assert client.post("/v1/api_keys", json={"scopes": ["admin", "read"]}).status_code == 201

    def test_what_cannot_be_understood_makes_no_key(self, tenant: Tenant) -> None:
        good: dict[str, Any] = {"scopes": ["read"]}
        bad: list[Any] = [
            {}, [], None, {"scopes": []}, {"scopes": "read"}, {"scopes": ["write"]}, {"scopes": ["read", "read"]},
            {"scopes": [1]}, {"scopes": None}, good | {"tenant": "another"}, good | {"id": "x" * 12},
            good | {"name": ""}, good | {"name": "x" * 101}, good | {"name": 5}, good | {"name": "a\u0000b"},
            good | {"name": "line\n"}, good | {"name": "\u001b[2J"}, good | {"expires_at": in_(-1)},
            good | {"expires_at": 0}, good | {"expires_at": "tomorrow"}, good | {"expires_at": "2030-01-01"},
            good | {"expires_at": "9999-12-31T23:59:59-23:00"},
        ]  # fmt: skip
        before = [each["id"] for each in listed(tenant)]
        for body in bad:
            assert_problem(tenant.client.post("/v1/api_keys", json=body), 400, "INVALID_REQUEST")
        assert [each["id"] for each in listed(tenant)] == before

    def test_a_key_expires_in_every_gateway(self, system: System, second: Gateway, tenant: Tenant) -> None:
        until = in_(2)
        made = make(tenant, "read", expires_at=until)
        assert timedelta(0) <= instant(until) - instant(made["expires_at"]) < timedelta(milliseconds=1)
        with system.client(made["secret"]) as first, second.client(made["secret"]) as other:
            assert [status_of(first), status_of(other)] == [200, 200]
            for client in (first, other):
                eventually(lambda client=client: status_of(client) == 401, "it has expired")
                assert instant(in_(0)) >= instant(made["expires_at"])
                assert "expired" in client.get("/v1/plans").json()["detail"]


class TestList:
    def test_it_pages_through_all_of_them_revoked_ones_as_well(self, tenant: Tenant) -> None:
        made = [make(tenant, "read", name=f"number {number}")["id"] for number in range(4)]
        assert tenant.client.delete(f"/v1/api_keys/{made[0]}").status_code == 204
        seen, cursor = [], None
        while True:
            page = tenant.client.get(
                "/v1/api_keys", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
            ).json()
            seen += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert [each["id"] for each in seen][1:] == made
        assert [each["revoked_at"] is None for each in seen] == [True, False, True, True, True]

    def test_it_says_when_a_key_was_used_last(self, system: System, tenant: Tenant) -> None:
        used, unused, since = make(tenant, "read"), make(tenant, "read"), in_(-1)
        with system.client(used["secret"]) as client:
            assert status_of(client) == 200

        def noted() -> dict[str, Any]:
            return {each["id"]: each["last_used_at"] for each in listed(tenant)}

        eventually(lambda: noted()[used["id"]], "the use was noted")
        assert instant(since) < instant(noted()[used["id"]]) < instant(in_(0))
        assert noted()[unused["id"]] is None

    def test_a_cursor_of_another_tenants_list_is_none(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        make(tenant, "read")
        cursor = tenant.client.get("/v1/api_keys", params={"limit": 1}).json()["next_cursor"]
        refused = make_tenant("credits").client.get("/v1/api_keys", params={"cursor": cursor})
        assert_problem(refused, 400, "INVALID_REQUEST")


class TestRevoke:
    def test_every_gateway_hears_of_it(self, system: System, second: Gateway, tenant: Tenant) -> None:
        made = make(tenant, "read")
        with system.client(made["secret"]) as first, second.client(made["secret"]) as other:
            assert [status_of(first), status_of(other)] == [200, 200]
            for _ in range(2):
                answer = tenant.client.delete(f"/v1/api_keys/{made['id']}")
                assert (answer.status_code, answer.content) == (204, b"")
            for client in (first, other):
                eventually(lambda client=client: status_of(client) == 401, "it heard of it", HEARD_AFTER_S)

    def test_another_tenants_key_is_not_there_and_lives_on(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        theirs, other = make(tenant, "read"), make_tenant("credits")
        for key_id in (theirs["id"], "nobodys", tenant.key.split("_")[1]):
            assert_problem(other.client.delete(f"/v1/api_keys/{key_id}"), 404, "NOT_FOUND")
        assert {each["revoked_at"] for each in listed(tenant)} == {None}
        assert theirs["id"] not in other.client.get("/v1/api_keys").text

    def test_the_last_key_that_can_make_others_stays_until_there_is_another(
        self, system: System, tenant: Tenant
    ) -> None:
        own = tenant.key.split("_")[1]
        make(tenant, "read")
        assert_problem(tenant.client.delete(f"/v1/api_keys/{own}"), 409, "CONFLICT")
        successor = make(tenant, "admin", "read")
        assert tenant.client.delete(f"/v1/api_keys/{own}").status_code == 204
        with system.client(successor["secret"]) as client:
            refused = assert_problem(client.delete(f"/v1/api_keys/{successor['id']}"), 409, "CONFLICT")
            assert "make that first" in refused["detail"]
            assert status_of(client) == 200


def test_a_thousand_wrong_keys_leave_the_right_one_its_way_and_no_line_in_the_log(
    system: System, second: Gateway, tenant: Tenant
) -> None:
    """Ten thousand, and what they cost in queries: tests/unit/test_auth.py."""
    log = system.data / "logs" / "second.log"
    with second.client(tenant.key) as right, second.client("qg_0123456789ab_" + "x" * 43) as wrong:
        assert status_of(right) == 200
        before = log.read_text()
        for number in range(500):
            guess = {"authorization": f"Bearer qg_{number:012x}_{'x' * 43}"}
            assert wrong.get("/v1/plans", headers=guess).status_code == 401
            assert wrong.post("/v1/consume", headers=guess).status_code == 401
        assert status_of(right) == 200
    assert log.read_text() == before


def test_a_secret_is_in_no_log_and_no_table(system: System, second: Gateway, tenant: Tenant) -> None:
    made = make(tenant, "read", "admin", name="kept nowhere")
    for gateway in (system, second):
        with gateway.client(made["secret"]) as client:
            assert status_of(client) == 200
            assert client.put("/v1/catalog", json={}).status_code in {200, 400, 409}
            assert client.post("/v1/consume", content=b"[").status_code == 403
    tenant.client.delete(f"/v1/api_keys/{made['id']}")
    secret = made["secret"].split("_", 2)[2]
    for log in [*system.data.glob("*.log"), *(system.data / "logs").glob("*.log")]:
        assert secret not in log.read_text(errors="replace"), log.name
    tables = [name for (name,) in system.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    assert "api_keys" in tables
    for table in tables:
        held = system.sql(f"SELECT coalesce(string_agg(row::text, ' '), '') FROM {table} AS row")[0][0]
        assert secret not in held and secret.encode().hex() not in held, table
        assert (made["id"] in held) or table != "api_keys"
