"""The OpenAPI document's schemas of what is sent: those of the types that decode it, and beside them what these check
in code."""

from typing import Any

import msgspec

from gateway.bodies import (
    MAX_BATCH_ITEMS,
    ApiKeyRequest,
    BatchItem,
    CommitRequest,
    ConsumeRequest,
    GrantRequest,
    LevelRequest,
    NothingRequest,
    RefundRequest,
    ReleaseRequest,
    ReservationRequest,
    SubscriptionRequest,
)
from gateway.openapi_answers import IDENTIFIER, Schema, array, closed, reference
from gateway.requests import MAX_KEY_CHARACTERS
from quota import catalog, catalog_rules
from quota.identifiers import MAX_AMOUNT

_BODIES = (
    ApiKeyRequest,
    BatchItem,
    CommitRequest,
    ConsumeRequest,
    GrantRequest,
    LevelRequest,
    NothingRequest,
    RefundRequest,
    ReleaseRequest,
    ReservationRequest,
    SubscriptionRequest,
    catalog.Catalog,
)

# A string of structured fields: RFC 9651, section 3.3.3.
_QUOTED = r'"(?:[ !#-\[\]-~]|\\["\\])%s"'
KEY_IN_HEADER: Schema = {
    "type": "string",
    "description": "Bare, or as a quoted string of structured fields; both name the same key",
    "pattern": rf"^(?:[!#-~](?:[ -~]{{0,{MAX_KEY_CHARACTERS - 2}}}[!-~])?|{_QUOTED % f'{{1,{MAX_KEY_CHARACTERS}}}'})$",
}
_KEY_OF_ITEM: Schema = {
    "type": "string",
    "pattern": rf"^(?:[ !#-~][ -~]*|{_QUOTED % '+'})$",
    "minLength": 1,
    "maxLength": MAX_KEY_CHARACTERS,
}

_AMOUNT: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_AMOUNT}
_AMOUNT_OR_NOTHING: Schema = {**_AMOUNT, "minimum": 0}
_NOTHING_IS_A_LOOK = "0 is only a look: nothing is counted, and nothing is remembered under an idempotency key"
_PRICES: Schema = array(
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
    description="Ids of Stripe's prices; each stands in one place of the catalog",
    uniqueItems=True,
    maxItems=catalog_rules.MAX_PRICES,
    default=[],
)
_URL = {
    "type": "string",
    "description": "{plan} stands for the plan's name",
    # Printable ASCII; other braces than the placeholder's are written as %7B and %7D.
    "pattern": r"^https?://(?:[!-z|~]|\{plan\})+$",
    "maxLength": catalog_rules.MAX_URL_CHARACTERS,
}


def schemas() -> Schema:
    """What the routes take, by name."""
    _, found = msgspec.json.schema_components(_BODIES, ref_template="#/components/schemas/{name}")
    for name in ("ConsumeRequest", "BatchItem", "ReleaseRequest"):
        found[name]["properties"]["amount"]["description"] = _NOTHING_IS_A_LOOK
    found["ConsumeRequest"] = _either_metric_or_operation(found["ConsumeRequest"])
    item = found["BatchItem"]
    item["properties"]["idempotency_key"] = _KEY_OF_ITEM
    found["BatchItem"] = _either_metric_or_operation(item)
    found["BatchRequest"] = _batch()
    found["StripeEvent"] = {
        "type": "object",
        "description": "An event as Stripe sends it: https://docs.stripe.com/api/events/object",
        "required": ["type"],
        "properties": {"type": {"type": "string"}},
    }
    return found | _catalog(found)


def _either_metric_or_operation(schema: Schema) -> Schema:
    """One schema for each of the two forms, because a form's amount does not go with the other's name."""
    forms = [("metric", "amount", "operation", "quantity"), ("operation", "quantity", "metric", "amount")]
    found = []
    for name, _, *others in forms:
        properties = {each: value for each, value in schema["properties"].items() if each not in others}
        optional = [each for each in properties if each not in {"subject", name}]
        found.append(closed(properties, *optional))
    return {"title": schema["title"], "description": schema["description"], "oneOf": found}


def _batch() -> Schema:
    size: Any = {"minItems": 1, "maxItems": MAX_BATCH_ITEMS}
    any_item = {"anyOf": [reference("BatchItem"), {"description": "Anything else: its result is a 400"}]}
    alone = closed({"items": array(any_item, **size), "atomic": {"const": False}}, "atomic")
    together = closed({"items": array(reference("ConsumeRequest"), **size), "atomic": {"const": True}})
    alone["description"] = (
        "Each item is decided by itself, also whether it can be understood. The header's key gives every item that has "
        "none a key by its place: to repeat it, send the same batch again whole, in the same order"
    )
    together["description"] = "All or none, for one subject; the header's key is the key of all"
    return {"title": "BatchRequest", "oneOf": [alone, together]}


def _named(schema: Schema, most: int = catalog_rules.MAX_ENTRIES_A_SECTION) -> Schema:
    return {
        "type": "object",
        "propertyNames": IDENTIFIER,
        "additionalProperties": schema,
        "maxProperties": most,
        "default": {},
    }


def _catalog(found: Schema) -> Schema:
    """The catalog's parts with their bounds. That it contradicts itself nowhere, no schema can say."""
    bounds: dict[str, Schema] = {
        "Catalog": {
            "default_plan": IDENTIFIER,
            "upgrade_url": _URL,
            **{
                section: _named(reference(part))
                for section, part in {
                    "metrics": "Metric",
                    "operations": "Operation",
                    "plans": "Plan",
                    "add_ons": "AddOn",
                }.items()
            },
        },
        "Metric": {
            "unit": {"type": "string", "minLength": 1, "maxLength": catalog_rules.MAX_UNIT_CHARACTERS},
            "warn_at_pct": array(
                {"type": "integer", "minimum": 1, "maximum": 100},
                description="Ascending; 100 is always one",
                uniqueItems=True,
                maxItems=catalog_rules.MAX_WARNINGS_A_METRIC + 1,
                default=list(catalog.DEFAULT_WARN_AT_PCT),
            ),
        },
        "Operation": {"charges": _named(_AMOUNT, catalog_rules.MAX_CHARGES_AN_OPERATION)},
        "AddOn": {"adds": _named(_AMOUNT), "stripe_prices": _PRICES},
        "Plan": {
            "rank": {"type": "integer", "minimum": 0, "maximum": catalog_rules.MAX_RANK, "default": 0},
            "limits": _named(reference("Limit")),
            "stripe_prices": _PRICES,
        },
        "Limit": {
            "limit": _AMOUNT_OR_NOTHING,
            "caps": {
                **_named(_AMOUNT_OR_NOTHING, len(catalog_rules.PERIODS_BY_LENGTH)),
                "propertyNames": {"enum": list(catalog_rules.PERIODS_BY_LENGTH)},
            },
        },
        "Rollover": {"max": _AMOUNT},
    }
    return {name: _bounded(found[name], each) for name, each in bounds.items()}


def _bounded(schema: Schema, bounds: Schema) -> Schema:
    properties = dict(schema["properties"])
    for name, bound in bounds.items():
        known = properties[name]
        if any(each == {"type": "null"} for each in known.get("anyOf", ())):
            properties[name] = {**known, "anyOf": [bound, {"type": "null"}]}
        else:
            properties[name] = bound
    return {**schema, "properties": properties}
