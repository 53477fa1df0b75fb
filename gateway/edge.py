"""The outermost layer of the gateway: what must happen before a route is chosen and after an answer was made."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from itertools import chain

import structlog
from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics
from gateway.requests import request_id

log = structlog.get_logger()


class Edge:
    """Sends the hot routes straight to their handlers, which answer, count and name their requests themselves, and
    everything else to the application. Its routes are matched against the path as it was sent, because a subject may
    hold an encoded slash; every answer carries the request's id and is counted by its route.
    """

    def __init__(self, app: ASGIApp, hot: Mapping[str, ASGIApp]) -> None:
        """`hot` maps templates to applications; one part of a template may be in braces."""
        self._app = app
        self._hot = {template: each for template, each in hot.items() if "{" not in template}
        self._named = [
            (re.compile(re.sub(r"\{\w+\}", "([^/]+)", template)), each)
            for template, each in hot.items()
            if "{" in template
        ]

    def _hot_of(self, scope: Scope) -> ASGIApp | None:
        found = self._hot.get(scope["path"])
        if found is not None:
            return found
        for pattern, each in self._named:
            if named := pattern.fullmatch(scope["path"]):
                scope["hot_name"] = named[1]  # type: ignore[typeddict-unknown-key]
                return each
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        hot = self._hot_of(scope)
        if hot is not None:
            await hot(scope, receive, send)
            return
        # Without a raw path the decoded one has to do: then a subject cannot hold a slash.
        scope["path"] = scope["raw_path"].decode("latin-1") if scope["raw_path"] else scope["path"]
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        ident = request_id(sent)
        scope["state"] = {**scope.get("state", {}), "request_id": ident}

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                if scope["method"] == HttpMethod.OPTIONS and message["status"] == HTTPStatus.NO_CONTENT:
                    message["headers"] = [(b"allow", ", ".join(_methods_of(scope)).encode())]
                message["headers"] = [*message["headers"], (b"x-request-id", ident.encode())]
                template = scope.get("path_template") or "none"
                metrics.requests_of(template, message["status"]).inc()
                log.debug("answered", path=scope["path"], status=message["status"], request_id=ident)
            await send(message)

        await self._app(scope, receive, send_named)


def _methods_of(scope: Scope) -> list[str]:
    """What a routed path takes. Litestar's own answer to OPTIONS names the methods of one of its handlers alone."""
    methods = (route.methods for route in scope["litestar_app"].routes if route.path_format == scope["path_template"])
    return sorted(chain.from_iterable(methods))
