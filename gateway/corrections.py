"""POST /v1/subjects/{subject}/corrections: an operator moves a counter, with a reason, and the ledger says so."""

from os import urandom
from typing import Any

import structlog
from litestar import Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

from gateway.admission import Admission
from gateway.answers import metric_document
from gateway.bodies import CorrectionRequest, fingerprint
from gateway.hot import KEY_HEADERS
from gateway.requests import idempotency_key
from gateway.resources import StrictRequest, asked_by, caller, from_path, ident_of
from ledger.acts import By
from quota.decisions import decision
from quota.demands import Asked, Demand
from quota.errors import BelowZero, TooMany
from quota.formats import DOWN, UP
from quota.protocol import Mode
from quota.replies import Outcome

log = structlog.get_logger()


@post(
    "/v1/subjects/{subject:str}/corrections",
    opt={"scopes": ("admin",)},
    status_code=200,
    summary="Move a counter up or down, even above the limit",
)
async def correct_counter(
    request: StrictRequest,
    admission: NamedDependency[Admission],
    subject: FromPath[str],
    data: JSONBody[CorrectionRequest],
) -> Response[dict[str, Any]]:
    tenant, subject, by = caller(request).tenant, from_path(subject, "subject"), asked_by(request, data.reason)
    key = idempotency_key([value for name, value in request.scope["headers"] if name in KEY_HEADERS])
    document, is_new = await correct(admission, tenant, subject, data, by=by, request_id=ident_of(request), key=key)
    headers = {} if is_new else {"idempotency-replayed": "true"}
    return Response(document | {"replayed": not is_new}, status_code=200, headers=headers)


async def correct(
    admission: Admission,
    tenant: str,
    subject: str,
    data: CorrectionRequest,
    *,
    by: By,
    request_id: str,
    key: str | None = None,
) -> tuple[dict[str, Any], bool]:
    """Moves the counter; where the metric stands then, and whether it was moved now: its idempotency key may have moved
    it before. The drain notes the act, with the entry. UnknownMetric, BelowZero, TooMany, IdempotencyKeyReused."""
    demand = Demand(
        tenant,
        subject,
        Mode.ADJUST,
        request_id,
        (Asked(data.metric, abs(data.change), UP if data.change > 0 else DOWN),),
        metadata=None if data.metadata is UNSET else data.metadata,
        attempt=urandom(8).hex(),  # callers may send one request id with many requests
        idempotency_key=key,
        route="correct",
        fingerprint="" if key is None else fingerprint(data),
        reason=data.reason,
        actor=by.actor,
        origin=by.origin,
    )
    reply, _ = await admission.ask(demand)
    (charged,) = decision(demand, admission.shard_of(tenant, subject), reply).charges
    if reply.outcome is Outcome.BELOW_ZERO:
        raise BelowZero(
            f"{subject} has used {charged.used} of {data.metric}: {data.change} would leave less than nothing"
            + (f"; correct it by -{charged.used} at most" if charged.used else ""),
            subject=subject,
            metric=data.metric,
            used=charged.used,
        )
    if reply.outcome is not Outcome.ALLOWED:
        raise TooMany(f"{subject} would have used more of {data.metric} than can be counted", metric=data.metric)
    if not reply.replayed:
        log.info("counter corrected", tenant=tenant, subject=subject, metric=data.metric, request_id=request_id)
    return {"subject": subject, **metric_document(charged)}, not reply.replayed
