"""A subject's status and subscription."""

from typing import Any

import structlog
from litestar import get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

from gateway.admission import Admission
from gateway.answers import metric_document
from gateway.bodies import SubscriptionRequest
from gateway.report_queries import past_instant_in
from gateway.reports import Reports
from gateway.resources import StrictRequest, asked_by, caller, from_path, ident_of
from gateway.telling import tell_terms
from ledger import subscriptions
from ledger.acts import By
from ledger.store import Store
from quota.catalog import Catalog
from quota.entitlement import STATUSES_THAT_END, Subscription, plan_end_ms, plan_in_force
from quota.errors import InvalidRequest, NotFound, UnknownPlan
from quota.periods import from_rfc3339, to_rfc3339

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
    return await subscribe(
        store, admission, tenant, subject, data, by=asked_by(request, data.reason), request_id=ident_of(request)
    )


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
    now_ms = admission.now_ms()
    subscription = _checked(data, catalog, now_ms)
    how: dict[str, Any] = {"now_ms": now_ms, "by": by, "has_grace": data.status_until is UNSET}
    if data.effective == "now":
        written = await store.run(tenant, subscriptions.write, tenant, subject, subscription, **how)
    else:
        until_ms = subscription.status_until_ms
        how["end_of"] = lambda running: _end_of(running, catalog, now_ms, until_ms)
        written = await store.run(tenant, subscriptions.schedule, tenant, subject, subscription, **how)
    subscription, announcement = written
    await tell_terms(store, admission, tenant, subject, announcement=announcement, request_id=request_id)
    log.info("subscription written", tenant=tenant, subject=subject, plan=data.plan, request_id=request_id)
    return {"subject": subject, **subscription.to_document()}


async def _subscription(store: Store, admission: Admission, tenant: str, subject: str) -> Subscription | None:
    """The one that holds now: what was scheduled for an instant holds from then on, whether it was written down or
    not."""
    found = await store.run(tenant, subscriptions.of_subject, tenant, subject)
    return None if found is None else found.at(admission.now_ms())


def _end_of(running: Subscription, catalog: Catalog, now_ms: int, until_ms: int | None) -> int:
    end_ms = plan_end_ms(catalog, running, now_ms)
    if end_ms is None:
        raise InvalidRequest(f'the plan {running.plan} has no period that ends: write "now"', field="effective")
    if until_ms is not None and until_ms <= end_ms:
        raise InvalidRequest(
            f"status_until must lie after the period's end, {to_rfc3339(end_ms)}", field="status_until"
        )
    return end_ms


def _checked(data: SubscriptionRequest, catalog: Catalog, now_ms: int) -> Subscription:
    if data.plan not in catalog.plans:
        raise UnknownPlan(f"the catalog has no plan {data.plan}", plan=data.plan)
    for add_on in data.add_ons:
        if add_on not in catalog.add_ons:
            raise InvalidRequest(f"the catalog has no add-on {add_on}", field="add_ons", add_on=add_on)
    anchor_ms = None if data.anchor is None else from_rfc3339(data.anchor)
    return Subscription(data.plan, data.status, anchor_ms, data.add_ons, None, _until_ms(data, now_ms))


def _until_ms(data: SubscriptionRequest, now_ms: int) -> int | None:
    if data.status_until is UNSET or data.status_until is None:
        return None
    if data.status not in STATUSES_THAT_END:
        words = f"a subscription that is {data.status} has no status_until: leave it out, or write past_due or trialing"
        raise InvalidRequest(words, field="status_until")
    until_ms = from_rfc3339(data.status_until)
    if until_ms <= now_ms:
        raise InvalidRequest("status_until lies in the past", field="status_until")
    return until_ms
