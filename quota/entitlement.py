"""What a subscription entitles a subject to, what an operation costs, and which plan would have been enough."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from quota.catalog import Catalog, Limit, Plan
from quota.catalog_rules import PERIODS_BY_LENGTH
from quota.errors import InvalidRequest, UnknownOperation
from quota.identifiers import MAX_AMOUNT, checked_amount
from quota.periods import PeriodKind, period_at, to_rfc3339

SUBSCRIPTION_STATUSES = ("active", "trialing", "past_due", "canceled", "paused")
STATUSES_IN_FORCE = ("active", "trialing", "past_due")
"""Who is late with a payment keeps the plan until somebody cancels it. Any other word counts as not in force."""

_KINDS = {kind.value: kind for kind in PeriodKind}
_NOTHING = Limit(limit=0)
"""What a plan grants of a metric that it does not name: none, ever."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """`add_ons` maps an add-on's name to how many of it were bought. `scheduled` takes its place at an instant."""

    plan: str
    status: str
    anchor_ms: int | None
    add_ons: Mapping[str, int]
    scheduled: "Scheduled | None" = None

    def at(self, now_ms: int) -> "Subscription":
        """The one that holds at an instant from now on."""
        return self.scheduled.subscription if self.scheduled and self.scheduled.at_ms <= now_ms else self

    def to_document(self) -> dict[str, Any]:
        """As GET …/subscription shows it."""
        scheduled = None if self.scheduled is None else self.scheduled.to_document()
        return {**self.terms(), "scheduled": scheduled}

    def terms(self) -> dict[str, Any]:
        """The same without what is scheduled."""
        return {
            "plan": self.plan,
            "status": self.status,
            "anchor": None if self.anchor_ms is None else to_rfc3339(self.anchor_ms),
            "add_ons": dict(self.add_ons),
        }


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What a subscription changes into, and when."""

    subscription: Subscription
    at_ms: int

    def to_document(self) -> dict[str, Any]:
        return {"at": to_rfc3339(self.at_ms), **self.subscription.terms()}


@dataclass(frozen=True, slots=True)
class Entitlement:
    """`limit` None is unlimited. `plan` None means that no plan is in force: the limit is 0 then. `caps` maps the kind
    of a shorter window to its limit. `nature` is counter or level. At most `rollover` unused units go on into the next
    period."""

    plan: str | None
    limit: int | None
    enforcement: str
    kind: PeriodKind
    anchor_ms: int | None
    warn_at_pct: tuple[int, ...]
    nature: str = "counter"
    caps: Mapping[str, int] = field(default_factory=dict)
    rollover: int | None = None


@dataclass(frozen=True, slots=True)
class Upgrade:
    """`limit` None is unlimited."""

    plan: str
    limit: int | None
    url: str | None


@dataclass(frozen=True, slots=True)
class Need:
    """What must fit: `total` under the limit of the period, `amount` under a cap that was not counted so far, and
    `caps` under those that were, by their kind."""

    total: int
    amount: int
    caps: Mapping[str, int] = field(default_factory=dict)


def plan_in_force(catalog: Catalog, subscription: Subscription | None) -> str | None:
    """The subscription's plan while it is in force and the catalog still has it, else the default one, if any."""
    if subscription is not None and _in_force(subscription) and subscription.plan in catalog.plans:
        return subscription.plan
    return catalog.default_plan


def plan_end_ms(catalog: Catalog, subscription: Subscription, now_ms: int) -> int | None:
    """When the longest period of the plan that a subject is on ends; None if none of its limits has a period."""
    plan = plan_in_force(catalog, subscription)
    kinds = {limit.period for limit in catalog.plans[plan].limits.values()} if plan is not None else set()
    longest = next((kind for kind in reversed(PERIODS_BY_LENGTH) if kind in kinds), None)
    if longest is None:
        return None
    anchor_ms = subscription.anchor_ms if _in_force(subscription) else None
    return period_at(PeriodKind(longest), now_ms, anchor_ms).end_ms


def entitlement(catalog: Catalog, subscription: Subscription | None, metric_name: str) -> Entitlement:
    """Of a metric that has left the catalog, what there is without a plan: no more of it, and what was used stays.

    Add-ons, the anchor and what rolls over belong to the subscription: they count only while it is in force, and still
    do when its plan has left the catalog and the default one stands in. An add-on that has left the catalog adds none.
    """
    metric = catalog.metrics.get(metric_name)
    if metric is None:
        return Entitlement(None, 0, "hard", PeriodKind.LIFETIME, None, ())
    plan_name = plan_in_force(catalog, subscription)
    if plan_name is None:
        return Entitlement(None, 0, "hard", PeriodKind.LIFETIME, None, metric.warn_at_pct, metric.kind)
    granted = catalog.plans[plan_name].limits.get(metric_name, _NOTHING)
    limit, anchor_ms, rollover = granted.limit, None, None
    if subscription is not None and _in_force(subscription):
        anchor_ms = subscription.anchor_ms
        rollover = None if granted.rollover is None else granted.rollover.max
        if limit is not None:
            limit = min(MAX_AMOUNT, limit + _added(catalog, subscription.add_ons, metric_name))
    kind = _KINDS[granted.period or "lifetime"]
    return Entitlement(
        plan_name, limit, granted.enforcement, kind, anchor_ms, metric.warn_at_pct, metric.kind, granted.caps, rollover
    )


def charges_of(catalog: Catalog, operation: str, quantity: int) -> dict[str, int]:
    """Amounts by metric, none for a free operation. UnknownOperation; InvalidRequest if an amount is out of range."""
    checked_amount(quantity, "quantity")
    if operation not in catalog.operations:
        raise UnknownOperation(f"there is no operation {operation}", operation=operation)
    charges = {name: cost * quantity for name, cost in catalog.operations[operation].charges.items()}
    for name, amount in charges.items():
        if amount > MAX_AMOUNT:
            raise InvalidRequest(
                f"quantity is too large: it would charge more {name} than {MAX_AMOUNT}", field="quantity"
            )
    return charges


def warning_level(used: int, limit: int | None, warn_at_pct: tuple[int, ...]) -> int | None:
    """The highest of these percents, and of 100, that `used` has reached; None while nothing is used or unlimited."""
    if limit is None or used <= 0:
        return None
    # Multiplied out rather than divided: a quotient would round, and round differently in Lua.
    return max((percent for percent in (*warn_at_pct, 100) if used * 100 >= limit * percent), default=None)


def cheapest_upgrade(catalog: Catalog, plan: str | None, needs: Mapping[str, Need], metric: str) -> Upgrade | None:
    """The lowest-ranked plan above this one on which all needs fit, by metric; None if there is none.

    Without a plan, or with one that has left the catalog, every plan is an upgrade. Add-ons are left out of account: a
    plan is offered only if it is enough by itself. `limit` is that of `metric` on the plan.
    """
    current = catalog.plans.get(plan) if plan is not None else None
    for name, candidate in sorted(catalog.plans.items(), key=lambda item: item[1].rank):
        if current is not None and candidate.rank <= current.rank:
            continue
        if all(_fits(candidate, metric_name, need) for metric_name, need in needs.items()):
            return Upgrade(name, candidate.limits.get(metric, _NOTHING).limit, _upgrade_url(catalog, name))
    return None


def _in_force(subscription: Subscription) -> bool:
    return subscription.status in STATUSES_IN_FORCE


def _added(catalog: Catalog, add_ons: Mapping[str, int], metric_name: str) -> int:
    added = 0
    for name, quantity in add_ons.items():
        assert quantity >= 0, f"add-on {name} cannot be bought {quantity} times"
        if name in catalog.add_ons:
            added += catalog.add_ons[name].adds.get(metric_name, 0) * quantity
    return added


def _fits(plan: Plan, metric_name: str, need: Need) -> bool:
    granted = plan.limits.get(metric_name, _NOTHING)
    if granted.enforcement == "soft":
        return True
    if granted.limit is not None and need.total > granted.limit:
        return False
    return all(need.caps.get(kind, need.amount) <= limit for kind, limit in granted.caps.items())


def _upgrade_url(catalog: Catalog, plan: str) -> str | None:
    return None if catalog.upgrade_url is None else catalog.upgrade_url.replace("{plan}", quote(plan, safe=""))
