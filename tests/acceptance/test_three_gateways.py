"""Three gateways side by side: a change that was answered holds for every request that begins after it, on each."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.conftest import Tenant
from tests.system import Gateway, System, eventually

ROUNDS = 50
MONTH = "month"


def catalog(free: int = 1, pro: int = 10) -> dict[str, Any]:
    def plan(rank: int, limit: int) -> dict[str, Any]:
        return {"rank": rank, "limits": {"calls": {"limit": limit, "period": MONTH}}}

    return {"default_plan": "free", "metrics": {"calls": {}}, "plans": {"free": plan(0, free), "pro": plan(1, pro)}}


@pytest.fixture(scope="module")
def others(system: System) -> Iterator[list[Gateway]]:
    """Two more, with patience: how fast Redis is on this machine is not looked at here."""
    with ExitStack() as stack:
        found = [Gateway(system, f"beside-{number}", deadline_ms=10_000) for number in (2, 3)]
        for each in found:
            each.start()
            stack.callback(each.stop)
        yield found


@pytest.fixture
def tenant(make_tenant: Callable[[dict[str, Any]], Tenant]) -> Tenant:
    return make_tenant(catalog())


@pytest.fixture
def clients(tenant: Tenant, others: list[Gateway]) -> Iterator[list[httpx.Client]]:
    """One a gateway, over connections that are open; each gateway has judged by the catalog that holds now."""
    with ExitStack() as stack:
        found = [tenant.client, *(stack.enter_context(each.client(tenant.key)) for each in others)]
        for number, client in enumerate(found):
            assert asked(client, f"warm-{number}").status_code == 200
        yield found


def asked(client: httpx.Client, subject: str, amount: int = 1) -> httpx.Response:
    return client.post("/v1/consume", json={"subject": subject, "metric": "calls", "amount": amount})


def put(client: httpx.Client, path: str, body: dict[str, Any]) -> float:
    """When the change was answered."""
    answer = client.put(path, json=body)
    assert answer.status_code == 200, answer.text
    return time.monotonic()


def test_an_upgrade_that_was_paid_passes_the_next_request_on_each(clients: list[httpx.Client]) -> None:
    took_ms = []
    for number in range(ROUNDS):
        subject = f"u_{number}"
        assert asked(clients[number % 3], subject).status_code == 200
        assert [asked(each, subject).status_code for each in clients] == [429] * 3
        answered = put(clients[0], f"/v1/subjects/{subject}/subscription", {"plan": "pro"})
        for client in (clients[number % 3], *clients):
            answer = asked(client, subject)
            took_ms.append((time.monotonic() - answered) * 1000)
            assert (answer.status_code, answer.json()["plan"]) == (200, "pro")
            answered = time.monotonic()
    print(f"after the answer: p50 {statistics.median(took_ms):.1f} ms, max {max(took_ms):.1f} ms")


@pytest.mark.parametrize("how", ["catalog", "downgrade", "override"])
def test_a_lowered_limit_is_seen_by_the_next_request_on_each(clients: list[httpx.Client], how: str) -> None:
    for number in range(6):
        subject, limit = f"{how}_{number}", 3 + number
        put(clients[number % 3], "/v1/catalog", catalog(free=1, pro=100))
        put(clients[number % 3], f"/v1/subjects/{subject}/subscription", {"plan": "pro"})
        assert [asked(each, subject, 2).status_code for each in clients] == [200] * 3
        if how == "catalog":
            put(clients[number % 3], "/v1/catalog", catalog(free=1, pro=limit))
        elif how == "override":
            override = {"limit": limit, "reason": "abuse"}
            put(clients[number % 3], f"/v1/subjects/{subject}/overrides/calls", override)
        else:
            limit = 1
            put(clients[number % 3], f"/v1/subjects/{subject}/subscription", {"plan": "free"})
        found = [asked(each, subject, 50).json() for each in clients]
        assert [(each["code"], each["limit"], each["used"]) for each in found] == [("QUOTA_EXCEEDED", limit, 6)] * 3


def test_nobody_who_begins_after_the_answer_is_judged_by_the_old_terms(clients: list[httpx.Client]) -> None:
    """Load on all three, with a limit that goes up and down; each answer says by which limit it was judged."""
    limits = [1_000_000 + number for number in range(12)]
    put(clients[0], "/v1/catalog", catalog(pro=limits[0]))
    put(clients[0], "/v1/subjects/busy/subscription", {"plan": "pro"})
    answered: list[tuple[float, int]] = [(time.monotonic(), limits[0])]
    judged: list[tuple[float, float, Any]] = []
    over = threading.Event()

    def ask(client: httpx.Client) -> None:
        while not over.is_set():
            began = time.monotonic()
            answer = asked(client, "busy")
            judged.append((began, time.monotonic(), answer.json().get("limit", answer.status_code)))

    threads = [threading.Thread(target=ask, args=(each,)) for each in clients for _ in range(2)]
    for each in threads:
        each.start()
    began: dict[int, float] = {limits[0]: 0.0}
    for number, limit in enumerate(limits[1:]):
        seen = len(judged)
        began[limit] = time.monotonic()
        answered.append((put(clients[number % 3], "/v1/catalog", catalog(pro=limit)), limit))
        eventually(lambda seen=seen: len(judged) >= seen + 30, "they ask on")
    over.set()
    for each in threads:
        each.join(20)
    assert len(judged) > 300
    # The newest limit that was answered before the request began, or one that was asked for before it ended.
    wrong = [
        (start, limit)
        for start, end, limit in judged
        if limit not in began or began[limit] > end or limit < max(each for at, each in answered if at <= start)
    ]
    assert wrong == []
    assert {limit for _, _, limit in judged} == set(limits)
