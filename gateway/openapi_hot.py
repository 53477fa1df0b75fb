"""The hot path's part of the OpenAPI document: Litestar does not see these routes, because the edge serves them."""

from dataclasses import dataclass
from typing import Any

from gateway.openapi_answers import Schema
from gateway.openapi_parts import KEY, Answered, json_body, link, responses

RESERVATION_IN_PATH = {
    "name": "id",
    "in": "path",
    "description": "As the reservation's answer names it",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}

_WHOLE_STATUS = link("ReadStatus", "What is left to this subject", path={"subject": "/subject"})
_REFUND = link("Refund", "Give back what this receipt names", body={"receipt": "/receipt"})
_RESERVATION_LINKS = {
    "commit": link("Commit", "Settle what is held", path={"id": "/id"}, body={}),
    "release": link("ReleaseReservation", "Give back what is held", path={"id": "/id"}, body={}),
    "status": _WHOLE_STATUS,
}
_USER, _METRIC, _LEVEL, _OPERATION = "u_1", "credits", "connected_platforms", "create_reel"
_CONSUME_EXAMPLES: dict[str, Any] = {
    "metric": {"subject": _USER, "metric": _METRIC, "amount": 3, "metadata": {"model": "large"}},
    "operation": {"subject": _USER, "operation": _OPERATION, "quantity": 1},
}


@dataclass(frozen=True, slots=True)
class Hot:
    """A route of the hot path: what it is called, takes and answers; `problems` beside those that every one has."""

    summary: str
    name: str
    body: str
    answer: Answered
    problems: tuple[int, ...]
    examples: dict[str, Any]
    has_key: bool = True
    has_id: bool = False


HOT = {
    "/v1/consume": Hot(
        "Check and deduct in one atomic step",
        "Consume",
        "ConsumeRequest",
        Answered(200, "ConsumeResult", links={"refund": _REFUND, "status": _WHOLE_STATUS}),
        (404, 422, 429),
        _CONSUME_EXAMPLES,
    ),
    "/v1/check": Hot(
        "The same answer, and nothing is deducted",
        "Check",
        "ConsumeRequest",
        Answered(200, "CheckResult", is_replayed=False),
        (404,),
        _CONSUME_EXAMPLES,
        has_key=False,
    ),
    "/v1/consume/batch": Hot(
        "Many consumes, each with its own result, or all or none",
        "ConsumeBatch",
        "BatchRequest",
        Answered(200, "BatchResults", is_limited=False),
        (404, 422),
        {
            "each alone": {"items": [{**each, "idempotency_key": name} for name, each in _CONSUME_EXAMPLES.items()]},
            "all or none": {"items": list(_CONSUME_EXAMPLES.values()), "atomic": True},
        },
    ),
    "/v1/refunds": Hot(
        "Give back all or part of an earlier consume",
        "Refund",
        "RefundRequest",
        Answered(200, "RefundResult"),
        (404, 409, 422),
        {},
    ),
    "/v1/release": Hot(
        "Give back units of a level",
        "Release",
        "ReleaseRequest",
        Answered(200, "Released"),
        (404, 409, 422),
        {"one": {"subject": _USER, "metric": _LEVEL, "amount": 1}},
    ),
    "/v1/reservations": Hot(
        "Set an amount aside",
        "Reserve",
        "ReservationRequest",
        Answered(201, "Reservation", links=_RESERVATION_LINKS),
        (404, 409, 422, 429),
        {"for a minute": {"subject": _USER, "metric": _METRIC, "amount": 2, "ttl_s": 60}},
    ),
    "/v1/reservations/{id}/commit": Hot(
        "Settle a reservation",
        "Commit",
        "CommitRequest",
        Answered(200, "Decision", links={"refund": _REFUND}),
        (404, 409, 422, 429),
        {},
        has_id=True,
    ),
    "/v1/reservations/{id}/release": Hot(
        "Give a reservation back",
        "ReleaseReservation",
        "NothingRequest",
        Answered(200, "ReleasedReservation"),
        (404, 409, 422),
        {},
        has_id=True,
    ),
}
_ALWAYS = (400, 401, 403, 413, 500, 503)


def _operation(hot: Hot) -> Schema:
    return {
        "summary": hot.summary,
        "operationId": hot.name,
        "security": [{"api_key": []}],
        "parameters": [RESERVATION_IN_PATH] * hot.has_id + [KEY] * hot.has_key,
        # The two that settle a reservation do without.
        "requestBody": json_body(hot.body, hot.examples, is_required=not hot.has_id),
        "responses": responses(hot.summary, hot.answer, (*_ALWAYS, *hot.problems)),
    }


def paths() -> dict[str, Any]:
    """Every hot route, as the `paths` of the document."""
    return {path: {"post": _operation(hot)} for path, hot in HOT.items()}
