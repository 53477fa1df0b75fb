"""POST /v1/gifts: unused units of one subject's grants become another's, once; GET /v1/gifts/{id}: how far that is."""

from typing import Any, NamedTuple
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
from gateway.resources import StrictRequest, asked_by, caller
from ledger import gifts
from ledger.acts import By
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
    tenant, by = caller(request).tenant, asked_by(request, data.reason)
    key = idempotency_key([value for name, value in request.scope["headers"] if name in KEY_HEADERS])
    asked = await ask_and_give(store, admission, giving, tenant, data, by=by, key=key)
    headers = {"idempotency-replayed": "true"} if asked.is_known else {}
    document = document_of(asked.gift) | {"replayed": asked.is_known}
    return Response(document, status_code=202 if asked.is_waiting else 201, headers=headers)


class GiftSoFar(NamedTuple):
    """What came of a gift so far. `is_known`: its idempotency key has asked for it before; `is_waiting`: a store
    is away, and it will be given or refused once that is back."""

    gift: Gift
    is_known: bool
    is_waiting: bool


async def ask_and_give(
    store: Store,
    admission: Admission,
    giving: Giving,
    tenant: str,
    data: GiftRequest,
    *,
    by: By,
    key: str | None = None,
) -> GiftSoFar:
    """Writes the gift down, and carries it out as far as a request can wait. UnknownMetric, TooMany, NotEnoughUnits,
    IdempotencyKeyReused."""
    _, catalog = await admission.catalogs.refresh(tenant)
    if data.metric not in catalog.metrics:
        raise UnknownMetric(f"the catalog has no metric {data.metric}", metric=data.metric)
    gift, is_known = await store.run(
        tenant,
        gifts.ask,
        tenant,
        Wanted(data.giver, data.to, data.metric, data.amount, data.reason),
        by=by,
        idempotency_key=key,
        caps=catalog.metrics[data.metric].gifts,
        now_ms=admission.now_ms(),
    )
    return await carried_out(admission, giving, gift, is_known=is_known)


async def carried_out(admission: Admission, giving: Giving, gift: Gift, *, is_known: bool) -> GiftSoFar:
    """How far a gift is that is written down, as soon as it is known what comes of it, and at the latest soon."""
    if gift.is_settled:
        return GiftSoFar(gift, is_known, False)
    try:
        gift = await giving.give(gift)
    except (NotEnoughUnits, UnknownMetric):
        raise
    except (QuotagateError, TimeoutError) as error:
        # A 503 would ask for another gift; this one is written down, and will be given or refused.
        log.warning("a gift waits for the stores", tenant=gift.tenant, gift=str(gift.id), reason=str(error))
        return GiftSoFar(gift, is_known, True)
    log.info("gift given", tenant=gift.tenant, gift=str(gift.id), state=gift.state, request_id=gift.request_id)
    if gift.state == "given":
        await announce_given(admission, gift)
    return GiftSoFar(gift, is_known, False)


async def announce_given(admission: Admission, gift: Gift) -> None:
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
    return document_of(await store.run(tenant, gifts.read, tenant, ident))


def document_of(gift: Gift) -> dict[str, Any]:
    """A gift as answers show it."""
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
