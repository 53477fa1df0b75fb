"""A tenant that sells at Stripe, and a gateway that hears of it."""

import time
from typing import Any

import httpx

from tests.conftest import Tenant
from tests.stripe_shapes import deliver, item, subscription
from tests.system import Gateway

NOW_S = int(time.time())

CATALOG: dict[str, Any] = {
    "default_plan": "free",
    "metrics": {"m": {}},
    "plans": {
        "free": {"rank": 0, "limits": {"m": {"limit": 1, "period": "month"}}},
        "starter": {"rank": 1, "limits": {"m": {"limit": 10, "period": "month"}}, "stripe_prices": ["price_starter"]},
        "pro": {"rank": 2, "limits": {"m": {"limit": 100, "period": "month"}}, "stripe_prices": ["price_pro"]},
    },
    "add_ons": {"extra": {"adds": {"m": 50}, "stripe_prices": ["price_extra"]}},
}


class Shop:
    """One tenant's Stripe, and a gateway that knows its secrets."""

    def __init__(self, tenant: Tenant, gateway: Gateway, secret: str) -> None:
        self.tenant, self.gateway, self.secret = tenant, gateway, secret
        self.door = httpx.Client(base_url=gateway.url, timeout=10)

    def send(self, told: dict[str, Any]) -> str:
        answer = deliver(self.door, told, self.secret)
        assert answer.status_code == 200, answer.text
        assert answer.json().keys() == {"received", "outcome"}
        return str(answer.json()["outcome"])

    def plan(self, subject: str = "u_1") -> tuple[str | None, str, int | None]:
        """The plan in force, the subscription's status, and what may be used in a month."""
        found = self.tenant.status(subject)
        return found["plan"], (found["subscription"] or {}).get("status", ""), found["metrics"][0]["limit"]

    def held(self, subject: str) -> dict[str, Any] | None:
        answer = self.tenant.client.get(f"/v1/subjects/{subject}/subscription")
        return answer.json() if answer.status_code == 200 else None


def bought(*items: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return subscription(*(items or (item("price_starter"),)), **fields)
