"""Stripe's events in Stripe's own shape, and its signatures, made by hand."""

import hashlib
import hmac
import itertools
import json
import secrets
import time
from typing import Any

import httpx

_numbers = itertools.count(1)
PATH = "/v1/webhooks/stripe"


def item(price: str, quantity: int | None = 1, /, **fields: Any) -> dict[str, Any]:
    found = {
        "id": f"si_{price}",
        "object": "subscription_item",
        "created": 1_766_000_000,
        "current_period_end": 1_800_000_000,
        "current_period_start": 1_797_321_600,
        "metadata": {},
        "price": {"id": price, "object": "price", "active": True, "type": "recurring", "unit_amount": 1000},
        "quantity": quantity,
        "subscription": "sub_1",
        **fields,
    }
    return {name: value for name, value in found.items() if value is not None}


def subscription(*items: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """As API version 2025-03-31.basil and later have it."""
    return {
        "id": "sub_1",
        "object": "subscription",
        "application": None,
        "billing_cycle_anchor": 1_766_000_000,
        "billing_mode": {"type": "classic"},
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "collection_method": "charge_automatically",
        "created": 1_766_000_000,
        "currency": "usd",
        "customer": "cus_Na6dX7aXxi11N4",
        "ended_at": None,
        "items": {
            "object": "list",
            "data": list(items) or [item("price_pro")],
            "has_more": False,
            "total_count": len(items) or 1,
            "url": "/v1/subscription_items?subscription=sub_1",
        },
        "livemode": False,
        "metadata": {"quotagate_subject": "u_1"},
        "pause_collection": None,
        "start_date": 1_766_000_000,
        "status": "active",
        "trial_end": None,
        "trial_start": None,
        **fields,
    }


def event(
    kind: str, found: dict[str, Any], created_s: int, *, before: dict[str, Any] | None = None, ident: str | None = None
) -> dict[str, Any]:
    """An event about a subscription. `before` is the subscription as it was: what differs becomes
    `previous_attributes`, as Stripe tells it, lists whole and of objects what changed in them."""
    data: dict[str, Any] = {"object": found}
    if before is not None:
        data["previous_attributes"] = _differing(before, found)
    return {
        "id": ident or f"evt_{next(_numbers):06}{secrets.token_hex(6)}",
        "object": "event",
        "api_version": "2025-03-31.basil",
        "created": created_s,
        "data": data,
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": f"customer.subscription.{kind}",
    }


def _differing(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := _differing(old, new):
                found[name] = inner
        elif old != new:
            found[name] = old
    return found


def signed(body: bytes, secret: str, *, at_s: float | None = None) -> str:
    """The header Stripe-Signature: HMAC-SHA256 of the instant, a dot and the body."""
    instant = int(time.time() if at_s is None else at_s)
    digest = hmac.new(secret.encode(), f"{instant}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={instant},v1={digest},v0={'0' * 64}"


def deliver(client: httpx.Client, told: dict[str, Any], secret: str, *, at_s: float | None = None) -> httpx.Response:
    body = json.dumps(told, indent=2).encode()
    headers = {"Stripe-Signature": signed(body, secret, at_s=at_s), "Content-Type": "application/json; charset=utf-8"}
    return client.post(PATH, content=body, headers=headers)
