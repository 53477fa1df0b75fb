"""The OpenAPI document's schemas of answers: every object names all of its members and has no others, but a problem
document, which may say more."""

from typing import Any

from gateway.answers import QUOTA_EXCEEDED_TYPE
from gateway.problems import STATUS_OF_CODE
from ledger.api_keys import SCOPES
from quota.catalog_rules import PERIODS_BY_LENGTH
from quota.entitlement import SUBSCRIPTION_STATUSES
from quota.identifiers import IDENTIFIER_PATTERN, MAX_AMOUNT

Schema = dict[str, Any]

IDENTIFIER: Schema = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": IDENTIFIER_PATTERN}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_AMOUNT}
INSTANT: Schema = {"type": "string", "format": "date-time"}
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, NULL]}


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def closed(properties: Schema, *optional: str) -> Schema:
    """An object with these members and no others; the `optional` ones may be left out."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_GRANT = {"id": TEXT, "remaining": COUNT, "expires_at": or_null(INSTANT)}
_STATE = {
    "limit": or_null(COUNT),
    "used": COUNT,
    "held": COUNT,
    "remaining": or_null(COUNT),
    "unlimited": FLAG,
    "enforcement": {"enum": ["hard", "soft"]},
    "overage": COUNT,
    "warning": or_null({"type": "integer", "minimum": 1, "maximum": 100}),
    "period": reference("Period"),
    "caps": array(reference("Cap"), minItems=1),
}
_CHARGE = {"metric": IDENTIFIER, "amount": COUNT, "plan": or_null(IDENTIFIER), **_STATE}
# What is let through while the counters are away is not counted yet: all but the metric and the amount is unknown.
_UNCOUNTED = {
    **{name: NULL for name in _CHARGE if name != "caps"},
    "metric": IDENTIFIER,
    "amount": COUNT,
    "unlimited": {"const": False},
}
_SUBJECT = {"subject": IDENTIFIER, "operation": IDENTIFIER}
_RECEIPT = {"receipt": or_null(TEXT), "replayed": FLAG}
_DENIAL = {
    "code": {"const": "QUOTA_EXCEEDED"},
    "detail": TEXT,
    "violated-policies": array(TEXT, minItems=1),
    "retry_after_s": {
        **or_null({"type": "integer", "minimum": 1}),
        "description": "Null where waiting does not help: a lifetime limit, or more than the whole limit was asked for",
    },
    "upgrade": or_null(closed({"plan": IDENTIFIER, "limit": or_null(COUNT), "url": or_null(TEXT)})),
}
_PROBLEM = {
    "type": {"type": "string", "format": "uri-reference"},
    "title": TEXT,
    "status": {"type": "integer", "minimum": 400, "maximum": 599},
    "detail": TEXT,
    "instance": TEXT,
    "code": {"enum": list(STATUS_OF_CODE)},
}


def _decisions(**more: Schema) -> list[Schema]:
    """Allowed, of one metric, or of an operation that charges several or none."""
    head = {**more, "allowed": {"const": True}, **_SUBJECT}
    return [
        closed({**head, **_CHARGE, **_RECEIPT}, "operation", "caps"),
        closed({**head, "charges": array(reference("Charge")), **_RECEIPT}, "operation"),
    ]


def _let_through(**more: Schema) -> list[Schema]:
    head = {**more, "allowed": {"const": True}, "degraded": {"const": True}, **_SUBJECT}
    tail = {"receipt": NULL, "replayed": {"const": False}}
    return [
        closed({**head, **_UNCOUNTED, **tail}, "operation"),
        closed({**head, "charges": array(closed(_UNCOUNTED)), **tail}, "operation"),
    ]


def _refusals() -> list[Schema]:
    """What a check says of what would be denied."""
    head = {"allowed": {"const": False}, **_SUBJECT}
    no_plan = {"code": {"const": "NO_SUBSCRIPTION"}, "detail": TEXT}
    several = array(reference("Charge"), minItems=2)
    return [
        closed({**head, **_CHARGE, "charges": several, **_DENIAL, **_RECEIPT}, "operation", "caps", "charges"),
        closed({**head, **_CHARGE, "charges": several, **no_plan, **_RECEIPT}, "operation", "caps", "charges"),
    ]


def _denied() -> Schema:
    fixed = {"type": {"const": QUOTA_EXCEEDED_TYPE}, "title": TEXT, "status": {"const": 429}, "instance": TEXT}
    several = array(reference("Charge"), minItems=2)
    return closed({**fixed, **_SUBJECT, **_CHARGE, "charges": several, **_DENIAL}, "operation", "caps", "charges")


def _batch() -> Schema:
    problem = {"allOf": [reference("Problem"), {"properties": {"status": {"not": {"const": 429}}}}]}
    allowed: Schema = {"const": 200}
    results = [*_decisions(status=allowed), *_let_through(status=allowed), reference("Denied"), problem]
    return closed({"results": array({"anyOf": results}, minItems=1)})


def _of_decisions() -> Schema:
    charge_of_refund = closed({**_CHARGE, "refunded": COUNT, "refunded_total": COUNT}, "caps")
    given_back = {**_CHARGE, "receipt": NULL, "replayed": FLAG}
    return {
        "Period": {
            "oneOf": [
                closed({"kind": {"enum": list(PERIODS_BY_LENGTH)}, "start": INSTANT, "end": INSTANT}),
                closed({"kind": {"const": "lifetime"}, "start": NULL, "end": NULL}),
            ]
        },
        "Cap": closed({"period": reference("Period"), "limit": COUNT, "used": COUNT, "remaining": COUNT}),
        "Charge": closed(_CHARGE, "caps"),
        "Decision": {"anyOf": _decisions()},
        "ConsumeResult": {"anyOf": [reference("Decision"), *_let_through()]},
        "CheckResult": {"anyOf": [reference("Decision"), *_refusals()]},
        "BatchResults": _batch(),
        "RefundResult": closed(
            {
                "receipt": TEXT,
                "subject": IDENTIFIER,
                "refunded": COUNT,
                "refunded_total": COUNT,
                "charges": array(charge_of_refund, minItems=1),
                "replayed": FLAG,
            }
        ),
        "Reservation": closed(
            {"id": TEXT, "subject": IDENTIFIER, **_CHARGE, "expires_at": INSTANT, "replayed": FLAG}, "caps"
        ),
        "Released": closed({"subject": IDENTIFIER, **given_back}, "caps"),
        "ReleasedReservation": closed({"id": TEXT, "subject": IDENTIFIER, **given_back}, "caps"),
        "Denied": _denied(),
        "Problem": {"type": "object", "properties": _PROBLEM, "required": list(_PROBLEM)},
    }


def _of_resources() -> Schema:
    metric = {"metric": IDENTIFIER, **_STATE, "grants": array(closed(_GRANT))}
    held = {
        "status": {"enum": list(SUBSCRIPTION_STATUSES)},
        "status_until": or_null(INSTANT),
        "anchor": or_null(INSTANT),
        "add_ons": {"type": "object", "additionalProperties": COUNT},
    }
    subscription = held | {"scheduled": or_null(closed({"at": INSTANT, "plan": IDENTIFIER, **held}))}
    override = {"metric": IDENTIFIER, "limit": or_null(COUNT), "expires_at": or_null(INSTANT), "reason": TEXT}
    plan = {"plan": IDENTIFIER, "rank": COUNT, "limits": {"type": "object", "additionalProperties": reference("Limit")}}
    return {
        "PlanWithLimits": closed(plan),
        "Plans": closed({"items": array(reference("PlanWithLimits")), "next_cursor": or_null(TEXT)}),
        "Subscription": closed({"subject": IDENTIFIER, "plan": IDENTIFIER, **subscription}),
        "Status": closed(
            {
                "subject": IDENTIFIER,
                "plan": or_null(IDENTIFIER),
                "subscription": or_null(closed(subscription)),
                "metrics": array(closed(metric, "caps")),
            }
        ),
        "Level": closed({"subject": IDENTIFIER, **metric}, "caps"),
        "Correction": closed({"subject": IDENTIFIER, **metric, "replayed": FLAG}, "caps"),
        "Grant": closed(
            {
                "id": TEXT,
                "subject": IDENTIFIER,
                "metric": IDENTIFIER,
                "amount": COUNT,
                "remaining": COUNT,
                "expires_at": or_null(INSTANT),
                "priority": {"type": "integer"},
                "reason": TEXT,
                "replayed": FLAG,
            }
        ),
        "Override": closed({"subject": IDENTIFIER, **override}),
        "Overrides": closed({"items": array(closed(override)), "next_cursor": or_null(TEXT)}),
        "Reconciliation": closed(
            {
                "run_id": COUNT,
                "started_at": INSTANT,
                "finished_at": INSTANT,
                **dict.fromkeys(
                    ("accounts", "drifted", "corrected", "undrained_entries", "lag_ms", "incidents", "missing"), COUNT
                ),
                "refusal": or_null(TEXT),
            }
        ),
        "StripeOutcome": closed(
            {"received": {"const": True}, "outcome": {"enum": ["applied", "duplicate", "stale", "ignored"]}}
        ),
        "Liveness": closed({"status": {"const": "live"}}),
        "Readiness": closed(
            {"status": {"enum": ["ready", "not ready"]}, "parts": closed({"counters": TEXT, "ledger": TEXT})}
        ),
    }


def _of_keys() -> Schema:
    key = {
        "id": IDENTIFIER,
        "tenant": IDENTIFIER,
        "name": or_null(TEXT),
        "scopes": array({"enum": list(SCOPES)}, minItems=1, uniqueItems=True),
        "created_at": INSTANT,
        "created_by": or_null({**TEXT, "description": "The id of the key that made it, `cli` or `settings`"}),
        "expires_at": or_null(INSTANT),
        "last_used_at": or_null({**INSTANT, "description": "To about a minute"}),
        "revoked_at": or_null(INSTANT),
        "replaces": or_null({**TEXT, "description": "The id of the key that it was made in place of"}),
    }
    return {
        "ApiKey": closed(key),
        "ApiKeys": closed({"items": array(reference("ApiKey")), "next_cursor": or_null(TEXT)}),
        "NewApiKey": closed({**key, "secret": {**TEXT, "description": "The whole key, which is not shown again"}}),
    }


def _of_gifts() -> Schema:
    words = {"id": TEXT, "from": IDENTIFIER, "to": IDENTIFIER, "metric": IDENTIFIER, "amount": COUNT}
    state = {"enum": ["asked", "taken", "given", "refused"]}
    gift = {**words, "state": state, "reason": or_null(TEXT), "refusal": or_null(TEXT)}
    return {"Gift": closed(gift), "GiftResult": closed({**gift, "replayed": FLAG})}


def schemas() -> Schema:
    """What the routes answer, by name."""
    return _of_decisions() | _of_resources() | _of_gifts() | _of_keys()
