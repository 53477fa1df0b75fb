"""docs/http.md, made from the OpenAPI document: `python -m gateway.openapi_reference > docs/http.md`."""

import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from litestar import Litestar
from litestar.routes import HTTPRoute

from gateway import openapi
from gateway.app import Gateway, routed
from gateway.openapi_answers import Schema
from gateway.openapi_hot import HOT
from gateway.openapi_words import Field, example_of, fields_of, in_words, variants_of
from quota.settings import Settings

HEAD = """# HTTP reference

Made from the OpenAPI document, which a gateway serves at `/schema/openapi.json`, by
`python -m gateway.openapi_reference > docs/http.md`; a test says when it must be made again.

* Every request has `Authorization: Bearer <key>`, and the key one of the scopes that the route names (*none*: no key).
* JSON in, JSON out. An *instant* is RFC 3339 in UTC with a `Z`; an *identifier* has 1 to 200 characters of
  `A-Z a-z 0-9 . _ - : @ / +`, and in a path it is percent-encoded. An unknown field or parameter is a 400.
* An error is `application/problem+json`, [Problem](#problem), with a `code` to switch on. 400 and 500 may come from any
  route and are left out below, as is 401 (no key, or a wrong one). The codes beside a status are all that it has, on
  whichever route.
* In the tables, what is not *required* may be left out.
"""
_OF_EVERY_ROUTE = {"400", "401", "500"}
_PUBLIC = "none"


def document_and_scopes() -> tuple[Schema, dict[tuple[str, str], str]]:
    """The OpenAPI document of a gateway that is connected to nothing, and the scopes of each path and method."""
    nowhere: dict[str, Any] = {
        "redis_url": "redis://127.0.0.1:1/0",
        "database_url": "postgresql+psycopg://nobody:nothing@127.0.0.1:1/none",
        "key_pepper": "not used",
    }
    nothing: Any = None
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
        app = routed(Gateway(Settings(**nowhere)), nothing)
        return openapi.complete(app.openapi_schema.to_schema()), _scopes(app)


def _scopes(app: Litestar) -> dict[tuple[str, str], str]:
    found = {(path, "post"): "consume" for path in HOT}
    for route in app.routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        if isinstance(route, HTTPRoute):
            for method, (handler, _) in route.route_handler_map.items():
                found[path, method.lower()] = " or ".join(handler.opt.get("scopes", ())) or _PUBLIC
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _rows(names: str, rows: list[list[str]]) -> Iterator[str]:
    yield f"| {names.replace(',', ' |')} |"
    yield "|" + "---|" * (names.count(",") + 1)
    for row in rows:
        yield f"| {' | '.join(_cell(each) for each in row)} |"
    yield ""


def _of_fields(fields: list[Field]) -> Iterator[str]:
    rows = []
    for each in fields:
        default = "" if each.default in (None, {}, []) else f"`{json.dumps(each.default)}` if left out. "
        rows.append([f"`{each.name}`", each.takes, "required" if each.is_required else "", default + each.description])
    return _rows("field, takes, , ", rows)


def _of_shape(schema: Schema, components: Schema) -> Iterator[str]:
    if schema.get("description"):
        yield f"{schema['description']}\n"
    variants = variants_of(schema, components)
    for place, each in enumerate(variants):
        fields = list(fields_of(each))
        if len(variants) > 1:
            yield f"{'Either' if place == 0 else 'or'}{':' if fields else ' ' + in_words(each)}\n"
        if fields:
            yield from _of_fields(fields)


def _json(value: Any) -> Iterator[str]:
    yield "```json"
    yield json.dumps(value, indent=2, ensure_ascii=False)
    yield "```\n"


def _of_body(operation: Schema, components: Schema) -> Iterator[str]:
    media = operation["requestBody"]["content"]["application/json"]
    yield "**Body**\n"
    yield from _of_shape(media["schema"] | _described(media["schema"], components), components)
    for name, each in media.get("examples", {}).items():
        yield f"For example, {name}:\n"
        yield from _json(each["value"])


def _described(schema: Schema, components: Schema) -> Schema:
    named = components.get(schema.get("$ref", "").rpartition("/")[2], {})
    return {"description": named["description"]} if "description" in named else {}


def _of_answers(responses: Mapping[str, Schema], components: Schema) -> Iterator[str]:
    for status, response in responses.items():
        if not status.startswith("2"):
            continue
        kinds = ", ".join(f"`{kind}`" for kind in response.get("content", {}) if kind != "application/json")
        schema = response.get("content", {}).get("application/json", {}).get("schema")
        said = in_words(schema) if schema else ("" if kinds else "no body")
        yield f"**{status}**: {' or '.join(each for each in (said, kinds) if each)}\n"
        if schema:
            yield from _json(example_of(schema, components))
    failing = [each for each in responses if not each.startswith("2") and each not in _OF_EVERY_ROUTE]
    if failing:
        rows = [[each, ", ".join(_codes(responses[each])), responses[each]["description"]] for each in failing]
        yield from _rows("status, codes, when", rows)


def _codes(response: Schema) -> list[str]:
    schema = response["content"].get("application/problem+json", {}).get("schema", {})
    if "allOf" not in schema:
        return ["`QUOTA_EXCEEDED`"] if schema.get("$ref", "").endswith("/Denied") else []
    return [
        f"`{code}`" for part in schema["allOf"] for code in part.get("properties", {}).get("code", {}).get("enum", ())
    ]


def _of_route(path: str, method: str, operation: Schema, scope: str, components: Schema) -> Iterator[str]:
    yield f"### {operation['operationId']}\n"
    yield f"`{method.upper()} {path}` · scope: {scope}\n"
    yield f"{operation['summary']}.\n"
    parameters = operation.get("parameters", ())
    if parameters:
        rows = []
        for each in parameters:
            default = each["schema"].get("default")
            said = "" if default is None else f"`{json.dumps(default)}` if left out. "
            required = "required" if each.get("required") else ""
            takes = f"{in_words(each['schema'])}"
            rows.append([f"`{each['name']}`", each["in"], takes, required, said + each.get("description", "")])
        yield from _rows("parameter, in, takes, , ", rows)
    if "requestBody" in operation:
        yield from _of_body(operation, components)
    yield from _of_answers(operation["responses"], components)


def reference(document: Schema, scopes: Mapping[tuple[str, str], str]) -> str:
    """The whole page."""
    components = document["components"]["schemas"]
    routes = [(path, method, each) for path, item in sorted(document["paths"].items()) for method, each in item.items()]
    lines = [HEAD, "## Routes\n"]
    table = []
    for path, method, each in routes:
        name = each["operationId"]
        table.append([f"[`{method.upper()} {path}`](#{name.lower()})", scopes[path, method], each["summary"]])
    lines += [*_rows("route, scope, does", table), "## Each route\n"]
    for path, method, each in routes:
        lines += _of_route(path, method, each, scopes[path, method], components)
    lines.append("## Shapes\n")
    shapes = {name: [f"### {name}\n", *_of_shape(schema, components)] for name, schema in sorted(components.items())}
    linked = set(re.findall(r"\]\(#(\w+)\)", "\n".join(chain(lines, *shapes.values()))))
    for name, shape in shapes.items():
        lines += shape if name.lower() in linked else []
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference(*document_and_scopes()))
