"""The OpenAPI document: routed resources as Litestar describes them, with what it does not see of them
(`gateway/openapi_routed.py`), and the hot path, of which it sees nothing (`gateway/openapi_hot.py`).
"""

from copy import deepcopy
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin

from gateway import (
    openapi_answers,
    openapi_bodies,
    openapi_catalog,
    openapi_hot,
    openapi_jobs,
    openapi_reports,
    openapi_routed,
)

_PARTS = (openapi_bodies, openapi_answers, openapi_catalog, openapi_jobs, openapi_reports)


class Document(JsonRenderPlugin):
    """Serves the document at /schema/openapi.json, completed by what Litestar does not see."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return msgspec.json.encode(complete(deepcopy(openapi_schema)))


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Litestar's document with the hot path, the key, and every body and answer in full."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            openapi_routed.complete(path, method, operation)
    document["paths"] |= openapi_hot.paths()
    document["components"] = {
        "schemas": {name: schema for part in _PARTS for name, schema in part.schemas().items()},
        "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer"}},
    }
    return document
