"""POST /v1/subjects/{subject}/grants: bonus units, used after the plan's allowance."""

from typing import Any

import structlog
from litestar import Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from gateway.admission import Admission
from gateway.bodies import GrantRequest
from gateway.hot import KEY_HEADERS
from gateway.requests import idempotency_key
from gateway.resources import StrictRequest, asked_by, caller, from_path
from ledger import announcements, grants
from ledger.acts import By
from ledger.store import Store
from quota.errors import InvalidRequest, QuotagateError, UnknownMetric
from quota.periods import from_rfc3339, to_rfc3339

log = structlog.get_logger()


@post("/v1/subjects/{subject:str}/grants", opt={"scopes": ("admin",)}, summary="Give the subject bonus units")
async def give_grant(
    request: StrictRequest,
    store: NamedDependency[Store],
    admission: NamedDependency[Admission],
    subject: FromPath[str],
    data: JSONBody[GrantRequest],
) -> Response[dict[str, Any]]:
    tenant, subject = caller(request).tenant, from_path(subject, "subject")
    key = idempotency_key([value for name, value in request.scope["headers"] if name in KEY_HEADERS])
    by = asked_by(request, data.reason)
    body, is_new = await give(store, admission, tenant, subject, data, by=by, key=key)
    headers = {} if is_new else {"idempotency-replayed": "true"}
    return Response(body | {"replayed": not is_new}, status_code=201, headers=headers)


async def give(
    store: Store,
    admission: Admission,
    tenant: str,
    subject: str,
    data: GrantRequest,
    *,
    by: By,
    key: str | None = None,
) -> tuple[dict[str, Any], bool]:
    """Gives the units, and tells Redis; the grant's document, and whether it is new: its idempotency key may have given
    it before. UnknownMetric, InvalidRequest, TooMany, IdempotencyKeyReused."""
    expires_ms = None if data.expires_at is None else from_rfc3339(data.expires_at)
    _, catalog = await admission.catalogs.refresh(tenant)
    if data.metric not in catalog.metrics:
        raise UnknownMetric(f"the catalog has no metric {data.metric}", metric=data.metric)
    if expires_ms is not None and expires_ms <= admission.now_ms():
        raise InvalidRequest("expires_at lies in the past", field="expires_at")
    grant_id, announcement = await store.run(
        tenant,
        grants.add,
        tenant,
        subject,
        data.metric,
        amount=data.amount,
        priority=data.priority,
        expires_ms=expires_ms,
        by=by,
        idempotency_key=key,
    )
    if announcement is not None:
        ident = by.request_id or "-"
        await _tell(store, admission, tenant, subject, metric=data.metric, announcement=announcement, request_id=ident)
        log.info("grant given", tenant=tenant, subject=subject, metric=data.metric, request_id=by.request_id)
    body = {
        "id": str(grant_id),
        "subject": subject,
        "metric": data.metric,
        "amount": data.amount,
        "remaining": data.amount,
        "expires_at": None if expires_ms is None else to_rfc3339(expires_ms),
        "priority": data.priority,
        "reason": data.reason,
    }
    return body, announcement is not None


async def _tell(
    store: Store, admission: Admission, tenant: str, subject: str, *, metric: str, announcement: int, request_id: str
) -> None:
    """Tells Redis, and looks, so that the grant becomes an entry. If Redis does not hear, a worker will tell it: the
    grant is given, and a 503 would ask for another."""
    try:
        await admission.announce(tenant, subject)
        await store.run(tenant, announcements.told, [announcement])
        await admission.look(tenant, subject, request_id, (metric,))
    except QuotagateError as error:
        log.warning("the counters will hear of a grant later", tenant=tenant, subject=subject, reason=str(error))
