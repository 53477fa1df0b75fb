"""Caps, grants, refunds, reservations and levels, over HTTP against the whole system."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from quota.handles import Reservation
from tests.acceptance.asking import CATALOG, metric, post
from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant(CATALOG)


def grant(tenant: Tenant, subject: str, name: str, amount: int, **fields: Any) -> httpx.Response:
    body = {"metric": name, "amount": amount, "reason": "a gift", **fields}
    return post(tenant, f"/v1/subjects/{subject}/grants", body)


class TestCaps:
    def test_a_cap_holds_inside_the_period_and_says_so(self, tenant: Tenant) -> None:
        allowed = tenant.consume("u", "calls", 10)
        assert allowed.status_code == 200
        assert (allowed.json()["remaining"], allowed.json()["caps"][0]["remaining"]) == (90, 0)
        denied = tenant.consume("u", "calls", 1)
        body = denied.json()
        assert (denied.status_code, body["limit"], body["used"], body["remaining"]) == (429, 10, 10, 0)
        assert body["period"]["kind"] == "day"
        assert body["violated-policies"] == ["calls day"]
        assert 0 < int(denied.headers["retry-after"]) <= 86_400
        assert metric(tenant, "u", "calls")["used"] == 10


class TestGrants:
    def test_a_grant_is_used_after_the_plan_and_counts_in_the_limit(self, tenant: Tenant) -> None:
        assert tenant.consume("u", "tokens", 1001).status_code == 429
        given = grant(tenant, "u", "tokens", 500)
        assert (given.status_code, given.json()["remaining"]) == (201, 500)
        allowed = tenant.consume("u", "tokens", 1200).json()
        assert (allowed["limit"], allowed["used"], allowed["remaining"]) == (1500, 1200, 300)
        (listed,) = metric(tenant, "u", "tokens")["grants"]
        assert (listed["id"], listed["remaining"]) == (given.json()["id"], 300)

    def test_an_expired_grant_counts_for_nothing_from_that_instant(self, tenant: Tenant) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=2)
        assert grant(tenant, "u", "tokens", 500, expires_at=soon.isoformat()).status_code == 201
        assert tenant.consume("u", "tokens", 1200).json()["limit"] == 1500
        eventually(lambda: metric(tenant, "u", "tokens")["limit"] == 1000, "the grant is gone")
        assert datetime.now(UTC) >= soon
        now = metric(tenant, "u", "tokens")
        assert (now["used"], now["remaining"], now["grants"]) == (1000, 0, [])

    def test_a_key_gives_one_grant(self, tenant: Tenant) -> None:
        body = {"metric": "tokens", "amount": 500, "reason": "a gift"}
        answers = [post(tenant, "/v1/subjects/u/grants", body, **{"Idempotency-Key": "g"}) for _ in range(3)]
        assert [each.status_code for each in answers] == [201] * 3
        assert len({each.json()["id"] for each in answers}) == 1
        assert [each.headers.get("idempotency-replayed") for each in answers] == [None, "true", "true"]
        assert [each.json()["replayed"] for each in answers] == [False, True, True]
        other = post(tenant, "/v1/subjects/u/grants", body | {"amount": 1}, **{"Idempotency-Key": "g"})
        assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
        assert metric(tenant, "u", "tokens")["limit"] == 1500

    def test_what_a_grant_must_have(self, tenant: Tenant) -> None:
        assert grant(tenant, "u", "nothing", 1).status_code == 404
        assert grant(tenant, "u", "tokens", 0).status_code == 400
        assert grant(tenant, "u", "tokens", 1, expires_at="2020-01-01T00:00:00Z").status_code == 400
        assert post(tenant, "/v1/subjects/u/grants", {"metric": "tokens", "amount": 1}).status_code == 400


class TestRefunds:
    def test_parts_add_up_to_what_was_taken_and_not_more(self, tenant: Tenant) -> None:
        receipt = tenant.consume("u", "tokens", 10).json()["receipt"]
        first = post(tenant, "/v1/refunds", {"receipt": receipt, "amount": 4}).json()
        assert (first["refunded"], first["refunded_total"], first["charges"][0]["used"]) == (4, 4, 6)
        rest = post(tenant, "/v1/refunds", {"receipt": receipt, "amount": 9}).json()
        assert (rest["refunded"], rest["refunded_total"], rest["charges"][0]["used"]) == (6, 10, 0)
        over = post(tenant, "/v1/refunds", {"receipt": receipt})
        assert (over.status_code, over.json()["code"]) == (409, "ALREADY_REFUNDED")
        assert metric(tenant, "u", "tokens")["used"] == 0

    def test_an_operation_goes_back_whole(self, tenant: Tenant) -> None:
        receipt = tenant.operate("u", "chat", 2).json()["receipt"]
        assert post(tenant, "/v1/refunds", {"receipt": receipt, "amount": 1}).status_code == 400
        part = post(tenant, "/v1/refunds", {"receipt": receipt, "metric": "tokens", "amount": 30}).json()
        assert [(each["metric"], each["refunded"]) for each in part["charges"]] == [("tokens", 30)]
        whole = post(tenant, "/v1/refunds", {"receipt": receipt}).json()
        assert {each["metric"]: each["refunded_total"] for each in whole["charges"]} == {"calls": 2, "tokens": 100}
        calls = metric(tenant, "u", "calls")
        assert (calls["used"], calls["caps"][0]["used"]) == (0, 0)

    def test_it_works_for_a_receipt_that_is_in_the_ledger(self, system: System, tenant: Tenant) -> None:
        receipt = tenant.consume("u", "tokens", 10).json()["receipt"]
        assert post(tenant, "/v1/refunds", {"receipt": receipt, "amount": 1}).status_code == 200
        system.drained()
        system.redis().delete(*system.redis().keys("qg:{*}:f:*"))  # as if Redis had forgotten what was refunded
        rest = post(tenant, "/v1/refunds", {"receipt": receipt}).json()
        assert (rest["refunded"], rest["refunded_total"]) == (9, 10)

    def test_unknown_and_foreign_receipts_are_not_found(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        receipt = tenant.consume("u", "tokens", 10).json()["receipt"]
        other = make_tenant(CATALOG)
        for who, what in ((other, receipt), (tenant, "0.1-999999.1"), (tenant, "x"), (tenant, receipt + "0")):
            answer = post(who, "/v1/refunds", {"receipt": what})
            assert (answer.status_code, answer.json()["code"]) == (404, "RECEIPT_NOT_FOUND")
        assert metric(tenant, "u", "tokens")["used"] == 10

    def test_a_key_makes_a_partial_refund_safe_to_repeat(self, tenant: Tenant) -> None:
        receipt = tenant.consume("u", "tokens", 10).json()["receipt"]
        answers = [
            post(tenant, "/v1/refunds", {"receipt": receipt, "amount": 3}, **{"Idempotency-Key": "r1"})
            for _ in range(3)
        ]
        assert [each.json()["refunded_total"] for each in answers] == [3, 3, 3]
        assert [each.headers.get("idempotency-replayed") for each in answers] == [None, "true", "true"]
        assert metric(tenant, "u", "tokens")["used"] == 7


class TestReservations:
    def hold(self, tenant: Tenant, amount: int, ttl_s: int = 60, **headers: str) -> httpx.Response:
        body = {"subject": "u", "metric": "tokens", "amount": amount, "ttl_s": ttl_s}
        return post(tenant, "/v1/reservations", body, **headers)

    def test_what_is_held_is_not_there_for_others_until_it_is_settled(self, tenant: Tenant) -> None:
        held = self.hold(tenant, 900)
        assert held.status_code == 201
        assert (held.json()["held"], held.json()["remaining"], held.json()["amount"]) == (900, 100, 900)
        assert tenant.consume("u", "tokens", 101).status_code == 429
        settled = post(tenant, f"/v1/reservations/{held.json()['id']}/commit", {"amount": 300})
        assert settled.status_code == 200
        assert (settled.json()["used"], settled.json()["held"], settled.json()["remaining"]) == (300, 0, 700)
        assert post(tenant, "/v1/refunds", {"receipt": settled.json()["receipt"]}).json()["refunded"] == 300

    def test_more_than_was_held_is_settled_only_if_it_fits(self, tenant: Tenant) -> None:
        ident = self.hold(tenant, 900).json()["id"]
        denied = post(tenant, f"/v1/reservations/{ident}/commit", {"amount": 1001})
        assert (denied.status_code, denied.json()["code"]) == (429, "QUOTA_EXCEEDED")
        assert post(tenant, f"/v1/reservations/{ident}/commit", {"amount": 1000}).json()["used"] == 1000

    def test_a_denied_commit_offers_a_plan_for_what_is_more_than_was_held(self, make_tenant: MakeTenant) -> None:
        plans = {f"p{n}": {"rank": n, "limits": {"tokens": {"limit": 1000 * n, "period": "month"}}} for n in (1, 2, 3)}
        tenant = make_tenant({"default_plan": "p1", "metrics": {"tokens": {}}, "plans": plans})
        ident = self.hold(tenant, 900).json()["id"]
        denied = post(tenant, f"/v1/reservations/{ident}/commit", {"amount": 1001}).json()
        assert (denied["amount"], denied["remaining"], denied["upgrade"]["plan"]) == (1001, 100, "p2")
        assert denied["detail"].startswith("Not enough tokens: 100 left, 101 more asked.")

    def test_it_is_settled_once(self, tenant: Tenant) -> None:
        ident = self.hold(tenant, 10).json()["id"]
        assert post(tenant, f"/v1/reservations/{ident}/commit").status_code == 200
        for what in ("commit", "release"):
            again = post(tenant, f"/v1/reservations/{ident}/{what}")
            assert (again.status_code, again.json()["code"]) == (409, "RESERVATION_SETTLED")
        assert metric(tenant, "u", "tokens")["used"] == 10

    def test_a_release_gives_back_and_a_second_one_does_nothing(self, tenant: Tenant) -> None:
        ident = self.hold(tenant, 10).json()["id"]
        for _ in range(2):
            answer = post(tenant, f"/v1/reservations/{ident}/release")
            assert (answer.status_code, answer.json()["held"], answer.json()["used"]) == (200, 0, 0)
        late = post(tenant, f"/v1/reservations/{ident}/commit")
        assert (late.status_code, late.json()["code"]) == (409, "RESERVATION_SETTLED")

    def test_one_that_has_expired_is_free_at_once_and_cannot_be_settled(self, tenant: Tenant) -> None:
        ident = self.hold(tenant, 1000, ttl_s=1).json()["id"]
        assert tenant.consume("u", "tokens", 1).status_code == 429
        eventually(lambda: tenant.consume("u", "tokens", 1000).status_code == 200, "the hold is free")
        late = post(tenant, f"/v1/reservations/{ident}/commit")
        assert (late.status_code, late.json()["code"]) == (409, "RESERVATION_SETTLED")
        assert "expired" in late.json()["detail"]
        assert post(tenant, f"/v1/reservations/{ident}/release").status_code == 200
        assert metric(tenant, "u", "tokens")["used"] == 1000

    def test_unknown_and_foreign_ones_are_not_found(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        ident = self.hold(tenant, 10).json()["id"]
        never_made = str(Reservation(epoch=1, n=10**15, subject="u", metric="tokens"))
        other = make_tenant(CATALOG)
        for who, what in ((other, ident), (tenant, never_made), (tenant, "nonsense"), (tenant, ident[:-2])):
            for act in ("commit", "release"):
                answer = post(who, f"/v1/reservations/{what}/{act}")
                assert (answer.status_code, answer.json()["code"]) == (404, "RESERVATION_NOT_FOUND"), (what, act)
        assert metric(tenant, "u", "tokens")["held"] == 10

    def test_keys_make_holds_and_commits_safe_to_repeat(self, tenant: Tenant) -> None:
        first, again = (self.hold(tenant, 10, **{"Idempotency-Key": "h"}) for _ in range(2))
        assert first.json()["id"] == again.json()["id"]
        assert again.headers["idempotency-replayed"] == "true"
        path = f"/v1/reservations/{first.json()['id']}/commit"
        assert [post(tenant, path, **{"Idempotency-Key": "c"}).json()["used"] for _ in range(2)] == [10, 10]
        assert post(tenant, path, {"amount": 1}, **{"Idempotency-Key": "c"}).status_code == 422


class TestLevels:
    def test_a_level_is_held_and_given_back_and_never_below_zero(self, tenant: Tenant) -> None:
        assert tenant.consume("u", "projects", 3).status_code == 200
        assert tenant.consume("u", "projects", 1).status_code == 429
        body = {"subject": "u", "metric": "projects", "amount": 2}
        assert post(tenant, "/v1/release", body).json()["used"] == 1
        below = post(tenant, "/v1/release", body)
        assert (below.status_code, below.json()["code"], below.json()["used"]) == (409, "BELOW_ZERO", 1)
        assert tenant.consume("u", "projects", 2).json()["used"] == 3

    def test_only_a_level_is_given_back_so(self, tenant: Tenant) -> None:
        answer = post(tenant, "/v1/release", {"subject": "u", "metric": "tokens", "amount": 1})
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")

    def test_an_operator_says_what_it_is(self, tenant: Tenant) -> None:
        put = tenant.client.put("/v1/subjects/u/levels/projects", json={"used": 7, "reason": "counted by hand"})
        assert (put.status_code, put.json()["used"], put.json()["remaining"]) == (200, 7, 0)
        assert tenant.consume("u", "projects", 1).status_code == 429
        assert tenant.client.put("/v1/subjects/u/levels/tokens", json={"used": 7, "reason": "x"}).status_code == 400


class TestSoftLimits:
    def test_more_is_let_through_and_counted_as_overage(self, tenant: Tenant) -> None:
        answer = tenant.consume("u", "exports", 5).json()
        assert (answer["allowed"], answer["used"], answer["overage"], answer["remaining"]) == (True, 5, 3, 0)
        assert answer["warning"] == 100


def test_what_was_decided_is_counted_by_route_and_outcome(system: System, tenant: Tenant) -> None:
    def counted() -> Counter[tuple[str, str]]:
        text = httpx.get(f"{system.urls['gateway']}/metrics").text
        lines = re.findall(r'quotagate_decisions_total\{outcome="(\w+)",route="([^"]+)"\} (\S+)', text)
        return Counter({(route, outcome): int(float(count)) for outcome, route, count in lines})

    before = counted()
    hold = {"subject": "u", "metric": "tokens", "amount": 600, "ttl_s": 60}
    ident, denied = (post(tenant, "/v1/reservations", hold).json().get("id") for _ in range(2))
    assert denied is None
    assert post(tenant, f"/v1/reservations/{ident}/commit", {"amount": 1001}).status_code == 429
    receipt = post(tenant, f"/v1/reservations/{ident}/commit").json()["receipt"]
    assert post(tenant, "/v1/refunds", {"receipt": receipt}).status_code == 200
    items = [{"subject": "u", "metric": "tokens", "amount": amount} for amount in (1, 2000, 3)]
    assert post(tenant, "/v1/consume/batch", {"items": items}).status_code == 200
    assert counted() - before == {
        ("/v1/reservations", "allowed"): 1,
        ("/v1/reservations", "denied"): 1,
        ("/v1/reservations/{id}/commit", "denied"): 1,
        ("/v1/refunds", "refunded"): 1,
        ("/v1/consume/batch", "allowed"): 2,
        ("/v1/consume/batch", "denied"): 1,
    }


def test_nothing_of_a_metric_is_allowed_and_changes_nothing(tenant: Tenant) -> None:
    assert tenant.consume("u", "tokens", 1000).status_code == 200
    nothing = tenant.consume("u", "tokens", 0)
    assert (nothing.status_code, nothing.json()["receipt"], nothing.json()["used"]) == (200, None, 1000)


def test_the_ledger_agrees_with_the_counters_after_all_of_it(system: System, tenant: Tenant) -> None:
    grant(tenant, "u", "tokens", 100)
    receipt = tenant.consume("u", "tokens", 1050).json()["receipt"]
    post(tenant, "/v1/refunds", {"receipt": receipt, "amount": 75})
    body = {"subject": "u", "metric": "tokens", "amount": 20, "ttl_s": 60}
    for what in ("commit", "release"):
        ident = post(tenant, "/v1/reservations", body).json()["id"]
        assert post(tenant, f"/v1/reservations/{ident}/{what}").status_code == 200
    tenant.consume("u", "projects", 2)
    post(tenant, "/v1/release", {"subject": "u", "metric": "projects", "amount": 1})
    system.drained()
    assert system.reconciled()["drifted"] == 0
    rows = system.sql(
        "SELECT kind, amount, change, used_after FROM entries "
        "WHERE tenant = %s AND metric = 'tokens' ORDER BY epoch, n",
        tenant.name,
    )
    assert rows == [
        ("grant", 100, 0, 0),
        ("consume", 1050, 1050, 1050),
        ("warned", 95, 0, 1050),
        ("refund", 75, -75, 975),
        ("hold", 20, 0, 975),
        ("commit", 20, 20, 995),
        ("hold", 20, 0, 995),
        ("release", 20, 0, 995),
    ]
