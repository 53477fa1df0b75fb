"""A subject's status and subscription."""

from typing import Any

import structlog
from litestar import get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from gateway.admission import Admission
from gateway.answers import metric_document
from gateway.bodies import SubscriptionRequest
from gateway.report_queries import past_instant_in
from gateway.reports import Reports
from gateway.resources import StrictRequest, asked_by, caller, from_path, ident_of
from ledger import announcements, subscriptions
from ledger.acts import By
from ledger.store import Store
from quota.catalog import Catalog
from quota.entitlement import Subscription, plan_end_ms, plan_in_force
from quota.errors import InvalidRequest, NotFound, UnknownPlan
from quota.periods import from_rfc3339

log = structlog.get_logger()


@get(
    "/v1/subjects/{subject:str}/status",
    opt={"scopes": ("read",), "query": ("at",)},
    summary="Every metric of the subject now, or its balances as they stood `at` an instant",
)
async def read_status(
    request: StrictRequest,
    store: NamedDependency[Store],
    admission: NamedDependency[Admission],
    reporting: NamedDependency[Reports],
    subject: FromPath[str],
) -> dict[str, Any]:
    tenant, subject = caller(request).tenant, from_path(subject, "subject")
    at_ms = past_instant_in(request.query_params, "at", admission.now_ms())
    if at_ms is not None:
        return await reporting.standing(tenant, subject, at_ms)
    return await status_of(store, admission, tenant, subject, ident_of(request))


async def status_of(store: Store, admission: Admission, tenant: str, subject: str, request_id: str) -> dict[str, Any]:
    """The status document: every metric of the subject now."""
    subscription = await _subscription(store, admission, tenant, subject)
    catalog, found = await admission.look(tenant, subject, request_id)
    plan = plan_in_force(catalog, subscription)
    of_plan = catalog.plans[plan].limits if plan is not None else {}
    return {
        "subject": subject,
        "plan": plan,
        "subscription": None if subscription is None else _without_plan(subscription),
        "metrics": [metric_document(found[metric].charges[0]) for metric in found if _belongs(metric, of_plan, found)],
    }


def _without_plan(subscription: Subscription) -> dict[str, Any]:
    # The plan in force, which may be another, stands beside it.
    return {name: value for name, value in subscription.to_document().items() if name != "plan"}


def _belongs(metric: str, of_plan: Any, found: Any) -> bool:
    # A metric that only an add-on gives, or that was used before a plan change, is worth showing too.
    charge = found[metric].charges[0]
    return metric in of_plan or charge.limit != 0 or charge.used > 0


@get("/v1/subjects/{subject:str}/subscription", opt={"scopes": ("read", "admin")}, summary="The subject's subscription")
async def read_subscription(
    request: StrictRequest,
    store: NamedDependency[Store],
    admission: NamedDependency[Admission],
    subject: FromPath[str],
) -> dict[str, Any]:
    tenant, subject = caller(request).tenant, from_path(subject, "subject")
    subscription = await _subscription(store, admission, tenant, subject)
    if subscription is None:
        raise NotFound(f"{subject} has no subscription", subject=subject)
    return {"subject": subject, **subscription.to_document()}


@put("/v1/subjects/{subject:str}/subscription", opt={"scopes": ("admin",)}, summary="Put the subject on a plan")
async def write_subscription(
    request: StrictRequest,
    store: NamedDependency[Store],
    admission: NamedDependency[Admission],
    subject: FromPath[str],
    data: JSONBody[SubscriptionRequest],
) -> dict[str, Any]:
    tenant, subject = caller(request).tenant, from_path(subject, "subject")
    return await subscribe(store, admission, tenant, subject, data, by=asked_by(request), request_id=ident_of(request))


async def subscribe(
    store: Store,
    admission: Admission,
    tenant: str,
    subject: str,
    data: SubscriptionRequest,
    *,
    by: By,
    request_id: str,
) -> dict[str, Any]:
    """Puts the subject on a plan, and tells Redis; the subscription document. UnknownPlan, InvalidRequest, NotFound."""
    _, catalog = await admission.catalogs.refresh(tenant)
    subscription = _checked(data, catalog)
    if data.effective == "now":
        announcement = await store.run(tenant, subscriptions.put, tenant, subject, subscription, by)
    else:
        now_ms = admission.now_ms()
        subscription, announcement = await store.run(
            tenant,
            subscriptions.schedule,
            tenant,
            subject,
            subscription,
            end_of=lambda running: _end_of(running, catalog, now_ms),
            now_ms=now_ms,
            by=by,
        )
    await admission.announce(tenant, subject)
    await store.run(tenant, announcements.told, [announcement])
    plan = plan_in_force(catalog, subscription)
    if plan is not None and any(limit.rollover for limit in catalog.plans[plan].limits.values()):
        # What is left of a period can go on into the next one only if somebody knows of it, used or not.
        await admission.look(tenant, subject, request_id)
    log.info("subscription written", tenant=tenant, subject=subject, plan=data.plan, request_id=request_id)
    return {"subject": subject, **subscription.to_document()}


async def _subscription(store: Store, admission: Admission, tenant: str, subject: str) -> Subscription | None:
    """The one that holds now: what was scheduled for an instant holds from then on, whether it was written down or
    not."""
    found = await store.run(tenant, subscriptions.of_subject, tenant, subject)
    return None if found is None else found.at(admission.now_ms())


def _end_of(running: Subscription, catalog: Catalog, now_ms: int) -> int:
    end_ms = plan_end_ms(catalog, running, now_ms)
    if end_ms is None:
        raise InvalidRequest(f'the plan {running.plan} has no period that ends: write "now"', field="effective")
    return end_ms


def _checked(data: SubscriptionRequest, catalog: Catalog) -> Subscription:
    if data.plan not in catalog.plans:
        raise UnknownPlan(f"the catalog has no plan {data.plan}", plan=data.plan)
    for add_on in data.add_ons:
        if add_on not in catalog.add_ons:
            raise InvalidRequest(f"the catalog has no add-on {add_on}", field="add_ons")
    anchor_ms = None if data.anchor is None else from_rfc3339(data.anchor)
    return Subscription(data.plan, data.status, anchor_ms, data.add_ons)
