"""The end of a period on a running system: it is a few seconds away, because an anchor says when months begin."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from quota.periods import to_rfc3339
from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
ENDS_IN_MS = 4_000
SEALED_WITHIN_S = 30.0

CATALOG: dict[str, Any] = {
    "metrics": {"m": {}},
    "plans": {
        "small": {"rank": 0, "limits": {"m": {"limit": 10, "period": "month", "rollover": {"max": 5}}}},
        "large": {"rank": 1, "limits": {"m": {"limit": 100, "period": "month"}}},
    },
}


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant(CATALOG)


def ending_soon(system: System) -> tuple[int, str]:
    """An instant shortly ahead by Redis's clock, in milliseconds and as callers write it."""
    seconds, microseconds = system.redis().time()
    end_ms = int(seconds) * 1000 + int(microseconds) // 1000 + ENDS_IN_MS
    return end_ms, to_rfc3339(end_ms)


def test_idle_subjects_are_sealed_and_what_is_left_rolls_over_and_scheduled_plans_hold(
    system: System, tenant: Tenant
) -> None:
    end_ms, anchor = ending_soon(system)
    for subject in ("used", "unused", "changing"):
        tenant.subscribe(subject, "small", anchor=anchor)
    assert tenant.consume("used", "m", 8).json()["period"]["end"] == anchor
    answer = tenant.subscribe("changing", "large", anchor=anchor, effective="period_end").json()
    assert answer["scheduled"]["at"] == anchor and answer["plan"] == "small"
    taken = tenant.consume("changing", "m", 10).json()
    assert tenant.consume("changing", "m", 1).status_code == 429

    # The first request of the period has the new plan; nobody asks for the others.
    eventually(lambda: time.time() * 1000 > end_ms + 50, "the period is over")
    first = tenant.consume("changing", "m", 60)
    assert (first.status_code, first.json()["used"], first.json()["plan"]) == (200, 60, "large")

    def sealed() -> dict[str, Any]:
        items = tenant.client.get("/v1/periods").json()["items"]
        return {each["subject"]: each for each in items}

    eventually(lambda: len(sealed()) == 3, "three periods are sealed", SEALED_WITHIN_S)
    told = {name: (each["used"], each["stated"], each["rolled_over"]) for name, each in sealed().items()}
    assert told == {"used": (8, 8, 2), "unused": (0, 0, 5), "changing": (10, 10, 0)}
    assert {each["period"]["end"] for each in sealed().values()} == {anchor}

    def now(subject: str) -> tuple[int, int]:
        (metric,) = tenant.status(subject)["metrics"]
        return metric["limit"], metric["used"]

    assert [now(subject) for subject in ("used", "unused")] == [(12, 0), (15, 0)]
    subscription = tenant.client.get("/v1/subjects/changing/subscription").json()
    assert (subscription["plan"], subscription["scheduled"]) == ("large", None)

    # What is given back of a sealed period adjusts it, and the period that runs has nothing of it.
    assert tenant.client.post("/v1/refunds", json={"receipt": taken["receipt"], "amount": 4}).status_code == 200
    eventually(lambda: sealed()["changing"]["adjustments"]["entries"] == 1, "the refund is in the ledger")
    changed = sealed()["changing"]
    assert (changed["used"], changed["used_adjusted"], changed["adjustments"]["items"][0]["change"]) == (10, 6, -4)
    assert now("changing") == (100, 60)
    assert system.sql("SELECT detail FROM incidents WHERE kind = 'seal'") == []
