"""The audit log as it is read: over HTTP in pages and streams, and at a shell."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ledger.act_reading import MEMBERS
from tests.acceptance.reported import refused
from tests.conftest import Tenant
from tests.system import System

CATALOG: dict[str, Any] = {
    "default_plan": "free",
    "metrics": {"calls": {}},
    "plans": {
        plan: {"rank": rank, "limits": {"calls": {"limit": 10, "period": "month"}}}
        for rank, plan in enumerate(("free", "pro"))
    },
}
REASON = "=1+1, said the caller\r\n\x1b[2Jüber"
MakeTenant = Callable[[str | dict[str, Any]], Tenant]


@pytest.fixture(scope="module")
def tenant(system: System) -> Iterator[Tenant]:
    """One that has done five things."""
    key = system.make_key("audited")
    with system.client(key) as client:
        made = Tenant("audited", key, client)
        assert client.put("/v1/catalog", json=CATALOG).status_code == 200
        made.subscribe("u", "free")
        made.subscribe("u", "pro")
        grant = {"metric": "calls", "amount": 5, "reason": REASON}
        assert client.post("/v1/subjects/u/grants", json=grant, headers={"X-Request-Id": "mine"}).status_code == 201
        yield made


def asked(tenant: Tenant, accept: str = "*/*", **query: Any) -> httpx.Response:
    words = {name.rstrip("_"): value for name, value in query.items()}
    return tenant.client.get("/v1/audit_log", params=words, headers={"accept": accept})


def items(tenant: Tenant, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        answer = asked(tenant, **query)
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        query["cursor"] = answer.json()["next_cursor"]
        if query["cursor"] is None:
            return found


class TestPages:
    def test_it_tells_what_was_done_the_newest_first(self, tenant: Tenant) -> None:
        found = items(tenant)
        assert [each["act"] for each in found] == [
            "grant.given", "subscription.written", "subscription.written", "catalog.applied", "api_key.made",
            "tenant.made",
        ]  # fmt: skip
        grant, upgrade = found[:2]
        assert tuple(grant) == MEMBERS
        assert (grant["actor"], grant["origin"]) == (tenant.key.split("_")[1], "127.0.0.1")
        assert (grant["reason"], grant["request_id"], grant["subject"], grant["object"]) == (
            REASON, "mine", "u", "calls",
        )  # fmt: skip
        assert grant["after"]["amount"] == 5
        assert (upgrade["before"]["plan"], upgrade["after"]["plan"]) == ("free", "pro")

    def test_pages_of_every_size_have_the_same_acts(self, tenant: Tenant) -> None:
        whole = items(tenant, limit=1_000)
        assert [items(tenant, limit=limit) for limit in (1, 2, 5)] == [whole] * 3
        assert items(tenant, limit=1, actor=whole[0]["actor"]) == [
            each for each in whole if each["actor"] == whole[0]["actor"]
        ]

    def test_it_is_narrowed_by_what_is_asked_for(self, tenant: Tenant) -> None:
        whole, own = items(tenant), tenant.key.split("_")[1]
        for query, picks in (
            ({"subject": "u"}, lambda act: act["subject"] == "u"),
            ({"act": "subscription.written"}, lambda act: act["act"] == "subscription.written"),
            ({"actor": own}, lambda act: act["actor"] == own),
            ({"actor": "settings", "act": "api_key.made"}, lambda act: act["act"] == "api_key.made"),
            ({"from_": whole[2]["at"]}, lambda act: act["at"] >= whole[2]["at"]),
            ({"to": whole[2]["at"]}, lambda act: act["at"] < whole[2]["at"]),
        ):
            assert items(tenant, **query) == [each for each in whole if picks(each)] != []
        assert items(tenant, subject="nobody") == items(tenant, to="2020-01-01T00:00:00Z") == []

    def test_what_cannot_be_understood_is_refused(self, tenant: Tenant) -> None:
        for query in (
            {"act": "x"}, {"act": ""}, {"subject": "a b"}, {"actor": "a b"}, {"from_": "yesterday"}, {"limit": 0},
            {"from_": "2026-11-02T00:00:00Z", "to": "2026-11-01T00:00:00Z"}, {"kind": "grant"}, {"cursor": "x"},
        ):  # fmt: skip
            refused(asked(tenant, **query), 400, "INVALID_REQUEST")

    def test_it_needs_the_scope_admin_and_knows_one_tenant(
        self, system: System, tenant: Tenant, make_tenant: MakeTenant
    ) -> None:
        with system.client(system.make_key("not-audited", "read", "ops", "consume")) as weak:
            assert refused(weak.get("/v1/audit_log"), 403, "FORBIDDEN")
        other = make_tenant(CATALOG)
        cursor = asked(tenant, limit=1).json()["next_cursor"]
        assert "audited" not in json.dumps(items(other)) and items(other, subject="u") == []
        refused(asked(other, limit=1, cursor=cursor), 400, "INVALID_REQUEST")
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert tenant.client.request(method, "/v1/audit_log").status_code == 405


class TestStreams:
    def test_a_stream_has_what_the_pages_have(self, tenant: Tenant) -> None:
        for query in ({}, {"subject": "u"}, {"act": "tenant.made"}):
            answer = asked(tenant, "application/x-ndjson", **query)
            assert answer.headers["content-type"].startswith("application/x-ndjson")
            assert [json.loads(line) for line in answer.text.splitlines()] == items(tenant, **query) != []

    def test_a_spreadsheet_runs_nothing_of_it(self, tenant: Tenant) -> None:
        answer = asked(tenant, "text/csv")
        assert 'filename="audit_log.csv"' in answer.headers["content-disposition"]
        head, grant, *others = csv.reader(io.StringIO(answer.text, newline=""))
        assert tuple(head) == MEMBERS and len(others) == len(items(tenant)) - 1
        cells = dict(zip(head, grant, strict=True))
        assert cells["reason"] == "'" + REASON
        assert json.loads(cells["after"]) == items(tenant)[0]["after"]

    def test_a_stream_is_whole(self, tenant: Tenant) -> None:
        refused(asked(tenant, "text/csv", limit=5), 400, "INVALID_REQUEST")


class TestAtAShell:
    def run(self, system: System, *words: str) -> str:
        return system.command("audit", "--tenant", "audited", *words, "--data", str(system.data)).stdout

    @pytest.mark.usefixtures("tenant")
    def test_it_tells_people_who_did_what_and_does_nothing_to_their_terminal(self, system: System) -> None:
        *_, upgrade, change, grant, given = self.run(system, "--subject", "u").splitlines()
        assert " subscription.written u pro  by " in upgrade and " from 127.0.0.1" in upgrade
        assert change == "    plan free → pro"
        assert "grant.given u calls" in grant and grant.endswith("=1+1, said the caller���[2Jüber")
        assert "amount 5" in given

    def test_programs_have_all_of_it(self, system: System, tenant: Tenant) -> None:
        found = [json.loads(line) for line in self.run(system, "--json", "--limit", "2").splitlines()]
        assert found == [{"tenant": "audited"} | each for each in items(tenant)[:2][::-1]]
        rows = list(csv.DictReader(io.StringIO(self.run(system, "--csv"), newline="")))
        assert [row["id"] for row in rows] == [each["id"] for each in items(tenant)][::-1]

    def test_what_an_operator_does_is_told_with_their_name(self, system: System) -> None:
        system.command("tenant", "create", "made-at-a-shell", "--data", str(system.data))
        told = system.command("audit", "--act", "tenant.made", "--actor", "cli", "--data", str(system.data)).stdout
        assert "  made-at-a-shell  tenant.made made-at-a-shell  by cli from " in told and "@" in told
        refused_ = system.command("audit", "--act", "tenant", "--data", str(system.data), check=False)
        assert refused_.returncode == 2 and "tenant.made" in refused_.stderr
