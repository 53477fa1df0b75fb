"""Decisions as HTTP answers: status, headers, body. Pure."""

from functools import lru_cache
from typing import Any, NamedTuple

import http_sf
import msgspec

from gateway.problems import MEDIA_TYPE, problem
from quota.catalog import Catalog
from quota.decisions import Charged, Decision
from quota.entitlement import cheapest_upgrade
from quota.periods import Period, to_rfc3339

QUOTA_EXCEEDED_TYPE = "https://iana.org/assignments/http-problem-types#quota-exceeded"

MAX_FIELD_INTEGER = 999_999_999_999_999
"""Structured fields know integers of 15 digits (RFC 9651, section 3.3.1)."""

# The same few periods are written again and again.
_instant = lru_cache(maxsize=4096)(to_rfc3339)
_quoted = lru_cache(maxsize=4096)(lambda name: http_sf.ser((name, {})))


class Answer(NamedTuple):
    """What goes back. Header names are lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def period_document(period: Period) -> dict[str, Any]:
    """A period as answers show it; a lifetime has neither start nor end."""
    if period.end_ms is None:
        return {"kind": period.kind, "start": None, "end": None}
    return {"kind": period.kind, "start": _instant(period.start_ms), "end": _instant(period.end_ms)}


def _charge_document(charge: Charged) -> dict[str, Any]:
    return {
        "metric": charge.metric,
        "amount": charge.amount,
        "plan": charge.plan,
        "limit": charge.limit,
        "used": charge.used,
        "held": charge.held,
        "remaining": charge.remaining,
        "unlimited": charge.limit is None,
        "enforcement": charge.enforcement,
        "overage": charge.overage,
        "warning": charge.warning,
        "period": period_document(charge.period),
    }


def metric_document(charge: Charged) -> dict[str, Any]:
    """One metric of a subject's status."""
    document = _charge_document(charge)
    del document["amount"], document["plan"]
    document["grants"] = []
    return document


def _retry_after_s(charge: Charged, now_ms: int) -> int | None:
    if charge.period.end_ms is None:
        return None
    return max(1, -((now_ms - charge.period.end_ms) // 1000))


def rate_limit_headers(decision: Decision) -> list[tuple[str, str]]:
    """The RateLimit fields (draft-ietf-httpapi-ratelimit-headers-11) for every metric that has a limit."""
    policies, states = [], []
    for charge in decision.charges:
        if charge.limit is None or charge.plan is None:
            continue
        name = _quoted(charge.metric)
        remaining = min(charge.remaining or 0, MAX_FIELD_INTEGER)
        policy, state = f"{name};q={min(charge.limit, MAX_FIELD_INTEGER)}", f"{name};r={remaining}"
        if charge.period.end_ms is not None:
            policy += f";w={(charge.period.end_ms - charge.period.start_ms) // 1000}"
            state += f";t={_retry_after_s(charge, decision.now_ms)}"
        policies.append(policy)
        states.append(state)
    if not policies:
        return []
    return [("ratelimit-policy", ", ".join(policies)), ("ratelimit", ", ".join(states))]


def _success(decision: Decision) -> dict[str, Any]:
    document: dict[str, Any] = {"allowed": decision.allowed, "subject": decision.subject}
    if decision.operation is not None:
        document["operation"] = decision.operation
    if len(decision.charges) == 1:
        document |= _charge_document(decision.charges[0])
    else:
        document["charges"] = [_charge_document(charge) for charge in decision.charges]
    document["receipt"] = decision.receipt
    document["replayed"] = decision.replayed
    return document


def _denial(decision: Decision, catalog: Catalog) -> dict[str, Any]:
    """The members that tell why, how long to wait, and what would help."""
    charge = decision.binding
    if decision.lacks_plan:
        return {
            "code": "NO_SUBSCRIPTION",
            "detail": f"{decision.subject} has no active plan, and there is no default one.",
        }
    needs = {each.metric: each.used + each.held + each.amount for each in decision.charges}
    upgrade = cheapest_upgrade(catalog, charge.plan, needs, charge.metric)
    detail = f"Not enough {charge.metric}: {charge.remaining} left, {charge.amount} asked."
    if upgrade is not None:
        detail += " Upgrade your plan for more."
    return {
        "code": "QUOTA_EXCEEDED",
        "detail": detail,
        "violated-policies": [each.metric for each in decision.charges if not each.fits],
        "retry_after_s": _retry_after_s(charge, decision.now_ms),
        "upgrade": None if upgrade is None else msgspec.to_builtins(upgrade),
    }


def consumed(decision: Decision, catalog: Catalog, instance: str) -> Answer:
    """200, 429 or, for a subject without a plan, 403."""
    headers = rate_limit_headers(decision)
    if decision.allowed:
        headers.append(("content-type", "application/json"))
        if decision.replayed:
            headers.append(("idempotency-replayed", "true"))
        return Answer(200, headers, msgspec.json.encode(_success(decision)))
    denial = _denial(decision, catalog)
    headers.append(("content-type", MEDIA_TYPE))
    if decision.lacks_plan:
        document = problem(denial["code"], denial["detail"], instance, subject=decision.subject)
        return Answer(403, headers, msgspec.json.encode(document))
    if denial["retry_after_s"] is not None:
        headers.append(("retry-after", str(denial["retry_after_s"])))
    document = {
        "type": QUOTA_EXCEEDED_TYPE,
        "title": "Quota exceeded",
        "status": 429,
        "instance": instance,
        "subject": decision.subject,
        **_charge_document(decision.binding),
        **denial,
    }
    if decision.operation is not None:
        document["operation"] = decision.operation
    if len(decision.charges) > 1:
        document["charges"] = [_charge_document(charge) for charge in decision.charges]
    return Answer(429, headers, msgspec.json.encode(document))


def checked(decision: Decision, catalog: Catalog) -> Answer:
    """Always 200: the same answer, with nothing deducted; a denial says why."""
    document = _success(decision)
    if not decision.allowed:
        if len(decision.charges) > 1:
            document |= _charge_document(decision.binding)
        document |= _denial(decision, catalog)
    headers = [*rate_limit_headers(decision), ("content-type", "application/json")]
    return Answer(200, headers, msgspec.json.encode(document))
