"""From Stripe's subscriptions to ours: prices to plans and add-ons by the catalog, and which one a subject holds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from quota.catalog import Catalog
from quota.entitlement import STATUSES_IN_FORCE, Scheduled, Subscription
from quota.errors import InvalidRequest, UnknownPrice
from quota.identifiers import MAX_AMOUNT, checked_identifier
from quota.stripe_events import SUBJECT, Snapshot

STATUS_OF = {
    "trialing": "trialing",
    "active": "active",
    "past_due": "past_due",
    "paused": "paused",
    "unpaid": "paused",  # payments are no longer tried; one that succeeds makes it active again
    "incomplete": "paused",  # the first payment is still to come
    "canceled": "canceled",
    "incomplete_expired": "canceled",  # the first payment never came
}
NEVER_BEGUN = ("incomplete", "incomplete_expired")
"""Nothing was paid yet: who has something from elsewhere loses nothing by it."""
ENDED = tuple(status for status, ours in STATUS_OF.items() if ours == "canceled")
_TIERS = {"paused": 1, "canceled": 0}


class Candidate(NamedTuple):
    """One subscription of Stripe's, by its id, and what it makes of its subject's."""

    id: str
    subscription: Subscription


def subject_of(snapshot: Snapshot) -> str:
    """Whose subscription it is. InvalidRequest where that is nobody's name here."""
    name = snapshot.subject or snapshot.customer
    try:
        return checked_identifier(name, "subject")
    except InvalidRequest as error:
        raise InvalidRequest(
            f"write the subject into the subscription's metadata in Stripe, as {SUBJECT}: {error}", field=SUBJECT
        ) from error


def subscription_of(snapshot: Snapshot, catalog: Catalog, running_plan: str | None = None) -> Subscription:
    """What the snapshot entitles to. UnknownPrice where the catalog does not say what is bought with a price.

    Of several plans the one with the highest rank counts. One that has ended keeps `running_plan` for a name if its
    prices have left the catalog: that must not keep it from ending.
    """
    status = _status(snapshot)
    plans, add_ons, unknown = _bought(snapshot, catalog)
    if status != "canceled" and unknown:
        raise UnknownPrice(
            f"no plan or add-on of the catalog has the Stripe price {unknown[0]}: write it into the stripe_prices of "
            "one (an add-on may add nothing), apply the catalog, and Stripe's next try will pass",
            prices=unknown,
        )
    plan = plans[0] if plans else running_plan if status == "canceled" else None
    if plan is None:
        raise UnknownPrice(
            "none of the subscription's prices is a plan's: write one of them into the stripe_prices of a plan, apply "
            "the catalog, and Stripe's next try will pass",
            prices=[price for price, _ in snapshot.items],
        )
    # The one place where a payment that is late could be given an end of its grace.
    held = Subscription(plan, status, snapshot.anchor_s * 1000, add_ons)
    if snapshot.cancels_at_s is None or status == "canceled":
        return held
    return replace(held, scheduled=Scheduled(replace(held, status="canceled"), snapshot.cancels_at_s * 1000))


def plans_of(snapshot: Snapshot, catalog: Catalog) -> list[str]:
    """The plans whose prices are in it, highest rank first."""
    return _bought(snapshot, catalog)[0]


def held(candidates: Sequence[Candidate], catalog: Catalog, now_ms: int) -> Candidate:
    """Which of a subject's subscriptions holds now: one in force before any other, the highest rank first, then the
    last of them. What follows when it ends is the best of what is then left."""
    best = max(range(len(candidates)), key=lambda place: (*_standing(candidates[place], catalog, now_ms), place))
    found = Candidate(candidates[best].id, candidates[best].subscription.at(now_ms))
    ends = found.subscription.scheduled
    others = [each for place, each in enumerate(candidates) if place != best]
    if ends is None or not others:
        return found
    following = held(others, catalog, ends.at_ms).subscription
    if following.status not in STATUSES_IN_FORCE:
        return found
    scheduled = Scheduled(replace(following, scheduled=None), ends.at_ms)
    return Candidate(found.id, replace(found.subscription, scheduled=scheduled))


def _standing(candidate: Candidate, catalog: Catalog, now_ms: int) -> tuple[int, int]:
    subscription = candidate.subscription.at(now_ms)
    plan = catalog.plans.get(subscription.plan)
    return _TIERS.get(subscription.status, 2), -1 if plan is None else plan.rank


def _status(snapshot: Snapshot) -> str:
    status = STATUS_OF.get(snapshot.status)
    if status is None:
        raise InvalidRequest(
            f"Stripe's status {snapshot.status[:40]!r} is not known here: nothing was changed; update Quotagate"
        )
    return "paused" if snapshot.pause == "void" and status in STATUSES_IN_FORCE else status


def _bought(snapshot: Snapshot, catalog: Catalog) -> tuple[list[str], dict[str, int], list[str]]:
    """Plans, highest rank first; add-ons with how many of each; prices that the catalog does not know."""
    plan_of = {price: name for name, plan in catalog.plans.items() for price in plan.stripe_prices}
    add_on_of = {price: name for name, add_on in catalog.add_ons.items() for price in add_on.stripe_prices}
    plans, unknown = set(), []
    add_ons: dict[str, int] = {}
    for price, quantity in snapshot.items:
        if price in plan_of:
            plans.add(plan_of[price])
        elif price in add_on_of:
            name = add_on_of[price]
            add_ons[name] = min(MAX_AMOUNT, add_ons.get(name, 0) + quantity)
        else:
            unknown.append(price)
    ranked = sorted(plans, key=lambda name: catalog.plans[name].rank, reverse=True)
    return ranked, {name: quantity for name, quantity in sorted(add_ons.items()) if quantity}, unknown
