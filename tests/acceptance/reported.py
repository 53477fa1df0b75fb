"""What the tests of reports share: two tenants that did the same, and how they ask what was reported."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from quota.periods import DAY_MS, from_rfc3339, to_rfc3339
from tests.conftest import Tenant
from tests.system import System, eventually

SUBJECT = "org/a:b"
PATH = f"/v1/subjects/{quote(SUBJECT, safe='')}"
ROUTES = {
    f"{PATH}/usage": "/v1/subjects/{subject}/usage",
    f"{PATH}/entries": "/v1/subjects/{subject}/entries",
    "/v1/entries": "/v1/entries",
    "/v1/periods": "/v1/periods",
    f"{PATH}/status": "/v1/subjects/{subject}/status",
}
CATALOG: dict[str, Any] = {
    "default_plan": "free",
    "metrics": {"calls": {}, "tokens": {}, "seats": {"kind": "level"}},
    "operations": {"chat": {"charges": {"calls": 1, "tokens": 50}}},
    "plans": {
        "free": {
            "limits": {
                "calls": {"limit": 100, "period": "month"},
                "tokens": {"limit": 1_000, "period": "month"},
                "seats": {"limit": 3},
            }
        }
    },
}


@dataclass(frozen=True)
class Told:
    """Two tenants with a subject of the same name, and what the first one did."""

    system: System
    tenant: Tenant
    other: Tenant

    def get(self, path: str, key: str | None = None, accept: str = "*/*", **query: Any) -> httpx.Response:
        words = {name.rstrip("_"): value for name, value in query.items()}
        headers = {"authorization": f"Bearer {key or self.tenant.key}", "accept": accept}
        return httpx.get(self.system.urls["gateway"] + path, params=words, headers=headers, timeout=20)

    def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Of every page."""
        found: list[dict[str, Any]] = []
        while True:
            answer = self.get(path, **query)
            assert answer.status_code == 200, answer.text
            found += answer.json()["items"]
            query["cursor"] = answer.json()["next_cursor"]
            if query["cursor"] is None:
                return found


@contextmanager
def two_tenants(system: System) -> Iterator[Told]:
    """Both have done the same."""
    with ExitStack() as stack:
        found = []
        for _ in range(2):
            name = f"tenant-{secrets.token_hex(4)}"
            key = system.make_key(name)
            tenant = Tenant(name, key, stack.enter_context(system.client(key)))
            assert tenant.client.put("/v1/catalog", json=CATALOG).status_code == 200
            do_something(tenant)
            found.append(tenant)
        system.drained()
        for tenant in found:
            plant_periods(system, tenant)
        sealed = "SELECT count(*) FROM sealed_periods WHERE tenant IN (%s, %s)"
        names = [each.name for each in found]
        eventually(lambda: system.sql(sealed, *names) == [(4,)], "all periods are sealed")
        yield Told(system, *found)


def do_something(tenant: Tenant) -> None:
    for n in range(12):
        headers = {"Idempotency-Key": f"=key {n}", "X-Request-Id": f"-request-{n}"}
        answer = tenant.client.post("/v1/consume", json={"subject": SUBJECT, "operation": "chat"}, headers=headers)
        assert answer.status_code == 200, answer.text
    body = {"receipt": answer.json()["receipt"], "reason": '=1+1, said the "caller"\r\nüber', "metadata": {"a": "=2"}}
    assert tenant.client.post("/v1/refunds", json=body).status_code == 200
    assert tenant.consume(SUBJECT, "seats", 2).status_code == 200
    assert tenant.consume(SUBJECT, "calls", 1_000).status_code == 429
    assert tenant.consume("@evil", "calls", 3).status_code == 200


def plant_periods(system: System, tenant: Tenant) -> None:
    """Two days that are over, as a drain would have booked them; into the first some units came late."""
    day_ms = from_rfc3339(str(system.sql("SELECT to_char(now(), 'YYYY-MM-DD\"T\"00:00:00Z')")[0][0]))
    rows = []
    for n, (days, kind, change, used, is_late) in enumerate(
        [(3, "consume", 7, 7, False), (3, "close", 0, 7, False), (2, "consume", 5, 5, False), (2, "close", 0, 5, False),
         (3, "refund", -3, 4, True)],
        start=secrets.randbelow(2**40),
    ):  # fmt: skip
        start_ms = day_ms - days * DAY_MS
        end = to_rfc3339(start_ms + DAY_MS)
        rows.append(
            (n, end, tenant.name, SUBJECT, kind, abs(change), change, used, to_rfc3339(start_ms), end, n, is_late)
        )
    for row in rows:
        system.sql(
            """
            INSERT INTO entries (shard, epoch, n, occurred_at, tenant, subject, metric, kind, amount, change,
                                 used_after, plan, period_kind, period_start, period_end, receipt_first_n,
                                 receipt_count, is_late)
            VALUES (0, 0, %s, %s, %s, %s, 'calls', %s, %s, %s, %s, 'free', 'day', %s, %s, %s, 1, %s)
            """,
            *row,
        )
    for days, used in ((3, 4), (2, 5)):
        start_ms = day_ms - days * DAY_MS
        system.sql(
            "INSERT INTO balances VALUES (%s, %s, 'calls', 'day', %s, %s, 'free', %s, 0, 0, 4)",
            *(tenant.name, SUBJECT, to_rfc3339(start_ms), to_rfc3339(start_ms + DAY_MS), used),
        )


def refused(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    return str(answer.json()["detail"])
