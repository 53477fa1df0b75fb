"""What the OpenAPI document says of the routed resources, where Litestar cannot know it: names, answers, examples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.bodies import MAX_REASON_CHARACTERS, WITHOUT_NUL
from gateway.openapi_answers import IDENTIFIER, Schema
from gateway.openapi_catalog import ETAG, OF_CATALOG, OF_WRITING
from gateway.openapi_parts import KEY, Answered, json_body, link, responses
from gateway.openapi_reports import AT, OF_ACTS, OF_ENTRIES, OF_PERIODS, OF_USAGE, STREAMS
from gateway.paging import DEFAULT_LIMIT, MAX_CURSOR_CHARACTERS, MAX_LIMIT

Links = dict[str, Schema]

_OF_SUBJECT = {
    "status": link("ReadStatus", "What is left to this subject", path={"subject": "/subject"}),
    "subscription": link("ReadSubscription", "The plan that it is on", path={"subject": "/subject"}),
}
_FIRST_PLAN = {"plan": link("ReadPlan", "The lowest plan", path={"plan": "/items/0/plan"})}
_EXAMPLES_IN_PATH = {
    "subject": "u_1",
    "plan": "pro",
    "metric": "connected_platforms",
    "id": "00000000-0000-4000-8000-000000000000",
}


@dataclass(frozen=True, slots=True)
class Routed:
    """A routed operation: its name, what it answers, and which problems beside 400 and 500 it knows."""

    name: str
    answer: str
    problems: tuple[int, ...] = (401, 403, 503)
    status: int = 200
    links: Links = field(default_factory=dict)
    body: str | None = None
    examples: dict[str, Any] = field(default_factory=dict)
    has_key: bool = False
    is_paged: bool = False
    is_signed: bool = False
    query: Sequence[Schema] = ()


_PAGING: list[Schema] = [
    {
        "name": "limit",
        "in": "query",
        "description": "How many items at most",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    },
    {
        "name": "cursor",
        "in": "query",
        "description": "`next_cursor` of the page before; the first page if left out",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_CURSOR_CHARACTERS},
    },
]
_WHY: Schema = {
    "name": "reason",
    "in": "query",
    "description": "Why, for the audit log and the entry",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_REASON_CHARACTERS, **WITHOUT_NUL},
}
_SIGNATURE: Schema = {
    "name": "Stripe-Signature",
    "in": "header",
    "description": "Stripe's signature of the body, at most 300 s old; it stands in place of a key, and without it "
    "the answer is a 400, or a 404 where no tenant has a secret",
    "required": False,
    "schema": {"type": "string"},
}
_OF_READING = (401, 403, 503)
_OF_WRITING = (*_OF_READING, 413)
_CATALOG = {
    "default_plan": "free",
    "metrics": {"credits": {"unit": "credit"}, "connected_platforms": {"kind": "level"}},
    "operations": {"create_reel": {"charges": {"credits": 5}}},
    "plans": {
        "free": {"rank": 0, "limits": {"credits": {"limit": 35, "period": "month"}}},
        "pro": {"rank": 1, "limits": {"credits": {"period": "month", "caps": {"day": 200}}}},
    },
    "add_ons": {"credits_100": {"adds": {"credits": 100}}},
}

ROUTED = {
    ("/v1/catalog", "get"): Routed("ReadCatalog", "Catalog", (*_OF_READING, 404), query=OF_CATALOG),
    ("/v1/catalog/versions", "get"): Routed("ListCatalogVersions", "CatalogVersions", _OF_READING, is_paged=True),
    ("/v1/catalog", "put"): Routed(
        "WriteCatalog",
        "CatalogChange",
        (*_OF_WRITING, 409, 412),
        body="Catalog",
        examples={"two plans": _CATALOG},
        query=[*OF_WRITING, _WHY],
    ),
    ("/v1/plans", "get"): Routed("ListPlans", "Plans", _OF_READING, links=_FIRST_PLAN, is_paged=True),
    ("/v1/plans/{plan}", "get"): Routed("ReadPlan", "PlanWithLimits", (*_OF_READING, 404)),
    ("/v1/subjects/{subject}/status", "get"): Routed("ReadStatus", "StatusNowOrThen", _OF_READING, query=[AT]),
    ("/v1/subjects/{subject}/usage", "get"): Routed(
        "ReadUsage", "Usage", (*_OF_READING, 404), is_paged=True, query=OF_USAGE
    ),
    ("/v1/subjects/{subject}/entries", "get"): Routed("ReadStatement", "Entries", _OF_READING, is_paged=True),
    ("/v1/entries", "get"): Routed("ListEntries", "Entries", (*_OF_READING, 404), is_paged=True, query=OF_ENTRIES),
    ("/v1/periods", "get"): Routed(
        "ListPeriods", "SealedPeriods", (*_OF_READING, 404), is_paged=True, query=OF_PERIODS
    ),
    ("/v1/subjects/{subject}/subscription", "get"): Routed("ReadSubscription", "Subscription", (*_OF_READING, 404)),
    ("/v1/subjects/{subject}/subscription", "put"): Routed(
        "WriteSubscription",
        "Subscription",
        (*_OF_WRITING, 404, 409),
        links=_OF_SUBJECT,
        body="SubscriptionRequest",
        examples={"bought": {"plan": "pro", "status": "active", "anchor": "2026-11-30T10:00:00Z"}},
    ),
    ("/v1/subjects/{subject}/grants", "post"): Routed(
        "GiveGrant",
        "Grant",
        (*_OF_WRITING, 404, 409, 422),
        201,
        links={"status": _OF_SUBJECT["status"]},
        body="GrantRequest",
        examples={"an apology": {"metric": "credits", "amount": 20, "reason": "an apology"}},
        has_key=True,
    ),
    ("/v1/subjects/{subject}/levels/{metric}", "put"): Routed(
        "WriteLevel",
        "Level",
        (*_OF_WRITING, 404, 409),
        links={"status": _OF_SUBJECT["status"]},
        body="LevelRequest",
        examples={"counted": {"used": 1, "reason": "counted by hand"}},
    ),
    ("/v1/subjects/{subject}/overrides/{metric}", "put"): Routed(
        "WriteOverride",
        "Override",
        (*_OF_WRITING, 404, 409),
        links={"status": _OF_SUBJECT["status"]},
        body="OverrideRequest",
        examples={"a pilot": {"limit": 500, "reason": "a pilot", "expires_at": "9999-12-31T00:00:00Z"}},
    ),
    ("/v1/subjects/{subject}/overrides/{metric}", "delete"): Routed(
        "RemoveOverride", "", (*_OF_READING, 404, 409), 204, query=[_WHY]
    ),
    ("/v1/subjects/{subject}/overrides", "get"): Routed("ListOverrides", "Overrides", _OF_READING, is_paged=True),
    ("/v1/subjects/{subject}/corrections", "post"): Routed(
        "CorrectCounter",
        "Correction",
        (*_OF_WRITING, 404, 409, 422),
        links={"status": _OF_SUBJECT["status"]},
        body="CorrectionRequest",
        examples={"not counted": {"metric": "credits", "change": 5, "reason": "a job that nobody counted"}},
        has_key=True,
    ),
    ("/v1/gifts", "post"): Routed(
        "GiveGift",
        "GiftResult",
        (*_OF_WRITING, 404, 409, 422),
        201,
        links={"gift": link("ReadGift", "How far it is", path={"id": "/id"})},
        body="GiftRequest",
        examples={"to a friend": {"from": "u_1", "to": "u_2", "metric": "credits", "amount": 5, "reason": "thanks"}},
        has_key=True,
    ),
    ("/v1/gifts/{id}", "get"): Routed("ReadGift", "Gift", (*_OF_READING, 404)),
    ("/v1/api_keys", "get"): Routed("ListApiKeys", "ApiKeys", _OF_READING, is_paged=True),
    ("/v1/api_keys", "post"): Routed(
        "CreateApiKey",
        "NewApiKey",
        (*_OF_WRITING, 409),
        201,
        links={"revoke": link("RevokeApiKey", "Revoke it", path={"id": "/id"})},
        body="ApiKeyRequest",
        examples={"a service": {"name": "checkout", "scopes": ["consume"], "expires_at": "9999-12-31T00:00:00Z"}},
    ),
    ("/v1/api_keys/{id}", "delete"): Routed("RevokeApiKey", "", (*_OF_READING, 404, 409), 204),
    ("/v1/audit_log", "get"): Routed("ListActs", "Acts", _OF_READING, is_paged=True, query=OF_ACTS),
    ("/v1/ops/reconciliation", "get"): Routed("ReadReconciliation", "Reconciliation", (*_OF_READING, 404)),
    ("/v1/ops/jobs", "post"): Routed(
        "StartJob",
        "Job",
        (*_OF_WRITING, 409),
        202,
        links={"job": link("ReadJob", "How far it is", path={"id": "/id"})},
        body="JobRequest",
        examples={
            "verify everything": {"job": "verify"},
            "what if": {
                "job": "simulate",
                "catalog": _CATALOG,
                "from": "2026-11-01T00:00:00Z",
                "to": "2026-12-01T00:00:00Z",
            },
        },
    ),
    ("/v1/ops/jobs/{id}", "get"): Routed("ReadJob", "Job", (*_OF_READING, 404)),
    ("/v1/webhooks/stripe", "post"): Routed(
        "TakeStripeEvent", "StripeOutcome", (404, 409, 413, 503), body="StripeEvent", is_signed=True
    ),
    ("/health/live", "get"): Routed("Live", "Liveness", ()),
    ("/health/ready", "get"): Routed("Ready", "Readiness", ()),
    ("/metrics", "get"): Routed("Metrics", "", ()),
}


def complete(path: str, method: str, operation: Schema) -> None:
    """Adds to Litestar's operation what it does not see."""
    routed = ROUTED[path, method]
    operation["operationId"] = routed.name
    answered = Answered(routed.status, routed.answer, routed.links, is_limited=False, is_replayed=routed.has_key)
    operation["responses"] = responses(operation["summary"], answered, (400, 500, *routed.problems))
    if path.startswith("/v1/"):
        operation["security"] = [] if routed.is_signed else [{"api_key": []}]
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter |= {"schema": IDENTIFIER, "example": _EXAMPLES_IN_PATH[parameter["name"]]}
    added = [KEY] * routed.has_key + [_SIGNATURE] * routed.is_signed + _PAGING * routed.is_paged + list(routed.query)
    if added:
        operation["parameters"] = [*operation.get("parameters", ()), *added]
    if routed.body is not None:
        operation["requestBody"] = json_body(routed.body, routed.examples)
    if (path, method) == ("/v1/catalog", "get"):
        operation["responses"]["200"]["headers"] |= ETAG
    if path == "/v1/gifts":
        waits = "The counters cannot be reached: it is written down, and will be given or refused"
        operation["responses"]["202"] = operation["responses"]["201"] | {"description": waits}
    if path in {"/v1/entries", "/v1/audit_log"}:
        operation["responses"]["200"]["content"] |= STREAMS
    if path == "/health/ready":
        operation["responses"]["503"] = operation["responses"]["200"] | {"description": "Some part does not answer"}
    if path == "/metrics":
        operation["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
