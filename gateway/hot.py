"""The hot path as plain ASGI, because routing, injection and serialisation by a framework would cost more than the
decision itself (docs/decisions/007). This is the frame of every hot route: who asks, what is sent, what goes wrong.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from os import urandom
from typing import Any

import structlog
from litestar.types import ASGIApp

from gateway import metrics, problems
from gateway.answers import Answer
from gateway.auth import Authenticator, single
from gateway.requests import MAX_BODY_BYTES, idempotency_key, read_body, request_id
from quota.errors import MethodNotAllowed, QuotagateError

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

TELL_EVERY_S = 1.0
KEY_HEADERS = {b"idempotency-key", b"x-idempotency-key"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Asking:
    """One request, once it is known whose it is. `route` is its template, `name` what a path names in it."""

    tenant: str
    request_id: str
    attempt: str | None
    idempotency_key: str | None
    route: str
    path: str
    name: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """A hot route: POST, for keys with the scope `consume`."""

    template: str
    answer_to: Callable[[Asking], Awaitable[Answer]]
    most_bytes: int = MAX_BODY_BYTES


class HotPath:
    """The ASGI applications of the hot routes of one process."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._untold = 0
        self._is_telling = False
        self._attempts = Attempts()

    def serving(self, route: Route) -> ASGIApp:
        """The application of one route. What a path names is the part that its template has in braces."""

        async def serve(scope: Any, receive: Receive, send: Send) -> None:
            await self._serve(route, scope, receive, send)

        return serve

    async def _serve(self, route: Route, scope: Any, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers, path = scope["headers"], scope["path"]
        sent = next((value for name, value in headers if name == b"x-request-id"), None)
        ident = request_id(sent)
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"{route.template} takes POST")
            principal = await self._authenticator.identify(single(headers, b"authorization"))
            principal.require("consume")
            key = idempotency_key([value for name, value in headers if name in KEY_HEADERS])
            body = await read_body(headers, receive, route.most_bytes)
            asking = Asking(
                principal.tenant,
                ident,
                None if sent is None else self._attempts.next(),
                key,
                route.template,
                path,
                scope.get("hot_name", ""),
                body,
            )
            answer = await route.answer_to(asking)
        except Exception as error:
            if not isinstance(error, QuotagateError):
                log.error("a request failed", route=route.template, request_id=ident, exc_info=error)
            status, fields, text = problems.of_error(error, path)
            answer = Answer(status, list(fields.items()), text)
            if status >= 500:
                self._tell_of(error, route.template, ident, status)
        await _send(send, answer, ident)
        metrics.requests_of(route.template, answer.status).inc()
        metrics.seconds_of(route.template).observe(time.perf_counter() - started)

    def _tell_of(self, error: Exception, route: str, ident: str, status: int) -> None:
        # While Redis is away every request fails: the first is told at once, the others once a second, as a number.
        if self._is_telling:
            self._untold += 1
            return
        reason = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
        log.warning("a request was not served", route=route, request_id=ident, status=status, reason=reason)
        self._is_telling = True
        asyncio.get_running_loop().call_later(TELL_EVERY_S, self._tell_the_rest)

    def _tell_the_rest(self) -> None:
        if self._untold:
            log.warning("more requests were not served", requests=self._untold)
        self._untold, self._is_telling = 0, False


class Attempts:
    """Names for single tries: callers may send one request id with many requests."""

    def __init__(self) -> None:
        self._process = urandom(6).hex()
        self._count = 0

    def next(self) -> str:
        self._count += 1
        return f"{self._process}.{self._count:x}"


async def _send(send: Send, answer: Answer, ident: str) -> None:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    headers.append((b"x-request-id", ident.encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
