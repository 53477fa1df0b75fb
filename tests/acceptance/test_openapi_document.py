"""The OpenAPI document: it is sound, and says what the service takes and answers."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from tests.conftest import Tenant

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
PUBLIC = {"/health/live", "/health/ready", "/metrics"}
SIGNED = {"/v1/webhooks/stripe"}


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def test_the_openapi_document_is_sound(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"]
    assert document["info"]["version"]
    names = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            names.append(operation["operationId"])
            assert operation["responses"], (method, path)
            assert all(response["description"] for response in operation["responses"].values()), (method, path)
            declared = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert declared == set(re.findall(r"\{(\w+)\}", path)), (method, path)
    assert len(names) == len(set(names))
    for reference in _references(document):
        target: Any = document
        for word in reference.removeprefix("#/").split("/"):
            target = target[word]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_the_openapi_document_tells_of_headers_and_parameters(document: dict[str, Any]) -> None:
    paths = document["paths"]
    assert "Idempotency-Key" in {each["name"] for each in paths["/v1/consume"]["post"]["parameters"]}
    assert "dry_run" in {each["name"] for each in paths["/v1/catalog"]["put"]["parameters"]}


def test_the_openapi_document_says_what_each_route_takes(document: dict[str, Any]) -> None:
    operations = {(method, path): each for path, item in document["paths"].items() for method, each in item.items()}
    with_body = {name for name, operation in operations.items() if "requestBody" in operation}
    assert with_body == {(method, path) for method, path in operations if method in {"post", "put"}}


def test_the_openapi_document_says_which_routes_need_a_key(document: dict[str, Any]) -> None:
    of_all = document.get("security", [])
    without = {
        path
        for path, item in document["paths"].items()
        for each in item.values()
        if not any(each.get("security", of_all))
    }
    assert without == PUBLIC | SIGNED


def _mismatches(document: dict[str, Any], path: str, answer: httpx.Response) -> list[str]:
    """Where an answer is not as the document describes it."""
    method = answer.request.method.lower()
    name = f"{method} {path} {answer.status_code}"
    responses = document["paths"][path][method]["responses"]
    described = responses.get(str(answer.status_code)) or responses["default"]
    media = answer.headers["content-type"].partition(";")[0]
    if media not in described["content"]:
        return [f"{name}: {media} is not described"]
    schema = {**described["content"][media].get("schema", {}), "components": document["components"]}
    value = answer.json() if media.endswith("json") else answer.text
    return [f"{name}: {each.json_path}: {each.message}" for each in Draft202012Validator(schema).iter_errors(value)]


def test_the_service_answers_as_the_openapi_document_says(document: dict[str, Any], make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    client = tenant.client
    subscription = "/v1/subjects/{subject}/subscription"
    answers = [
        ("/v1/consume", tenant.consume("u_1", "credits", 5)),
        ("/v1/consume", tenant.operate("u_1", "create_post")),
        ("/v1/consume", tenant.consume("u_1", "credits", 50)),
        ("/v1/consume", tenant.consume("u_1", "nothing")),
        ("/v1/consume", client.post("/v1/consume", json={})),
        ("/v1/consume", client.post("/v1/consume", headers={"authorization": "Bearer nobody-knows"})),
        ("/v1/check", tenant.check("u_1", "credits", 50)),
        (subscription, tenant.subscribe("u_1", "pro")),
        (subscription, client.get("/v1/subjects/u_1/subscription")),
        (subscription, client.get("/v1/subjects/u_2/subscription")),
        ("/v1/subjects/{subject}/status", client.get("/v1/subjects/u_1/status")),
        ("/v1/plans/{plan}", client.get("/v1/plans/pro")),
        ("/v1/plans/{plan}", client.get("/v1/plans/nothing")),
        ("/v1/catalog", client.put("/v1/catalog", json={"metrics": 1})),
        ("/v1/catalog", client.put("/v1/catalog?dry_run=true", json={})),
    ]
    answers += [(path, client.get(path)) for path in ("/v1/catalog", "/v1/plans", *sorted(PUBLIC))]
    assert [mismatch for path, answer in answers for mismatch in _mismatches(document, path, answer)] == []
