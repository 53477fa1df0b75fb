"""What the routed resources share: strict bodies, the caller, a subject from a path, problem documents."""

from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
import structlog
from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException, ValidationException
from litestar.handlers import BaseRouteHandler

from gateway import problems
from gateway.auth import Authenticator, Principal, single
from gateway.bodies import decoded
from gateway.requests import MAX_BODY_BYTES, MAX_CATALOG_BYTES, MAX_WEBHOOK_BYTES, read_body
from ledger.acts import By
from quota.errors import InvalidRequest, QuotagateError
from quota.identifiers import checked_identifier

log = structlog.get_logger()
_MOST_BYTES_OF_PATH = {"/v1/catalog": MAX_CATALOG_BYTES, "/v1/webhooks/stripe": MAX_WEBHOOK_BYTES}
_CODE_OF_STATUS = {400: "INVALID_REQUEST", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "BODY_TOO_LARGE"}


class StrictRequest(Request[Any, Any, Any]):
    """Decodes a body straight into the handler's type: Litestar's own way would take "5" for 5."""

    async def body(self) -> bytes:
        most_bytes = _MOST_BYTES_OF_PATH.get(self.scope["path"], MAX_BODY_BYTES)
        if not hasattr(self, "_whole_body"):
            self._whole_body = await read_body(list(self.scope["headers"]), self.receive, most_bytes)
        return self._whole_body

    async def json(self) -> Any:
        field = self.route_handler.parsed_data_field
        assert field is not None, "only a handler with a body asks for it"
        return decoded(field.annotation, await self.body())


async def scope_guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Lets a request through if its key has one of the scopes that the handler names."""
    if connection.scope["method"] == "OPTIONS":  # type: ignore[typeddict-item]
        return  # Litestar's own handler, which tells the methods of a route and nothing else
    unknown = set(connection.query_params) - set(handler.opt.get("query", ()))
    if unknown:
        raise InvalidRequest(f"this route knows no query parameter {min(unknown)}", field=min(unknown))
    wanted: tuple[str, ...] = handler.opt["scopes"]
    if not wanted:
        return
    authenticator: Authenticator = connection.app.state.authenticator
    header = single(list(connection.scope["headers"]), b"authorization")
    principal = await authenticator.identify(header)
    if not principal.scopes.intersection(wanted):
        principal.require(wanted[0])
    connection.scope["principal"] = principal  # type: ignore[typeddict-unknown-key]


def caller(request: StrictRequest) -> Principal:
    """The principal that the guard let through."""
    principal: Principal = request.scope["principal"]  # type: ignore[typeddict-item]
    return principal


def asked_by(request: StrictRequest, reason: str | None = None) -> By:
    """Who asks, and from where, for the audit log."""
    client = request.scope["client"]
    return By(caller(request).key_id, client[0] if client else None, ident_of(request), reason)


def from_path(segment: str, field: str) -> str:
    """An identifier from a path, in which `/` must be percent-encoded."""
    try:
        return checked_identifier(unquote_to_bytes(segment).decode(), field)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{field} is not UTF-8", field=field) from error


def ident_of(request: Request[Any, Any, Any]) -> str:
    """This request's id, as the edge has given it."""
    return str(request.scope["state"].get("request_id", "-"))


def to_problem(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Any error as a problem document."""
    instance = request.scope["path"]
    if isinstance(error, ValidationException):  # every query parameter is checked in code, so it is the body
        error = InvalidRequest("the body is empty: send a JSON object")
    if isinstance(error, HTTPException):
        status = error.status_code
        code = _CODE_OF_STATUS.get(status, "INVALID_REQUEST" if status < 500 else "INTERNAL")
        detail = "there is nothing here" if status == 404 else error.detail
        status, headers = problems.STATUS_OF_CODE[code], {"content-type": problems.MEDIA_TYPE, **(error.headers or {})}
        body = msgspec.json.encode(problems.problem(code, detail, instance))
    else:
        status, headers, body = problems.of_error(error, instance)
    if status >= 500:
        log.error("a request failed", path=instance, request_id=ident_of(request), status=status, exc_info=error)
    elif not isinstance(error, QuotagateError | HTTPException):
        log.error("a request failed", path=instance, request_id=ident_of(request), exc_info=error)
    return Response(body, status_code=status, headers=headers, media_type=problems.MEDIA_TYPE)
