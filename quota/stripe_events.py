"""What Stripe's events say of a subscription: read, with nothing decided.

Events are https://docs.stripe.com/api/events/object, subscriptions https://docs.stripe.com/api/subscriptions/object.
Where API versions differ, both ways are read: until 2025-03-31 (basil) a subscription had one `current_period_end`,
since then each of its items has its own; before there were prices, an item had a `plan`.
"""

from typing import Annotated, Any, Literal

import msgspec

from quota.errors import InvalidRequest
from quota.identifiers import MAX_AMOUNT
from quota.periods import LATEST_MS

KINDS = {
    "customer.subscription.created": "created",
    "customer.subscription.updated": "updated",
    "customer.subscription.paused": "stated",
    "customer.subscription.resumed": "stated",
    "customer.subscription.deleted": "deleted",
}
"""What each type of event says: `stated` is how things are, and not what they were before."""
SUBJECT = "quotagate_subject"
"""The key of a subscription's metadata that names whose it is."""
MAX_ITEMS = 100
"""Stripe allows 20."""

Ident = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,255}\Z")]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS // 1000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT)]
Kind = Literal["created", "updated", "stated", "deleted"]


class Snapshot(msgspec.Struct, frozen=True):
    """A subscription of Stripe's at one moment: what matters of it here, and nothing else, so that two of them are
    equal where nothing that matters has changed. `items` are prices with their quantities. `subject` is the one that
    the metadata name. `pause` is the behaviour of a paused collection."""

    status: str
    customer: str
    items: tuple[tuple[str, int], ...]
    anchor_s: int
    subject: str | None = None
    pause: str | None = None
    cancels_at_s: int | None = None


class Heard(msgspec.Struct, frozen=True):
    """One event about a subscription: how it is `after` it, and how it was `before`, where the event says so."""

    id: str
    kind: Kind
    after: Snapshot
    before: Snapshot | None = None


class StripeEvent(msgspec.Struct, frozen=True):
    """`created_s` is Stripe's clock, in whole seconds: nothing finer is told. `has_more` items than it shows."""

    type: str
    created_s: int
    subscription: str
    heard: Heard
    has_more: bool = False


class _Named(msgspec.Struct):
    id: Ident


class _Item(msgspec.Struct):
    price: _Named | None = None
    plan: _Named | None = None
    quantity: Count | None = None
    current_period_end: Seconds | None = None

    def priced(self) -> tuple[str, int]:
        found = self.price or self.plan
        if found is None:
            raise msgspec.ValidationError("an item has neither a price nor a plan")
        # A metered price has no quantity: it was bought once.
        return found.id, 1 if self.quantity is None else self.quantity


class _Items(msgspec.Struct):
    data: Annotated[list[_Item], msgspec.Meta(max_length=MAX_ITEMS)]
    has_more: bool = False


class _Pause(msgspec.Struct):
    behavior: str


class _Subscription(msgspec.Struct):
    id: Ident
    status: str
    customer: Ident | _Named
    items: _Items
    billing_cycle_anchor: Seconds
    metadata: dict[str, str | None] = msgspec.field(default_factory=dict)
    cancel_at: Seconds | None = None
    cancel_at_period_end: bool = False
    current_period_end: Seconds | None = None
    pause_collection: _Pause | None = None

    def snapshot(self) -> Snapshot:
        return Snapshot(
            self.status,
            self.customer if isinstance(self.customer, str) else self.customer.id,
            tuple(sorted(item.priced() for item in self.items.data)),
            self.billing_cycle_anchor,
            self.metadata.get(SUBJECT) or None,
            None if self.pause_collection is None else self.pause_collection.behavior,
            self._cancels_at_s(),
        )

    def _cancels_at_s(self) -> int | None:
        if self.cancel_at is not None or not self.cancel_at_period_end:
            return self.cancel_at
        ends = [item.current_period_end for item in self.items.data if item.current_period_end is not None]
        # With items of different lengths Stripe cancels at the earliest end.
        return self.current_period_end if self.current_period_end is not None else min(ends, default=None)


class _Data(msgspec.Struct):
    object: dict[str, Any]
    previous_attributes: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    id: Ident
    type: str
    created: Seconds
    data: _Data


def parse(body: bytes) -> StripeEvent | None:
    """What the event says, None of a type that says nothing about a subscription. InvalidRequest."""
    try:
        head = msgspec.json.decode(body)
        if not isinstance(head, dict) or not isinstance(head.get("type"), str):
            raise InvalidRequest("this is no event of Stripe's: it has no type")
        if head["type"] not in KINDS:
            return None
        event = msgspec.convert(head, _Event)
        found = msgspec.convert(event.data.object, _Subscription)
        after = found.snapshot()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"this is no event that Stripe sends: {error}") from error
    kind = KINDS[event.type]
    if kind == "deleted":
        after = msgspec.structs.replace(after, status="canceled")
    before = _before(event.data) if kind == "updated" else None
    heard = Heard(event.id, "stated" if kind == "updated" and before is None else kind, after, before)  # type: ignore[arg-type]
    return StripeEvent(event.type, event.created, found.id, heard, found.items.has_more)


def _before(data: _Data) -> Snapshot | None:
    """The subscription as it was before an update: what the event says of what changed, over what is there now."""
    if data.previous_attributes is None:
        return None
    try:
        return msgspec.convert(_laid_over(data.object, data.previous_attributes), _Subscription).snapshot()
    except msgspec.ValidationError:
        return None  # a version that tells less: then it says how things are, and not what they were


def _laid_over(now: dict[str, Any], previous: dict[str, Any]) -> dict[str, Any]:
    """Objects tell only what changed in them, and lists are whole."""
    laid = dict(now)
    for name, value in previous.items():
        both = isinstance(value, dict) and isinstance(laid.get(name), dict)
        laid[name] = _laid_over(laid[name], value) if both else value
    return laid
