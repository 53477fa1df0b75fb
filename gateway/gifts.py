"""POST /v1/gifts: unused units of one subject's grants become another's, once; GET /v1/gifts/{id}: how far that is."""

from typing import Any
from uuid import UUID

import structlog
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from gateway.admission import Admission
from gateway.bodies import GiftRequest
from gateway.giving import Giving
from gateway.hot import KEY_HEADERS
from gateway.requests import idempotency_key
from gateway.resources import StrictRequest, asked_by, caller, ident_of
from ledger import gifts
from ledger.gifts import Gift, Wanted
from ledger.store import Store
from quota.errors import NotEnoughUnits, NotFound, QuotagateError, UnknownMetric

log = structlog.get_logger()


@post("/v1/gifts", opt={"scopes": ("admin",)}, summary="Give one subject's unused units of grants to another")
async def give_gift(
    request: StrictRequest,
    store: NamedDependency[Store],
    admission: NamedDependency[Admission],
    giving: NamedDependency[Giving],
    data: JSONBody[GiftRequest],
) -> Response[dict[str, Any]]:
    tenant = caller(request).tenant
    _, catalog = await admission.catalogs.refresh(tenant)
    if data.metric not in catalog.metrics:
        raise UnknownMetric(f"the catalog has no metric {data.metric}", metric=data.metric)
    gift, is_known = await store.run(
        tenant,
        gifts.ask,
        tenant,
        Wanted(data.giver, data.to, data.metric, data.amount, data.reason),
        by=asked_by(request, data.reason),
        idempotency_key=idempotency_key([value for name, value in request.scope["headers"] if name in KEY_HEADERS]),
        caps=catalog.metrics[data.metric].gifts,
        now_ms=admission.now_ms(),
    )
    return await carried_out(admission, giving, gift, is_known=is_known, request_id=ident_of(request))


async def carried_out(
    admission: Admission, giving: Giving, gift: Gift, *, is_known: bool, request_id: str
) -> Response[dict[str, Any]]:
    """The answer about a gift that is written down, as soon as it is known what comes of it, and at the latest soon."""
    headers = {"idempotency-replayed": "true"} if is_known else {}
    if gift.is_settled:
        return Response(_document(gift), status_code=201, headers=headers)
    try:
        gift = await giving.give(gift)
    except (NotEnoughUnits, UnknownMetric):
        raise
    except (QuotagateError, TimeoutError) as error:
        # A 503 would ask for another gift; this one is written down, and will be given or refused.
        log.warning("a gift waits for the stores", tenant=gift.tenant, gift=str(gift.id), reason=str(error))
        return Response(_document(gift), status_code=202, headers=headers)
    log.info("gift given", tenant=gift.tenant, gift=str(gift.id), state=gift.state, request_id=request_id)
    if gift.state == "given":
        await _announce(admission, gift)
    return Response(_document(gift), status_code=201, headers=headers)


async def _announce(admission: Admission, gift: Gift) -> None:
    """So that the receiver's next request has the units. If Redis does not hear, a worker tells it within seconds."""
    try:
        await admission.announce(gift.tenant, gift.receiver)
    except (QuotagateError, TimeoutError) as error:
        log.warning("the counters will hear of a gift later", gift=str(gift.id), reason=str(error))


@get("/v1/gifts/{id:str}", opt={"scopes": ("read", "admin")}, summary="How far a gift is")
async def read_gift(request: StrictRequest, store: NamedDependency[Store], id: FromPath[str]) -> dict[str, Any]:
    tenant = caller(request).tenant
    try:
        ident = UUID(id)
    except ValueError as error:
        raise NotFound("there is no such gift") from error
    return _document(await store.run(tenant, gifts.read, tenant, ident))


def _document(gift: Gift) -> dict[str, Any]:
    return {
        "id": str(gift.id),
        "from": gift.giver,
        "to": gift.receiver,
        "metric": gift.metric,
        "amount": gift.amount,
        "state": gift.state,
        "reason": gift.reason,
        "refusal": gift.refusal,
    }
