"""Errors as problem documents (RFC 9457). The one table from an error's code to an HTTP status."""

from http import HTTPStatus
from typing import Any

import msgspec

from quota.errors import QuotagateError

MEDIA_TYPE = "application/problem+json"

STATUS_OF_CODE: dict[str, int] = {
    "INVALID_REQUEST": 400,
    "INVALID_CATALOG": 400,
    "BODY_TOO_LARGE": 413,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "UNKNOWN_METRIC": 404,
    "UNKNOWN_OPERATION": 404,
    "UNKNOWN_PLAN": 404,
    "METHOD_NOT_ALLOWED": 405,
    "NO_SUBSCRIPTION": 403,
    "IDEMPOTENCY_KEY_REUSED": 422,
    "COUNTERS_UNAVAILABLE": 503,
    "LEDGER_UNAVAILABLE": 503,
    "UNSAFE": 503,
    "INTERNAL": 500,
}
RETRY_AFTER_S = {"COUNTERS_UNAVAILABLE": 1, "LEDGER_UNAVAILABLE": 2}
TITLE_OF_CODE = {
    "UNKNOWN_METRIC": "Unknown metric",
    "UNKNOWN_OPERATION": "Unknown operation",
    "UNKNOWN_PLAN": "Unknown plan",
    "NO_SUBSCRIPTION": "No subscription",
    "IDEMPOTENCY_KEY_REUSED": "Idempotency key reused",
    "COUNTERS_UNAVAILABLE": "Counters unavailable",
    "LEDGER_UNAVAILABLE": "Ledger unavailable",
    "INVALID_CATALOG": "Invalid catalog",
}
CAPACITY_TYPE = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"


def problem(code: str, detail: str, instance: str, **extra: Any) -> dict[str, Any]:
    """The members of a problem document."""
    status = STATUS_OF_CODE[code]
    return {
        "type": CAPACITY_TYPE if status == HTTPStatus.SERVICE_UNAVAILABLE else "about:blank",
        "title": TITLE_OF_CODE.get(code, HTTPStatus(status).phrase),
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        **extra,
    }


def of_error(error: Exception, instance: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for an error; one that nobody meant to raise says nothing of itself."""
    if isinstance(error, QuotagateError):
        code, detail, extra = error.code, str(error), error.extra
    else:
        code, detail, extra = "INTERNAL", "Something went wrong on our side; the request id names it in the logs.", {}
    headers = {"content-type": MEDIA_TYPE}
    if code in RETRY_AFTER_S:
        headers["retry-after"] = str(RETRY_AFTER_S[code])
    if code == "BODY_TOO_LARGE":
        headers["connection"] = "close"  # the rest of the body is not worth reading
    if code == "METHOD_NOT_ALLOWED":
        headers["allow"] = "POST"  # only the hot path asks here; Litestar tells of its own routes
    if code == "UNAUTHENTICATED":
        headers["www-authenticate"] = "Bearer"
    return STATUS_OF_CODE[code], headers, msgspec.json.encode(problem(code, detail, instance, **extra))
