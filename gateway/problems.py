"""Errors as problem documents (RFC 9457). The one table from an error's code to an HTTP status."""

from http import HTTPStatus
from typing import Any

import msgspec

from quota.errors import QuotagateError

MEDIA_TYPE = "application/problem+json"

STATUS_OF_CODE: dict[str, int] = {
    "INVALID_REQUEST": 400,
    "INVALID_CATALOG": 400,
    "INVALID_SIGNATURE": 400,
    "BODY_TOO_LARGE": 413,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "UNKNOWN_METRIC": 404,
    "UNKNOWN_OPERATION": 404,
    "UNKNOWN_PLAN": 404,
    "METHOD_NOT_ALLOWED": 405,
    "RECEIPT_NOT_FOUND": 404,
    "RESERVATION_NOT_FOUND": 404,
    "CONFLICT": 409,
    "ALREADY_REFUNDED": 409,
    "RESERVATION_SETTLED": 409,
    "BELOW_ZERO": 409,
    "NOT_ENOUGH_UNITS": 409,
    "TOO_MANY": 409,
    "UNKNOWN_PRICE": 409,
    "CATALOG_CHANGED": 412,
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
    "RECEIPT_NOT_FOUND": "Receipt not found",
    "RESERVATION_NOT_FOUND": "Reservation not found",
    "ALREADY_REFUNDED": "Already refunded",
    "RESERVATION_SETTLED": "Reservation settled",
    "BELOW_ZERO": "Below zero",
    "NOT_ENOUGH_UNITS": "Not enough units",
    "TOO_MANY": "Too many",
    "UNKNOWN_PRICE": "Unknown price",
    "CATALOG_CHANGED": "Catalog changed",
    "INVALID_SIGNATURE": "Invalid signature",
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


def document_of(error: QuotagateError, instance: str) -> dict[str, Any]:
    """The members of an error's problem document."""
    return problem(error.code, str(error), instance, **error.extra)


def of_error(error: Exception, instance: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for an error; one that nobody meant to raise says nothing of itself."""
    if isinstance(error, QuotagateError):
        code, document = error.code, document_of(error, instance)
    else:
        code, detail = "INTERNAL", "Something went wrong on our side; the request id names it in the logs."
        document = problem(code, detail, instance)
    headers = {"content-type": MEDIA_TYPE}
    if code in RETRY_AFTER_S:
        headers["retry-after"] = str(RETRY_AFTER_S[code])
    if code == "BODY_TOO_LARGE":
        headers["connection"] = "close"  # the rest of the body is not worth reading
    if code == "METHOD_NOT_ALLOWED":
        headers["allow"] = "POST"  # only the hot path asks here; Litestar tells of its own routes
    if code == "UNAUTHENTICATED":
        headers["www-authenticate"] = "Bearer"
    return STATUS_OF_CODE[code], headers, msgspec.json.encode(document)
