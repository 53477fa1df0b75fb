"""Gifts between subjects, over HTTP against the whole system."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from quota import keys
from tests.acceptance.asking import CATALOG, metric, post
from tests.acceptance.test_units_given_back import grant
from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
SHARDS = 64
"""Of a system that nobody has set another number for."""
COUNT = 120
"""With whatever dies in between: tests/integration/test_gifts_booked.py."""


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant(CATALOG)


def give(tenant: Tenant, amount: Any, *, giver: str = "u", to: str = "v", key: str | None = None, **fields: Any) -> Any:
    body = {"from": giver, "to": to, "metric": "tokens", "amount": amount, **fields}
    return post(tenant, "/v1/gifts", body, **({} if key is None else {"Idempotency-Key": key}))


def remaining(tenant: Tenant, subject: str) -> list[int]:
    return [each["remaining"] for each in metric(tenant, subject, "tokens")["grants"]]


def units(tenant: Tenant, *subjects: str) -> int:
    return sum(sum(remaining(tenant, subject)) for subject in subjects)


def settled(tenant: Tenant, answer: httpx.Response) -> dict[str, Any]:
    """The gift, as soon as it is given or refused."""
    path = f"/v1/gifts/{answer.json()['id']}"

    def found() -> dict[str, Any] | None:
        gift = tenant.client.get(path).json()
        return gift if gift["state"] in {"given", "refused"} else None

    return eventually(found, "the gift is settled") or {}


def test_the_units_are_the_receivers_at_once_with_their_expiry_and_priority(tenant: Tenant, system: System) -> None:
    expires_at = (datetime.now(UTC) + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%SZ")
    grant(tenant, "u", "tokens", 5)
    grant(tenant, "u", "tokens", 4, priority=-1, expires_at=expires_at)
    given = give(tenant, 6, reason="thanks")
    assert given.status_code == 201
    gift = settled(tenant, given)
    wanted = {"from": "u", "to": "v", "metric": "tokens", "amount": 6, "state": "given", "reason": "thanks"}
    assert gift == {"id": given.json()["id"], **wanted, "refusal": None}
    eventually(lambda: units(tenant, "v") == 6, "the receiver has them")
    grants = metric(tenant, "v", "tokens")["grants"]
    assert [(each["remaining"], each["expires_at"]) for each in grants] == [(4, expires_at), (2, None)]
    assert remaining(tenant, "u") == [0, 3] or remaining(tenant, "u") == [3]
    assert tenant.consume("v", "tokens", 1_006).status_code == 200
    assert tenant.consume("u", "tokens", 1_004).status_code == 429
    rows = system.sql("SELECT act, subject, object, after ->> 'to', after ->> 'amount', reason FROM acts "
                      "WHERE tenant = %s AND act = 'gift.given'", tenant.name)  # fmt: skip
    assert rows == [("gift.given", "u", "tokens", "v", "6", "thanks")]
    kinds = tenant.client.get("/v1/entries", params={"kind": "gift", "subject": "u"}).json()["items"]
    assert [(each["amount"], each["change"], each["reason"]) for each in kinds] == [(6, 0, "thanks")]


def test_a_gift_is_answered_before_a_second_is_over_and_the_next_request_has_it(tenant: Tenant) -> None:
    grant(tenant, "u", "tokens", 5)
    given = give(tenant, 5)
    if given.json()["state"] == "given":
        assert tenant.consume("v", "tokens", 1_005).status_code == 200
    assert settled(tenant, given)["state"] == "given"


def test_more_than_there_is_is_refused_with_what_there_is(tenant: Tenant) -> None:
    grant(tenant, "u", "tokens", 5)
    assert post(
        tenant, "/v1/reservations", {"subject": "u", "metric": "tokens", "amount": 1_002, "ttl_s": 60}
    ).is_success
    answer = give(tenant, 4)
    assert (answer.status_code, answer.json()["code"], answer.json()["available"]) == (409, "NOT_ENOUGH_UNITS", 3)
    assert "give 3 at most" in answer.json()["detail"]
    assert settled(tenant, give(tenant, 3))["state"] == "given"
    nothing = give(tenant, 1)
    assert (nothing.status_code, nothing.json()["available"]) == (409, 0)


def test_the_same_key_gives_once_and_another_body_is_refused(tenant: Tenant) -> None:
    grant(tenant, "u", "tokens", 9)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: give(tenant, 4, key="k"), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    for answer in answers:
        assert answer.json()["replayed"] is ("idempotency-replayed" in answer.headers)
    assert give(tenant, 5, key="k").status_code == 422
    settled(tenant, answers[0])
    eventually(lambda: (units(tenant, "u"), units(tenant, "v")) == (5, 4), "it is given once")


def test_a_key_that_was_refused_may_succeed_later(tenant: Tenant) -> None:
    assert give(tenant, 4, key="k").status_code == 409
    grant(tenant, "u", "tokens", 9)
    assert give(tenant, 4, key="k").status_code == 201


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"to": "u"}, 400),
        ({"amount": 0}, 400),
        ({"amount": -1}, 400),
        ({"amount": True}, 400),
        ({"to": "a b"}, 400),
        ({"reason": "\0"}, 400),
        ({"metric": "nothing"}, 404),
    ],
)
def test_what_is_no_gift_is_refused(tenant: Tenant, fields: dict[str, Any], status: int) -> None:
    grant(tenant, "u", "tokens", 5)
    body = {"from": "u", "to": "v", "metric": "tokens", "amount": 1, **fields}
    assert post(tenant, "/v1/gifts", body).status_code == status
    assert units(tenant, "u") == 5


def test_caps_of_a_day_hold_for_givers_and_receivers(make_tenant: MakeTenant) -> None:
    tokens = {"gifts": {"given_a_day": 5, "received_a_day": 7}}
    tenant = make_tenant(CATALOG | {"metrics": CATALOG["metrics"] | {"tokens": tokens}})
    for subject in ("u", "w"):
        grant(tenant, subject, "tokens", 20)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: give(tenant, 2), range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 409, 409]
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT00:00:00Z")
    assert (refused["code"], refused["left"], refused["begins_anew_at"]) == ("TOO_MANY", 1, tomorrow)
    assert give(tenant, 4, giver="w").json()["left"] == 3
    assert give(tenant, 3, giver="w").status_code == 201


def test_nothing_of_it_is_lost_when_it_goes_to_and_fro_at_once(tenant: Tenant, system: System) -> None:
    shard = keys.shard_of(tenant.name, "u", SHARDS)
    other = next(f"v{n}" for n in range(99) if keys.shard_of(tenant.name, f"v{n}", SHARDS) != shard)
    for subject in ("u", other):
        for amount in (40, 60):
            grant(tenant, subject, "tokens", amount)

    def give_one(number: int) -> int:
        giver, to = ("u", other) if number % 2 else (other, "u")
        return int(give(tenant, 1 + number % 37, giver=giver, to=to).status_code)

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(give_one, range(COUNT)))
    assert set(statuses) <= {201, 202, 409}  # 202: the account was changed again and again meanwhile
    assert statuses.count(201) > 20
    waiting = "SELECT count(*) FROM gifts WHERE tenant = %s AND state IN ('asked', 'taken')"
    eventually(lambda: system.sql(waiting, tenant.name) == [(0,)], "all of them are settled", 30)
    eventually(lambda: units(tenant, "u", other) == 200, "the sum is what it was")
    given = system.sql("SELECT count(*) FROM gifts WHERE tenant = %s AND state = 'given'", tenant.name)
    entries = "SELECT count(*), count(DISTINCT detail) FROM entries WHERE tenant = %s AND detail LIKE 'gift:%%'"
    assert system.sql(entries, tenant.name) == [given[0] * 2]
    assert statuses.count(201) <= given[0][0] <= COUNT - statuses.count(409)
    system.drained()
    report = system.reconciled()
    assert report["drifted"] == 0
    done = system.command(
        "ledger", "verify", "--tenant", tenant.name, "--json", "--data", str(system.data), check=False
    )
    assert done.returncode == 0, done.stdout
