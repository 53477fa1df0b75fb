"""Stripe's webhook: what customers buy there is what they hold here, from the next request on (docs/stripe.md)."""

from typing import Any

import structlog
from litestar import post
from litestar.di import NamedDependency

from gateway.admission import Admission
from gateway.resources import StrictRequest, ident_of
from gateway.stripe_signatures import StripeSignatures
from ledger import announcements, stripe
from ledger.store import Store
from quota.entitlement import Subscription, plan_in_force
from quota.errors import InvalidRequest, UnknownPrice
from quota.stripe_events import StripeEvent, parse
from quota.stripe_terms import plans_of

log = structlog.get_logger()


@post(
    "/v1/webhooks/stripe",
    opt={"scopes": ()},
    status_code=200,
    summary="What Stripe tells of a subscription; signed by Stripe, without a key",
)
async def take_stripe_event(
    request: StrictRequest,
    store: NamedDependency[Store],
    admission: NamedDependency[Admission],
    stripe_signatures: NamedDependency[StripeSignatures],
) -> dict[str, Any]:
    stripe_signatures.refuse_unknown()
    signatures = [value for name, value in request.scope["headers"] if name == b"stripe-signature"]
    body = await request.body()
    tenant = await stripe_signatures.tenant_of(body, signatures)
    event = parse(body)
    if event is None:
        return {"received": True, "outcome": "ignored"}
    told = {"tenant": tenant, "stripe_event": event.heard.id, "request_id": ident_of(request)}
    try:
        taken = await store.run(
            tenant, stripe.take, tenant, event, now_ms=admission.now_ms(), request_id=ident_of(request)
        )
    except (UnknownPrice, InvalidRequest) as error:
        # Stripe tries again for days: whoever reads this can mend it meanwhile.
        log.warning("an event of Stripe's cannot be used yet", reason=str(error), **told)
        raise
    for subject, announcement, subscription in taken.written:
        await _tell(store, admission, tenant, subject, announcement)
        await _open(admission, tenant, subject, subscription, ident_of(request))
        log.info("subscription written", subject=subject, plan=subscription.plan, status=subscription.status, **told)
    if taken.written:
        await _warn(admission, tenant, event, told)
    return {"received": True, "outcome": taken.outcome}


async def _tell(store: Store, admission: Admission, tenant: str, subject: str, announcement: int) -> None:
    await admission.announce(tenant, subject)
    await store.run(tenant, announcements.told, [announcement])


async def _open(admission: Admission, tenant: str, subject: str, subscription: Subscription, request_id: str) -> None:
    """What is left of a period can go on into the next one only if somebody knows of it, used or not."""
    _, catalog = await admission.catalogs.get(tenant)
    plan = plan_in_force(catalog, subscription)
    if plan is not None and any(limit.rollover for limit in catalog.plans[plan].limits.values()):
        await admission.look(tenant, subject, request_id)


async def _warn(admission: Admission, tenant: str, event: StripeEvent, told: dict[str, str]) -> None:
    _, catalog = await admission.catalogs.get(tenant)
    plans = plans_of(event.heard.after, catalog)
    if len(plans) > 1:
        log.warning("a Stripe subscription has several plans: the highest counts", plans=plans, **told)
    if event.has_more:
        log.warning("a Stripe subscription has more items than its event shows: those are left out", **told)
