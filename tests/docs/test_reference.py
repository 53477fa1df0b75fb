"""docs/http.md is what the OpenAPI document says now."""

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gateway.openapi_reference import document_and_scopes, reference
from gateway.openapi_words import example_of, in_words
from quota.catalog import parse_json
from tests.system import ROOT

DOCUMENT, SCOPES = document_and_scopes()
OPERATIONS = [(path, method) for path, item in DOCUMENT["paths"].items() for method in item]


def test_the_http_reference_is_that_of_these_routes() -> None:
    kept = (ROOT / "docs/http.md").read_text(encoding="utf-8")
    is_new = kept == reference(DOCUMENT, SCOPES)
    assert is_new, "docs/http.md is out of date: run `python -m gateway.openapi_reference > docs/http.md`"


def test_every_link_of_the_reference_leads_to_one_heading() -> None:
    page = reference(DOCUMENT, SCOPES)
    headings = [each.lower() for each in re.findall(r"^#+ (\w+)$", page, re.MULTILINE)]
    assert len(headings) == len(set(headings))
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= set(headings)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_each_route_has_its_scope_and_examples_that_its_schemas_take(path: str, method: str) -> None:
    operation = DOCUMENT["paths"][path][method]
    assert SCOPES[path, method]
    components = DOCUMENT["components"]
    pairs: list[tuple[Any, Any]] = []
    for response in operation["responses"].values():
        schema = response.get("content", {}).get("application/json", {}).get("schema")
        if schema:
            pairs.append((schema, example_of(schema, components["schemas"])))
    for media in operation.get("requestBody", {}).get("content", {}).values():
        pairs += [(media["schema"], each["value"]) for each in media.get("examples", {}).values()]
    for schema, example in pairs:
        found = Draft202012Validator({**schema, "components": components}).iter_errors(example)
        assert [f"{each.json_path}: {each.message}" for each in found] == []


def _placeholders(value: Any, name: str = "") -> list[str]:
    if isinstance(value, dict):
        return [found for each, inner in value.items() for found in _placeholders(inner, each)]
    if isinstance(value, list):
        return [found for inner in value for found in _placeholders(inner, name)]
    return [name] if value == name else []


def test_no_answer_that_is_shown_says_only_its_members_names() -> None:
    page = (ROOT / "docs/http.md").read_text(encoding="utf-8")
    shown = [json.loads(each) for each in re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    assert len(shown) > len(OPERATIONS)
    assert [found for each in shown for found in _placeholders(each)] == []
    catalog = example_of({"$ref": "#/components/schemas/Catalog"}, DOCUMENT["components"]["schemas"])
    assert parse_json(json.dumps(catalog).encode()).plans.keys() == {"free", "pro"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 86_400}, "integer, 1 to 86400"),
        ({"type": "integer", "minimum": 0, "maximum": 2**53 - 1}, "integer, 0 to 2^53 - 1"),
        ({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}, "instant or null"),
        ({"type": "array", "items": {"$ref": "#/x/Cap"}, "minItems": 1}, "list of [Cap](#cap), 1 items at least"),
        ({"enum": ["hard", "soft"]}, "`hard`, `soft`"),
        ({"type": "string", "minLength": 1, "maxLength": 40}, "text, 1 to 40 characters"),
    ],
)
def test_a_schema_is_told_in_words(schema: dict[str, Any], words: str) -> None:
    assert in_words(schema) == words
