"""The OpenAPI document: routed resources as Litestar describes them, and the hot path, which it does not see."""

from copy import deepcopy
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin

from gateway.requests import ConsumeRequest
from quota.catalog import Catalog

_PERIOD = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "enum": ["day", "week", "month", "year", "lifetime"]},
        "start": {"type": ["string", "null"], "format": "date-time"},
        "end": {"type": ["string", "null"], "format": "date-time"},
    },
    "required": ["kind", "start", "end"],
}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
_CHARGE: dict[str, Any] = {
    "metric": {"type": "string"},
    "amount": _COUNT,
    "plan": {"type": ["string", "null"]},
    "limit": {**_COUNT, "type": ["integer", "null"]},
    "used": _COUNT,
    "held": _COUNT,
    "remaining": {**_COUNT, "type": ["integer", "null"]},
    "unlimited": {"type": "boolean"},
    "enforcement": {"type": "string", "enum": ["hard", "soft"]},
    "overage": _COUNT,
    "warning": {"type": ["integer", "null"]},
    "period": _PERIOD,
}
_DECISION = {
    "type": "object",
    "properties": {
        "allowed": {"type": "boolean"},
        "subject": {"type": "string"},
        "operation": {"type": "string"},
        **_CHARGE,
        "charges": {"type": "array", "items": {"type": "object", "properties": _CHARGE}},
        "receipt": {"type": ["string", "null"]},
        "replayed": {"type": "boolean"},
    },
    "required": ["allowed", "subject", "receipt", "replayed"],
}
PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail", "code"],
}
_PROBLEMS = {
    400: "The body or a header cannot be understood; nothing was changed",
    401: "No key, or one that is not known",
    403: "The key lacks the scope, or the subject has no plan",
    404: "No such thing in this tenant",
    413: "The body is too large",
    422: "The idempotency key was used with another body",
    429: "Denied: the quota does not suffice; nothing was changed",
    503: "The counters or the ledger cannot be reached",
}


class Document(JsonRenderPlugin):
    """Serves the document at /schema/openapi.json, completed by what Litestar does not see."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return msgspec.json.encode(complete(deepcopy(openapi_schema)))


def _operation(summary: str, operation_id: str, statuses: tuple[int, ...]) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "200": {"description": "The decision", "content": {"application/json": {"schema": _reference("Decision")}}}
    }
    for status in statuses:
        responses[str(status)] = _problem_response(_PROBLEMS[status])
    return {
        "summary": summary,
        "operationId": operation_id,
        "security": [{"api_key": []}],
        "requestBody": _json_body(_reference("ConsumeRequest")),
        "responses": responses,
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json_body(schema: dict[str, str]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _problem_response(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/problem+json": {"schema": _reference("Problem")}}}


def _complete_operation(operation: dict[str, Any], *, needs_key: bool) -> None:
    if needs_key:
        operation["security"] = [{"api_key": []}]
        for status in (400, 401, 403, 404, 413, 503):
            operation["responses"][str(status)] = _problem_response(_PROBLEMS[status])
    operation["responses"]["default"] = _problem_response("What went wrong")


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Litestar's document with the hot path, the key and the problem document added."""
    _, components = msgspec.json.schema_components(
        [ConsumeRequest, Catalog], ref_template="#/components/schemas/{name}"
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= components | {"Decision": _DECISION, "Problem": PROBLEM}
    document["components"]["securitySchemes"] = {"api_key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            _complete_operation(operation, needs_key=path.startswith("/v1/"))
    readiness = {"content": {"application/json": {"schema": {"type": "object", "required": ["status", "parts"]}}}}
    document["paths"]["/health/ready"]["get"]["responses"] |= {
        "200": {"description": "Every part answers", **readiness},
        "503": {"description": "Some part does not", **readiness},
    }
    document["paths"]["/metrics"]["get"]["responses"]["200"] = {
        "description": "Prometheus text",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    document["paths"]["/v1/catalog"]["put"]["requestBody"] = _json_body(_reference("Catalog"))
    consume = _operation("Check and deduct in one atomic step", "Consume", (400, 401, 403, 404, 413, 422, 429, 503))
    consume["parameters"] = [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }
    ]
    check = _operation("The same answer, and nothing is deducted", "Check", (400, 401, 403, 404, 413, 503))
    document["paths"]["/v1/consume"] = {"post": consume}
    document["paths"]["/v1/check"] = {"post": check}
    return document
