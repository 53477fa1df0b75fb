"""The OpenAPI document's words for the catalog: its query parameters, and the schemas of what is told of changes."""

from gateway.openapi_answers import COUNT, FLAG, INSTANT, TEXT, Schema, array, closed, or_null, reference

OF_CATALOG: list[Schema] = [
    {
        "name": "version",
        "in": "query",
        "description": "This version, as /v1/catalog/versions lists them",
        "required": False,
        "schema": {"type": "integer", "minimum": 1, "maximum": 10**18 - 1},
    },
    {
        "name": "at",
        "in": "query",
        "description": "The one that held at this instant; not together with a version",
        "required": False,
        "schema": INSTANT,
    },
]

_FLAG: Schema = {"type": "boolean", "default": False}
OF_WRITING: list[Schema] = [
    {"name": "dry_run", "in": "query", "description": "Only show what would change", "schema": _FLAG},
    {
        "name": "allow_empty",
        "in": "query",
        "description": "A document without metrics and plans may take away all that there are; a 409 without it",
        "schema": _FLAG,
    },
    {
        "name": "If-Match",
        "in": "header",
        "description": "The `ETag` of the version that was looked at; a 412 if another one holds by now",
        "required": False,
        "schema": {"type": "string", "pattern": r'^(\*|[0-9]{1,18}|(W/)?"[!#-~]*")$'},
    },
]
ETAG: Schema = {
    "ETag": {
        "description": "The version, for `If-Match`",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[0-9]+"$'},
    }
}


def schemas() -> Schema:
    """By name, as `$ref` has them."""
    return {"CatalogChange": _change(), "CatalogEffect": _effect(), "CatalogVersions": _versions()}


def _change() -> Schema:
    return closed(
        {
            "version": COUNT,
            "applied": FLAG,
            "changes": array(TEXT),
            "effects": array(reference("CatalogEffect")),
            "catalog": reference("Catalog"),
        }
    )


def _effect() -> Schema:
    subjects = "Of those with a subscription; null where they cannot be, or were not, counted"
    over = "Have used more than the new limit; null if it is no lower, or was not counted"
    return closed(
        {
            "path": TEXT,
            "change": TEXT,
            "tighter": FLAG,
            "subjects": {**or_null(COUNT), "description": subjects},
            "everybody_else": {**FLAG, "description": "As well as every subject without a subscription"},
            "over_limit": {**or_null(COUNT), "description": over},
        }
    )


def _versions() -> Schema:
    version = {
        "version": COUNT,
        "applied_at": INSTANT,
        "applied_by": TEXT,
        "reason": or_null(TEXT),
        "changes": {**or_null(COUNT), "description": "Null of a version that is older than the audit log"},
    }
    return closed({"items": array(closed(version)), "next_cursor": or_null(TEXT)})
