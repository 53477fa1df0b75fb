"""The hot path: /v1/consume and /v1/check, as plain ASGI, because routing, injection and serialisation by a framework
would cost more than the decision itself (docs/decisions/007).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from msgspec import UNSET

from gateway import answers, metrics, problems
from gateway.admission import Admission
from gateway.answers import Answer
from gateway.auth import Authenticator, single
from gateway.requests import (
    MAX_BODY_BYTES,
    ConsumeRequest,
    consume_request,
    fingerprint,
    idempotency_key,
    read_body,
    request_id,
)
from quota.decisions import Demand
from quota.errors import MethodNotAllowed, QuotagateError

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

TELL_EVERY_S = 1.0

log = structlog.get_logger()


class HotPath:
    """The two ASGI applications of one process."""

    def __init__(self, admission: Admission, authenticator: Authenticator) -> None:
        self._admission = admission
        self._authenticator = authenticator
        self._untold = 0
        self._is_telling = False

    async def consume(self, scope: Any, receive: Receive, send: Send) -> None:
        await self._serve("/v1/consume", self._consume, scope, receive, send)

    async def check(self, scope: Any, receive: Receive, send: Send) -> None:
        await self._serve("/v1/check", self._check, scope, receive, send)

    async def _consume(self, tenant: str, request: ConsumeRequest, headers: Any, ident: str) -> Answer:
        keys = [value for name, value in headers if name in {b"idempotency-key", b"x-idempotency-key"}]
        key = idempotency_key(keys)
        demand = _demand(tenant, request, ident, consumes=True, key=key)
        decision, catalog = await self._admission.decide(demand)
        metrics.decisions_of("/v1/consume", "allowed" if decision.allowed else "denied").inc()
        return answers.consumed(decision, catalog, "/v1/consume")

    async def _check(self, tenant: str, request: ConsumeRequest, _headers: Any, ident: str) -> Answer:
        decision, catalog = await self._admission.decide(_demand(tenant, request, ident, consumes=False, key=None))
        metrics.decisions_of("/v1/check", "allowed" if decision.allowed else "denied").inc()
        return answers.checked(decision, catalog)

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

    async def _serve(
        self,
        route: str,
        answer_to: Callable[[str, ConsumeRequest, Any, str], Awaitable[Answer]],
        scope: Any,
        receive: Receive,
        send: Send,
    ) -> None:
        started = time.perf_counter()
        headers = scope["headers"]
        ident = request_id(next((value for name, value in headers if name == b"x-request-id"), None))
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"{route} takes POST")
            principal = await self._authenticator.identify(single(headers, b"authorization"))
            principal.require("consume")
            request = consume_request(await read_body(headers, receive, MAX_BODY_BYTES))
            answer = await answer_to(principal.tenant, request, headers, ident)
        except Exception as error:
            if not isinstance(error, QuotagateError):
                log.error("a request failed", route=route, request_id=ident, exc_info=error)
            status, fields, body = problems.of_error(error, route)
            answer = Answer(status, list(fields.items()), body)
            if status >= 500:
                self._tell_of(error, route, ident, status)
        await _send(send, answer, ident)
        metrics.requests_of(route, answer.status).inc()
        metrics.seconds_of(route).observe(time.perf_counter() - started)


def _demand(tenant: str, request: ConsumeRequest, ident: str, *, consumes: bool, key: str | None) -> Demand:
    by_metric = request.metric is not UNSET
    count = request.amount if by_metric else request.quantity
    return Demand(
        tenant,
        request.subject,
        consumes,
        ident,
        1 if count is UNSET else count,
        request.metric if request.metric is not UNSET else None,
        request.operation if request.operation is not UNSET else None,
        request.metadata if request.metadata is not UNSET else None,
        key,
        "" if key is None else fingerprint(request),
    )


async def _send(send: Send, answer: Answer, ident: str) -> None:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    headers.append((b"x-request-id", ident.encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
