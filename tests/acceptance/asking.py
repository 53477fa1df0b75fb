"""What the tests of the hot path share: a catalog with one metric of each nature, and short ways to ask."""

from typing import Any

import httpx

from tests.conftest import Tenant

CATALOG: dict[str, Any] = {
    "default_plan": "free",
    "metrics": {
        "calls": {},
        "tokens": {},
        "projects": {"kind": "level"},
        "exports": {},
    },
    "operations": {"chat": {"charges": {"calls": 1, "tokens": 50}}},
    "plans": {
        "free": {
            "limits": {
                "calls": {"limit": 100, "period": "month", "caps": {"day": 10}},
                "tokens": {"limit": 1000, "period": "month"},
                "projects": {"limit": 3},
                "exports": {"limit": 2, "period": "month", "enforcement": "soft"},
            }
        }
    },
}


def post(tenant: Tenant, path: str, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    return tenant.client.post(path, json=body, headers=headers)


def metric(tenant: Tenant, subject: str, name: str) -> dict[str, Any]:
    return next(each for each in tenant.status(subject)["metrics"] if each["metric"] == name)
