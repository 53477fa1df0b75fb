"""Decisions as HTTP answers: status, headers, body. Pure."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import http_sf
import msgspec

from gateway.problems import MEDIA_TYPE, problem
from quota.catalog import Catalog
from quota.decisions import Charged, Decision
from quota.demands import Asked
from quota.entitlement import cheapest_upgrade
from quota.formats import CapState
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
    document = {
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
    if charge.caps:
        document["caps"] = [_cap_document(cap) for cap in charge.caps]
    return document


def _cap_document(cap: CapState) -> dict[str, Any]:
    remaining = max(0, cap.limit - cap.spent)
    return {"period": period_document(cap.period), "limit": cap.limit, "used": cap.spent, "remaining": remaining}


def metric_document(charge: Charged) -> dict[str, Any]:
    """One metric of a subject's status."""
    document = _charge_document(charge)
    del document["amount"], document["plan"]
    document["grants"] = [
        {
            "id": str(grant.id),
            "remaining": grant.left,
            "expires_at": None if grant.expires_ms is None else to_rfc3339(grant.expires_ms),
        }
        for grant in charge.grants
        if grant.left
    ]
    return document


def _seconds_until(instant_ms: int | None, now_ms: int) -> int | None:
    return None if instant_ms is None else max(1, -((now_ms - instant_ms) // 1000))


def _seconds_to_wait(decision: Decision) -> int | None:
    """Until everything that it ran into has ended; None where waiting does not help: one of that never ends, or more
    was asked for than there is room for in an unused window."""
    refused = [each for each in decision.charges if not each.fits]
    ends = [each.bound.period.end_ms for each in refused]
    if None in ends or not all(each.could_fit for each in refused):
        return None
    return _seconds_until(max((end or 0 for end in ends), default=None), decision.now_ms)


def _policy_of(charge: Charged) -> str:
    """The name of the policy that a charge ran into."""
    return charge.metric if charge.cap is None else f"{charge.metric} {charge.cap.period.kind}"


def rate_limit_headers(decision: Decision) -> list[tuple[str, str]]:
    """The RateLimit fields (draft-ietf-httpapi-ratelimit-headers-11): a policy for every metric that has a limit, and
    one for each of its caps."""
    policies, states = [], []
    for charge in decision.charges:
        if charge.plan is None:
            continue
        windows = [
            (f"{charge.metric} {cap.period.kind}", cap.limit, cap.limit - cap.spent, cap.period) for cap in charge.caps
        ]
        if charge.limit is not None:
            windows.insert(0, (charge.metric, charge.limit, charge.remaining or 0, charge.period))
        for name, limit, remaining, period in windows:
            quoted, left = _quoted(name), min(max(0, remaining), MAX_FIELD_INTEGER)
            policy, state = f"{quoted};q={min(limit, MAX_FIELD_INTEGER)}", f"{quoted};r={left}"
            if period.end_ms is not None:
                policy += f";w={(period.end_ms - period.start_ms) // 1000}"
                state += f";t={_seconds_until(period.end_ms, decision.now_ms)}"
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
    needs = {each.metric: each.need for each in decision.charges}
    upgrade = cheapest_upgrade(catalog, charge.plan, needs, charge.metric)
    limit, used, held, period = charge.bound
    remaining = None if limit is None else max(0, limit - used - held)
    per = "" if charge.cap is None else f" this {period.kind}"
    asked = f"{charge.more} more" if charge.of_hold else charge.amount
    detail = f"Not enough {charge.metric}{per}: {remaining or 0} left, {asked} asked."
    if upgrade is not None:
        detail += " Upgrade your plan for more."
    return {
        "code": "QUOTA_EXCEEDED",
        "detail": detail,
        "violated-policies": [_policy_of(each) for each in decision.charges if not each.fits],
        "limit": limit,
        "used": used,
        "held": held,
        "remaining": remaining,
        "unlimited": limit is None,
        "period": period_document(period),
        "retry_after_s": _seconds_to_wait(decision),
        "upgrade": None if upgrade is None else msgspec.to_builtins(upgrade),
    }


def consumed_document(decision: Decision, catalog: Catalog, instance: str) -> tuple[int, dict[str, Any]]:
    """Status and body: 200, 429 or, for a subject without a plan, 403."""
    if decision.allowed:
        return 200, _success(decision)
    denial = _denial(decision, catalog)
    if decision.lacks_plan:
        return 403, problem(denial["code"], denial["detail"], instance, subject=decision.subject)
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
    return 429, document


def answer(status: int, document: dict[str, Any], decision: Decision) -> Answer:
    """A decision's answer: its document, the RateLimit fields, and whether it is the first answer again."""
    headers = rate_limit_headers(decision)
    headers.append(("content-type", MEDIA_TYPE if status >= 400 else "application/json"))
    if decision.replayed:
        headers.append(("idempotency-replayed", "true"))
    if document.get("retry_after_s") is not None and status == 429:
        headers.append(("retry-after", str(document["retry_after_s"])))
    return Answer(status, headers, msgspec.json.encode(document))


def consumed(decision: Decision, catalog: Catalog, instance: str) -> Answer:
    """200, 429 or, for a subject without a plan, 403."""
    return answer(*consumed_document(decision, catalog, instance), decision)


def checked(decision: Decision, catalog: Catalog) -> Answer:
    """Always 200: the same answer, with nothing deducted; a denial says why."""
    document = _success(decision)
    if not decision.allowed:
        if len(decision.charges) > 1:
            document |= _charge_document(decision.binding)
        document |= _denial(decision, catalog)
    return answer(200, document, decision)


def reserved(decision: Decision, reservation: str, expires_ms: int) -> Answer:
    """201: units are set aside until `expires_at`."""
    document = {
        "id": reservation,
        "subject": decision.subject,
        **_charge_document(decision.charges[0]),
        "expires_at": to_rfc3339(expires_ms),
        "replayed": decision.replayed,
    }
    return answer(201, document, decision)


def released(decision: Decision, reservation: str | None = None) -> Answer:
    """200: a hold, or units of a level, were given back."""
    document: dict[str, Any] = {} if reservation is None else {"id": reservation}
    document |= {"subject": decision.subject, **_charge_document(decision.charges[0])}
    document |= {"receipt": None, "replayed": decision.replayed}
    return answer(200, document, decision)


def refunded(decision: Decision, receipt: str) -> Answer:
    """200: how much was given back now, and in all, of what the receipt names."""
    charges = [
        {**_charge_document(charge), "refunded": charge.amount, "refunded_total": charge.refunded}
        for charge in decision.charges
    ]
    document = {
        "receipt": receipt,
        "subject": decision.subject,
        "refunded": sum(charge.amount for charge in decision.charges),
        "refunded_total": sum(charge.refunded or 0 for charge in decision.charges),
        "charges": charges,
        "replayed": decision.replayed,
    }
    return answer(200, document, decision)


def degraded_document(subject: str, charges: Sequence[Asked], operation: str | None) -> dict[str, Any]:
    """What was let through while nobody could count: null for all that nobody can know."""
    documents = [
        {
            "metric": each.metric,
            "amount": each.amount,
            "plan": None,
            "limit": None,
            "used": None,
            "held": None,
            "remaining": None,
            "unlimited": False,
            "enforcement": None,
            "overage": None,
            "warning": None,
            "period": None,
        }
        for each in charges
    ]
    document: dict[str, Any] = {"allowed": True, "degraded": True, "subject": subject}
    if operation is not None:
        document["operation"] = operation
    document |= documents[0] if len(documents) == 1 else {"charges": documents}
    return document | {"receipt": None, "replayed": False}


def degraded(subject: str, charges: Sequence[Asked], operation: str | None) -> Answer:
    """200: let through while nobody could count; it is charged later."""
    body = msgspec.json.encode(degraded_document(subject, charges, operation))
    return Answer(200, [("content-type", "application/json")], body)
