"""The OpenAPI document and the service say the same: what it takes, what it answers, with which headers."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import http_sf
import httpx
import pytest
import schemathesis
from jsonschema import Draft202012Validator

from gateway import answers, problems
from gateway.openapi_hot import HOT
from quota.demands import Asked
from quota.errors import CountersUnavailable, LedgerUnavailable
from tests.conftest import Tenant
from tests.schema_run import schemathesis_run
from tests.system import System

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
DEADLINE_S = 120
MAX_HOLDS = 1_000
"""Of one account."""
SUBJECT = "org/a:b"
CATALOG: dict[str, Any] = {
    "default_plan": "free",
    "upgrade_url": "https://example.com/upgrade?plan={plan}",
    "metrics": {"calls": {}, "tokens": {}, "seats": {"kind": "level"}, "views": {}, "extra": {}},
    "operations": {"chat": {"charges": {"calls": 1, "tokens": 50}}, "look": {}},
    "plans": {
        "free": {
            "limits": {
                "calls": {"limit": 100, "period": "month", "caps": {"day": 10}},
                "tokens": {"limit": 1000, "period": "month"},
                "seats": {"limit": 3},
                "views": {"period": "month"},
            }
        },
        "pro": {"rank": 1, "limits": {"calls": {"limit": 1000, "period": "month"}, "tokens": {"limit": 5000}}},
    },
}


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant(CATALOG)


def post(tenant: Tenant, path: str, body: Any = None, **headers: str) -> httpx.Response:
    return tenant.client.post(path, json=body, headers=headers)


def errors_of(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    found = Draft202012Validator({**schema, "components": document["components"]}).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in found]


def mismatches(document: dict[str, Any], route: str, answer: httpx.Response) -> list[str]:
    """Where a real answer is not as the document describes it: its status, type, headers and body."""
    name = f"{route} {answer.status_code}"
    described = document["paths"][route]["post"]["responses"].get(str(answer.status_code))
    if described is None:
        return [f"{name} is not described"]
    (media,) = described["content"]
    found = [] if answer.headers["content-type"] == media else [f"{name}: {answer.headers['content-type']}"]
    for header, says in described["headers"].items():
        sent = answer.headers.get(header)
        if sent is not None:
            value = int(sent) if says["schema"]["type"] == "integer" else sent
            found += [f"{name}: {header}: {error}" for error in errors_of(document, says["schema"], value)]
        elif says["required"]:
            found.append(f"{name}: {header} is missing")
    known = {header.lower() for header in described["headers"]}
    told = {"ratelimit", "ratelimit-policy", "retry-after", "idempotency-replayed"}.intersection(answer.headers)
    found += [f"{name}: {header} is not described" for header in sorted(told - known)]
    return found + [
        f"{name}: {error}" for error in errors_of(document, described["content"][media]["schema"], answer.json())
    ]


def test_schemathesis_finds_nothing(system: System, make_tenant: MakeTenant, tmp_path: Path) -> None:
    tenant, other = make_tenant("credits"), make_tenant("credits")
    run = schemathesis_run(system, tmp_path, tenant.key, other.key, "--seed", "1", deadline_s=DEADLINE_S)
    assert run.returncode == 0, run.stdout + run.stderr
    tested = re.search(r"Selected: (\d+)/(\d+)\n\s+Tested: (\d+)", run.stdout)
    assert tested is not None and len(set(tested.groups())) == 1, run.stdout
    # Its links lead from a consume to its refund, and from a reservation to both of its ends.
    system.drained()
    kinds = system.sql("SELECT DISTINCT kind FROM entries WHERE tenant = %s", tenant.name)
    assert {kind for (kind,) in kinds} >= {"consume", "refund", "hold", "commit", "release", "grant", "set"}


def test_the_document_is_one_of_openapi_3_1(document: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(document).validate()
    assert document["openapi"].startswith("3.1")


def test_every_object_of_an_answer_says_all_that_is_in_it(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for path, item in document["paths"].items():
        for operation in item.values():
            for status, response in operation["responses"].items():
                for media, content in response["content"].items():
                    if media == "application/json":
                        name = content["schema"]["$ref"].rpartition("/")[2]
                        forms = schemas[name].get("anyOf", [schemas[name]])
                        closed = [form for form in forms if "$ref" in form or form["additionalProperties"] is False]
                        assert closed == forms, (path, status, name)


def test_every_example_of_a_request_is_as_its_schema_says(document: dict[str, Any]) -> None:
    examples = 0
    for item in document["paths"].values():
        for operation in item.values():
            media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in media.get("examples", {}).values():
                assert errors_of(document, media["schema"], example["value"]) == []
                examples += 1
    assert examples >= len(HOT)


def test_the_document_says_what_a_key_does_not_remember_and_how_a_batch_is_repeated(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    by_metric = [schemas[name]["oneOf"][0] for name in ("ConsumeRequest", "BatchItem")]
    for form in (*by_metric, schemas["ReleaseRequest"]):
        assert "only a look" in form["properties"]["amount"]["description"]
    assert "send the same batch again whole" in schemas["BatchRequest"]["oneOf"][0]["description"]


class TestAnswers:
    """One real answer of each status that each hot route can give while both stores are there."""

    def answers(self, tenant: Tenant, other: Tenant) -> list[tuple[str, httpx.Response]]:
        receipt = tenant.consume(SUBJECT, "tokens", 10).json()["receipt"]
        operated = tenant.operate(SUBJECT, "chat").json()["receipt"]
        hold = {"subject": SUBJECT, "metric": "tokens", "amount": 5, "ttl_s": 60}
        held = [post(tenant, "/v1/reservations", hold) for _ in range(3)]
        first, second, third = (f"/v1/reservations/{each.json()['id']}" for each in held)
        commit, release = "/v1/reservations/{id}/commit", "/v1/reservations/{id}/release"
        seats = {"subject": SUBJECT, "metric": "seats"}
        post(tenant, "/v1/consume", {**seats, "amount": 2})
        items = [{"subject": SUBJECT, "metric": "tokens", "amount": amount} for amount in (1, 9_999, 1_000)]
        mixed = [*items, {"subject": SUBJECT, "operation": "chat"}, {"subject": SUBJECT, "metric": "none"}, 5]
        unknown = mixed[4]
        key = {"Idempotency-Key": "k1"}
        return [
            ("/v1/consume", tenant.consume(SUBJECT, "calls", 1, **key)),
            ("/v1/consume", tenant.consume(SUBJECT, "calls", 1, **key)),
            ("/v1/consume", tenant.consume(SUBJECT, "calls", 2, **key)),
            ("/v1/consume", tenant.operate(SUBJECT, "chat")),
            ("/v1/consume", tenant.operate(SUBJECT, "look")),
            ("/v1/consume", tenant.consume(SUBJECT, "views", 7)),
            ("/v1/consume", tenant.consume(SUBJECT, "calls", 10)),
            ("/v1/consume", tenant.consume(SUBJECT, "calls", 50)),
            ("/v1/consume", tenant.consume(SUBJECT, "calls", 500)),
            ("/v1/consume", tenant.consume(SUBJECT, "seats", 5)),
            ("/v1/consume", tenant.operate(SUBJECT, "chat", 50)),
            ("/v1/consume", other.consume(SUBJECT, "calls")),
            ("/v1/consume", tenant.consume(SUBJECT, "none")),
            ("/v1/check", tenant.check(SUBJECT, "calls")),
            ("/v1/check", tenant.check(SUBJECT, "calls", 10)),
            ("/v1/check", tenant.check(SUBJECT, "calls", 50)),
            ("/v1/check", other.check(SUBJECT, "calls")),
            ("/v1/check", post(tenant, "/v1/check", {"subject": SUBJECT, "operation": "chat", "quantity": 99})),
            ("/v1/check", tenant.check(SUBJECT, "none")),
            ("/v1/consume/batch", post(tenant, "/v1/consume/batch", {"items": mixed})),
            ("/v1/consume/batch", post(tenant, "/v1/consume/batch", {"items": items, "atomic": True})),
            ("/v1/consume/batch", post(tenant, "/v1/consume/batch", {"items": items[:1] * 2, "atomic": True}, **key)),
            ("/v1/consume/batch", post(tenant, "/v1/consume/batch", {"items": items[:1], "atomic": True}, **key)),
            ("/v1/consume/batch", post(tenant, "/v1/consume/batch", {"items": [unknown], "atomic": True})),
            ("/v1/refunds", post(tenant, "/v1/refunds", {"receipt": receipt, "amount": 4}, **key)),
            ("/v1/refunds", post(tenant, "/v1/refunds", {"receipt": receipt}, **key)),
            ("/v1/refunds", post(tenant, "/v1/refunds", {"receipt": operated})),
            ("/v1/refunds", post(tenant, "/v1/refunds", {"receipt": operated})),
            ("/v1/refunds", post(tenant, "/v1/refunds", {"receipt": "none"})),
            ("/v1/release", post(tenant, "/v1/release", seats, **key)),
            ("/v1/release", post(tenant, "/v1/release", {**seats, "amount": 2}, **key)),
            ("/v1/release", post(tenant, "/v1/release", {**seats, "amount": 9})),
            ("/v1/release", post(tenant, "/v1/release", {**seats, "metric": "none"})),
            ("/v1/reservations", held[0]),
            ("/v1/reservations", post(tenant, "/v1/reservations", {**hold, "amount": 9_999})),
            ("/v1/reservations", post(tenant, "/v1/reservations", {**hold, "metric": "none"})),
            ("/v1/reservations", post(tenant, "/v1/reservations", {**hold, "metric": "views"}, **key)),
            ("/v1/reservations", post(tenant, "/v1/reservations", hold, **key)),
            (commit, post(tenant, f"{first}/commit", {"amount": 9_999})),
            (commit, post(tenant, f"{first}/commit", {"amount": 4}, **key)),
            (commit, post(tenant, f"{first}/commit", {"amount": 5}, **key)),
            (commit, post(tenant, f"{first}/commit")),
            (commit, post(tenant, "/v1/reservations/rsv_none/commit")),
            (release, post(tenant, f"{second}/release", None, **key)),
            (release, post(tenant, f"{first}/release")),
            (release, post(tenant, f"{third}/release", None, **key)),
            (release, post(tenant, f"{third}/release")),
            (release, post(tenant, "/v1/reservations/rsv_none/release")),
        ]

    def one_hold_too_many(self, tenant: Tenant) -> tuple[str, httpx.Response]:
        hold = {"subject": "u_1", "metric": "views", "ttl_s": 60}
        *_, full, crowded = [post(tenant, "/v1/reservations", hold) for _ in range(MAX_HOLDS + 1)]
        assert (full.status_code, crowded.status_code) == (201, 409)
        return "/v1/reservations", crowded

    def refusals(self, system: System, tenant: Tenant) -> list[tuple[str, httpx.Response]]:
        """What every hot route answers to whoever has no key, or the wrong one, or sends what cannot be read."""
        hold = {"subject": SUBJECT, "metric": "tokens", "ttl_s": 60}
        held = post(tenant, "/v1/reservations", hold).json()["id"]
        found = []
        with system.client(system.make_key(tenant.name, "read")) as reader:
            for route in HOT:
                path = route.replace("{id}", held)
                too_much = b" " * (1024 * 1024 + 1)
                found += [
                    (route, tenant.client.post(path, content=b"[")),
                    (route, tenant.client.post(path, json={}, headers={"Idempotency-Key": '"open'})),
                    (route, httpx.post(f"{system.urls['gateway']}{path}")),
                    (route, reader.post(path, json={})),
                    (route, tenant.client.post(path, content=too_much)),
                ]
        return found

    def test_each_is_as_the_document_says(
        self, system: System, document: dict[str, Any], tenant: Tenant, make_tenant: MakeTenant
    ) -> None:
        other = make_tenant({name: value for name, value in CATALOG.items() if name != "default_plan"})
        found = [*self.answers(tenant, other), self.one_hold_too_many(tenant), *self.refusals(system, tenant)]
        assert [each for route, answer in found for each in mismatches(document, route, answer)] == []
        seen = {route: {answer.status_code for each, answer in found if each == route} for route in HOT}
        described = {route: set(map(int, document["paths"][route]["post"]["responses"])) for route in HOT}
        assert {route: described[route] - seen[route] for route in HOT} == {route: {500, 503} for route in HOT}

    @pytest.mark.parametrize("route", HOT)
    def test_those_of_an_outage_and_of_a_fault_are_too(self, document: dict[str, Any], route: str) -> None:
        for error in (CountersUnavailable("away"), LedgerUnavailable("away"), ValueError("a fault")):
            status, headers, body = problems.of_error(error, route)
            answer = httpx.Response(status, headers={**headers, "x-request-id": "r"}, content=body)
            assert mismatches(document, route, answer) == []

    @pytest.mark.parametrize("metrics", [[], ["calls"], ["calls", "tokens"]])
    def test_what_is_let_through_in_an_outage_is_too(self, document: dict[str, Any], metrics: list[str]) -> None:
        alone = answers.degraded("u_1", [Asked(metric, 1) for metric in metrics], "chat")
        result = {"status": 200, **json.loads(alone.body)}
        bodies = {"/v1/consume": alone.body, "/v1/consume/batch": json.dumps({"results": [result]}).encode()}
        for route, body in bodies.items():
            answer = httpx.Response(alone.status, headers=[*alone.headers, ("x-request-id", "r")], content=body)
            assert mismatches(document, route, answer) == []


class TestFields:
    """The structured fields of real answers, read with a library for them."""

    def fields(self, answer: httpx.Response) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters of each policy by its name, as RateLimit-Policy and RateLimit say them."""
        found = []
        for name in ("RateLimit-Policy", "RateLimit"):
            parsed = http_sf.parse(answer.headers[name].encode(), tltype="list")
            found.append({str(policy): dict(parameters) for policy, parameters in parsed})
        return found[0], found[1]

    def test_of_a_metric_with_a_cap_there_are_two_policies(self, tenant: Tenant) -> None:
        answer = tenant.consume(SUBJECT, "calls", 3)
        policies, states = self.fields(answer)
        assert {name: each["q"] for name, each in policies.items()} == {"calls": 100, "calls day": 10}
        assert {name: each["r"] for name, each in states.items()} == {"calls": 97, "calls day": 7}
        assert policies["calls day"]["w"] == 86_400
        assert policies["calls"]["w"] in {days * 86_400 for days in (28, 29, 30, 31)}
        assert all(0 < states[name]["t"] <= policies[name]["w"] for name in policies)

    def test_a_denial_says_when_to_come_again(self, tenant: Tenant) -> None:
        tenant.consume(SUBJECT, "calls", 10)
        denied = tenant.consume(SUBJECT, "calls")
        _, states = self.fields(denied)
        retry_after_s = http_sf.parse(denied.headers["Retry-After"].encode(), tltype="item")[0]
        assert denied.status_code == 429
        assert retry_after_s == denied.json()["retry_after_s"] == states["calls day"]["t"]
        assert states["calls day"]["r"] == 0

    @pytest.mark.parametrize(("metric", "most"), [("calls", 10), ("tokens", 1_000)])
    def test_nobody_is_told_to_wait_for_more_than_there_ever_is(self, tenant: Tenant, metric: str, most: int) -> None:
        tenant.consume(SUBJECT, metric)
        alone = [tenant.consume(SUBJECT, metric, amount) for amount in (most, most + 1)]
        assert [(each.status_code, "retry-after" in each.headers) for each in alone] == [(429, True), (429, False)]
        items = [{"subject": SUBJECT, "metric": metric, "amount": amount} for amount in (most, most + 1)]
        inside = post(tenant, "/v1/consume/batch", {"items": items}).json()["results"]
        for first, second in ([each.json() for each in alone], inside):
            assert (first["retry_after_s"] > 0, second["retry_after_s"]) == (True, None)

    def test_of_a_lifetime_there_is_no_window_and_no_waiting(self, tenant: Tenant) -> None:
        denied = tenant.consume(SUBJECT, "seats", 4)
        policies, states = self.fields(denied)
        assert (denied.status_code, policies, states) == (429, {"seats": {"q": 3}}, {"seats": {"r": 3}})
        assert "retry-after" not in denied.headers
        assert denied.json()["retry_after_s"] is None

    def test_an_operation_names_a_policy_for_every_metric_and_an_unlimited_one_none(self, tenant: Tenant) -> None:
        policies, states = self.fields(tenant.operate(SUBJECT, "chat"))
        assert list(policies) == list(states) == ["calls", "calls day", "tokens"]
        assert "ratelimit" not in tenant.consume(SUBJECT, "views", 7).headers

    def test_what_was_told_again_says_so(self, tenant: Tenant) -> None:
        again = [tenant.consume(SUBJECT, "calls", 1, **{"Idempotency-Key": '"k 1"'}) for _ in range(2)][1]
        assert again.headers["Idempotency-Replayed"] == "true"
        assert self.fields(again)[1]["calls"]["r"] == 99


@pytest.mark.parametrize("path", ["/v1/catalog", "/v1/plans", "/v1/subjects/u_1/subscription"])
def test_a_path_tells_all_of_its_methods(document: dict[str, Any], tenant: Tenant, path: str) -> None:
    template = path.replace("u_1", "{subject}")
    wanted = {method.upper() for method in document["paths"][template]} | {"OPTIONS"}
    for answer in (tenant.client.options(path), tenant.client.request("TRACE", path)):
        assert set(answer.headers["allow"].split(", ")) == wanted
