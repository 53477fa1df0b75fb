"""Corrections by people, over HTTP against the whole system."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.asking import CATALOG, metric, post
from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
PATH = "/v1/subjects/u/corrections"


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant(CATALOG)


def body(change: Any, name: str = "tokens", **fields: Any) -> dict[str, Any]:
    return {"metric": name, "change": change, "reason": "a job was counted twice", **fields}


def test_a_counter_is_moved_up_and_down_and_answers_as_it_is_then(tenant: Tenant, system: System) -> None:
    up = post(tenant, PATH, body(1_200, metadata={"ticket": "T-1"}))
    assert (up.status_code, up.json()["used"], up.json()["remaining"], up.json()["subject"]) == (200, 1_200, 0, "u")
    down = post(tenant, PATH, body(-700))
    assert (down.status_code, down.json()["used"], down.json()["remaining"]) == (200, 500, 500)
    assert metric(tenant, "u", "tokens")["used"] == 500
    system.drained()
    (entry, *_) = tenant.client.get("/v1/entries", params={"kind": "correct"}).json()["items"]
    assert (entry["amount"], entry["change"], entry["used_after"]) == (1_200, 1_200, 1_200)
    assert (entry["reason"], entry["metadata"]) == ("a job was counted twice", {"ticket": "T-1"})
    acts = system.sql("SELECT act, origin, before ->> 'used', after ->> 'used' FROM acts WHERE tenant = %s "
                      "AND act = 'counter.corrected' ORDER BY id", tenant.name)  # fmt: skip
    assert acts == [("counter.corrected", "127.0.0.1", "0", "1200"), ("counter.corrected", "127.0.0.1", "1200", "500")]


def test_below_zero_nothing_is_changed_and_it_says_how_far_it_may_go(tenant: Tenant) -> None:
    assert tenant.consume("u", "calls", 4).status_code == 200
    answer = post(tenant, PATH, body(-5, "calls"))
    assert (answer.status_code, answer.json()["code"], answer.json()["used"]) == (409, "BELOW_ZERO", 4)
    assert "-4 at most" in answer.json()["detail"]
    assert metric(tenant, "u", "calls")["used"] == 4


def test_a_level_is_corrected_too_and_a_cap_is_left_alone(tenant: Tenant) -> None:
    assert post(tenant, PATH, body(2, "projects")).json()["used"] == 2
    assert tenant.consume("u", "calls", 4).status_code == 200
    assert post(tenant, PATH, body(-3, "calls")).json()["caps"][0]["used"] == 4


def test_the_same_key_corrects_once_and_another_body_is_refused(tenant: Tenant, system: System) -> None:
    key = {"Idempotency-Key": "k-1"}
    first, again = post(tenant, PATH, body(7), **key), post(tenant, PATH, body(7), **key)
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json() | {"replayed": True})
    assert first.json()["replayed"] is False
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    assert post(tenant, PATH, body(8), **key).status_code == 422
    assert metric(tenant, "u", "tokens")["used"] == 7


def test_a_repeat_that_redis_no_longer_knew_is_taken_back(tenant: Tenant, system: System) -> None:
    key = {"Idempotency-Key": "k-2"}
    assert post(tenant, PATH, body(30)).status_code == 200
    assert post(tenant, PATH, body(-7), **key).status_code == 200
    system.drained()
    for name in system.redis().scan_iter(match=f"qg:{{*}}:i:{tenant.name}:*", count=1000):
        system.redis().delete(name)
    assert post(tenant, PATH, body(-7), **key).json()["used"] == 16
    eventually(lambda: metric(tenant, "u", "tokens")["used"] == 23, "the second correction is taken back")


@pytest.mark.parametrize("change", [0, 1.5, "1", True, None, 2**53, -(2**53)])
def test_what_is_no_change_is_refused(tenant: Tenant, change: Any) -> None:
    assert post(tenant, PATH, body(change)).status_code == 400
    assert metric(tenant, "u", "tokens")["used"] == 0


def test_without_a_reason_a_known_metric_or_the_scope_nothing_happens(tenant: Tenant, system: System) -> None:
    assert post(tenant, PATH, {"metric": "tokens", "change": 1}).status_code == 400
    assert post(tenant, PATH, body(1, "nothing")).status_code == 404
    with system.client(system.make_key(tenant.name, "consume", "read")) as client:
        assert client.post(PATH, json=body(1)).status_code == 403
    assert metric(tenant, "u", "tokens")["used"] == 0
