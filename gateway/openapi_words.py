"""Schemas of the OpenAPI document in words, for people: what a field takes, and an example of an answer."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from gateway.openapi_answers import Schema
from gateway.openapi_examples import EXAMPLES_OF, told
from quota.identifiers import IDENTIFIER_PATTERN, MAX_AMOUNT

MAX_DEPTH = 12
_EXAMPLES: dict[str, Any] = {
    "subject": "u_1",
    "metric": "credits",
    "plan": "pro",
    "operation": "create_reel",
    "unit": "credit",
    "kind": "month",
    "receipt": "49.1-0.1",
    "id": "0b8c0c1e-6f0a-4e0e-9a51-7d0f4d9a2b11",
    "amount": 1,
    "change": 1,
    "limit": 100,
    "used": 42,
    "used_after": 42,
    "remaining": 58,
    "start": "2026-11-01T00:00:00Z",
    "end": "2026-12-01T00:00:00Z",
    "expires_at": "2026-12-31T00:00:00Z",
    "reason": "an apology",
    "name": "checkout",
    "next_cursor": None,
    "error": None,
    "warning": None,
    "scheduled": None,
    "anchor": None,
    "status_until": None,
    "revoked_at": None,
    "replaces": None,
    "refusal": None,
    "tenant": "default",
    "request_id": "5f0c1a7be2d94c36",
    "idempotency_key": "order-7",
}
_INSTANT = "2026-11-22T10:00:00Z"
_ENTRY = "49.1-0"


class Field(NamedTuple):
    """One line of a table of fields; of what lies in an object of its own, the name has a dot."""

    name: str
    takes: str
    is_required: bool
    default: Any
    description: str


def _bounds(low: int | None, high: int | None, what: str) -> str:
    """`1 to 5 <what>`, as far as there are bounds."""
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}{what}"
    if high is not None:
        return f"up to {_number(high)}{what}"
    return f"{_number(low)}{what} at least" if low else ""


def _number(number: int | None) -> str:
    return {MAX_AMOUNT: "2^53 - 1", -MAX_AMOUNT: "-(2^53 - 1)"}.get(number or 0, str(number))


def _of_string(schema: Schema) -> str:
    if schema.get("pattern") == IDENTIFIER_PATTERN:
        return "identifier"
    if schema.get("format") == "date-time":
        return "instant"
    if "format" in schema:
        return str(schema["format"])
    bounds = _bounds(schema.get("minLength"), schema.get("maxLength"), " characters")
    return f"text, {bounds}" if bounds else "text"


def _of_object(schema: Schema) -> str:
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        most = _bounds(None, schema.get("maxProperties"), " members")
        return f"object of {in_words(more)}" + (f", {most}" if most else "")
    return "object"


def in_words(schema: Schema) -> str:  # noqa: PLR0911 - one for each kind of schema
    """What a schema takes, in some words of Markdown; a component is a link to its own heading."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(in_words(each) for each in schema[several]))
    if "const" in schema:
        return f"`{_as_json(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    match schema.get("type"):
        case "integer" | "number" as kind:
            if schema.get("minimum") == -MAX_AMOUNT:
                return str(kind)  # as many as JSON numbers hold
            bounds = _bounds(schema.get("minimum"), schema.get("maximum"), "")
            return f"{kind}, {bounds}" if bounds else kind
        case "array":
            bounds = _bounds(schema.get("minItems"), schema.get("maxItems"), " items")
            return f"list of {in_words(schema['items'])}" + (f", {bounds}" if bounds else "")
        case "string":
            return _of_string(schema)
        case "object":
            return _of_object(schema)
        case "boolean":
            return "`true` or `false`"
        case other:
            return str(other or schema.get("description", "anything"))


def _as_json(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def fields_of(schema: Schema, prefix: str = "") -> Iterator[Field]:
    """The fields of an object, and of the objects in it that have no name of their own."""
    for name, each in schema.get("properties", {}).items():
        is_required = name in schema.get("required", ())
        description = str(each.get("description", ""))
        yield Field(prefix + name, in_words(each), is_required, each.get("default"), description)
        for inner in [each, each.get("items", {}), *each.get("anyOf", [])]:
            ending = "[]." if inner is each.get("items") else "."
            yield from fields_of(inner, f"{prefix}{name}{ending}")


def variants_of(schema: Schema, components: Schema) -> list[Schema]:
    """The objects that a schema stands for: one, or those of which it takes any."""
    if "$ref" in schema:
        return variants_of(components[schema["$ref"].rpartition("/")[2]], components)
    several = schema.get("oneOf") or schema.get("anyOf")
    return [found for each in several for found in variants_of(each, components)] if several else [schema]


def example_of(schema: Schema, components: Schema, name: str = "", depth: int = 0) -> Any:  # noqa: PLR0911 - likewise
    """A value that the schema takes: the first of several, without what may be left out."""
    if depth > MAX_DEPTH:
        return None
    if "$ref" in schema:
        component = schema["$ref"].rpartition("/")[2]
        made = example_of(components[component], components, name, depth + 1)
        return told(made, EXAMPLES_OF[component]) if component in EXAMPLES_OF else made
    several = schema.get("oneOf") or schema.get("anyOf")
    if several:
        if name in _EXAMPLES and _EXAMPLES[name] is None:
            return None
        return example_of(several[0], components, name, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _EXAMPLES[name] if _EXAMPLES.get(name) in schema["enum"] else schema["enum"][0]
    match schema.get("type"):
        case "object":
            wanted = [each for each in schema.get("properties", {}) if each in schema.get("required", ())]
            return {each: example_of(schema["properties"][each], components, each, depth + 1) for each in wanted}
        case "array":
            return [example_of(schema["items"], components, name, depth + 1)]
        case "string":
            return _text_for(schema, name)
        case "integer" | "number":
            return _EXAMPLES.get(name, schema.get("minimum", 0))
        case "boolean":
            return False
    return None


def _text_for(schema: Schema, name: str) -> str:
    if schema.get("format") == "date-time":
        return str(_EXAMPLES.get(name) or _INSTANT)
    if "[0-9]+-[0-9]+" in schema.get("pattern", ""):
        return _ENTRY
    return str(_EXAMPLES.get(name) or name or "text")
