"""What the OpenAPI document's operations are put together from: bodies, responses with their headers, links."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.openapi_answers import Schema, reference
from gateway.openapi_bodies import KEY_IN_HEADER
from gateway.problems import MEDIA_TYPE, STATUS_OF_CODE
from quota.catalog_rules import PERIODS_BY_LENGTH

KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same body gives the first answer again; `X-Idempotency-Key` is the same, "
    "and where both are sent they must name the same key",
    "required": False,
    "schema": KEY_IN_HEADER,
}

_PROBLEMS = {
    400: "The body, a parameter or a header cannot be understood; nothing was changed",
    401: "No key, or one that is not known",
    403: "The key lacks the scope, or the subject has no plan",
    404: "No such thing in this tenant",
    409: "It cannot be done to what is there now; nothing was changed",
    412: "The version that `If-Match` names is not the one that holds; nothing was changed",
    413: "The body is too large",
    422: "The idempotency key was used with another body",
    429: "Denied: the quota does not suffice; nothing was changed",
    500: "A fault of ours",
    503: "The counters or the ledger cannot be reached",
}


def _header(description: str, schema: Schema, *, is_required: bool = False) -> Schema:
    return {"description": description, "required": is_required, "schema": schema}


# A metric, and for one of its caps the kind of the cap's period behind it.
_NAME = rf'"[A-Za-z0-9._\-:@/+]{{1,200}}(?: (?:{"|".join(PERIODS_BY_LENGTH)}))?"'
_SECONDS: Schema = {"type": "integer", "minimum": 1}


def _list_of(item: str) -> Schema:
    return {"type": "string", "pattern": f"^{item}(?:, {item})*$"}


_REQUEST_ID = _header(
    "The caller's, if it sent a sane one",
    {"type": "string", "pattern": r"^[A-Za-z0-9._:\-]{1,128}$"},
    is_required=True,
)
_RATE_LIMIT = {
    "RateLimit-Policy": _header(
        "The limits that hold, each with its window in seconds (draft-ietf-httpapi-ratelimit-headers-11)",
        _list_of(rf"{_NAME};q=[0-9]{{1,15}}(?:;w=[0-9]{{1,15}})?"),
    ),
    "RateLimit": _header(
        "What remains of each, and the seconds to the end of its window",
        _list_of(rf"{_NAME};r=[0-9]{{1,15}}(?:;t=[0-9]{{1,15}})?"),
    ),
}
_REPLAYED = _header("Sent where this is the first answer again", {"type": "string", "const": "true"})
_OF_PROBLEM: dict[int, Schema] = {
    401: {"WWW-Authenticate": _header("How to send a key", {"type": "string"}, is_required=True)},
    429: {
        **_RATE_LIMIT,
        "Retry-After": _header("Seconds to the period's end; left out where waiting does not help", _SECONDS),
    },
    503: {"Retry-After": _header("Seconds", _SECONDS, is_required=True)},
}


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that is no problem; without a schema it has no body. `is_limited`: it carries the RateLimit fields;
    `is_replayed`: it may be the first answer to an idempotency key again."""

    status: int
    schema: str
    links: Mapping[str, Schema] = field(default_factory=dict)
    is_limited: bool = True
    is_replayed: bool = True


def link(
    operation: str, description: str, *, path: Mapping[str, str] | None = None, body: Mapping[str, str] | None = None
) -> Schema:
    """A link to an operation; `path` and `body` map what it needs to pointers into this answer."""
    found: Schema = {"operationId": operation, "description": description}
    if path is not None:
        found["parameters"] = {name: f"$response.body#{pointer}" for name, pointer in path.items()}
    if body is not None:
        found["requestBody"] = {name: f"$response.body#{pointer}" for name, pointer in body.items()}
    return found


def json_body(schema: str, examples: Mapping[str, Any], *, is_required: bool = True) -> Schema:
    media: Schema = {"schema": reference(schema)}
    if examples:
        media["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"required": is_required, "content": {"application/json": media}}


def responses(description: str, answered: Answered, problems: Sequence[int]) -> Schema:
    """Every response of an operation, by its status."""
    headers = {"X-Request-Id": _REQUEST_ID}
    headers |= _RATE_LIMIT if answered.is_limited else {}
    headers |= {"Idempotency-Replayed": _REPLAYED} if answered.is_replayed else {}
    response: Schema = {
        "description": description,
        "headers": headers,
        "content": {"application/json": {"schema": reference(answered.schema)}} if answered.schema else {},
    }
    if answered.links:
        response["links"] = dict(answered.links)
    return {str(answered.status): response} | {str(status): problem_response(status) for status in sorted(problems)}


def problem_response(status: int) -> Schema:
    """What goes wrong with this status, and the codes that it may have."""
    codes = [code for code, each in STATUS_OF_CODE.items() if each == status]
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
    schema = {"allOf": [reference("Problem"), narrowed]} if codes else reference("Denied")
    return {
        "description": _PROBLEMS[status],
        "headers": {"X-Request-Id": _REQUEST_ID, **_OF_PROBLEM.get(status, {})},
        "content": {MEDIA_TYPE: {"schema": schema}},
    }
