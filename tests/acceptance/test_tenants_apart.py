"""Every route with another tenant's ids: what they name is not there, and nothing of theirs is told or changed.

A subject is a name inside a tenant: the same name in another tenant is somebody else, of whom nothing is known.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.conftest import Tenant
from tests.system import System

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
SUBJECT = "shared"
CONSUME = {"subject": SUBJECT, "metric": "calls"}
HOLD = {**CONSUME, "ttl_s": 60}
NAMED = {
    ("get", "/v1/plans/{plan}"),
    ("get", "/v1/subjects/{subject}/subscription"),
    ("post", "/v1/refunds"),
    ("post", "/v1/reservations/{id}/commit"),
    ("post", "/v1/reservations/{id}/release"),
    ("delete", "/v1/api_keys/{id}"),
    ("delete", "/v1/subjects/{subject}/overrides/{metric}"),
    ("get", "/v1/ops/jobs/{id}"),
    ("get", "/v1/gifts/{id}"),
    ("post", "/v1/webhooks/stripe"),
}
"""Routes that name a thing which somebody has made; and Stripe's, which is not there while no tenant has a secret. With
secrets it is tried in tests/acceptance/test_stripe.py."""
BODIES: dict[tuple[str, str], Any] = {
    ("post", "/v1/consume"): CONSUME,
    ("post", "/v1/check"): CONSUME,
    ("post", "/v1/consume/batch"): {"items": [CONSUME]},
    ("post", "/v1/release"): {"subject": SUBJECT, "metric": "seats", "amount": 0},
    ("post", "/v1/reservations"): HOLD,
    ("put", "/v1/subjects/{subject}/subscription"): {"plan": "mine"},
    ("post", "/v1/subjects/{subject}/grants"): {"metric": "calls", "amount": 1, "reason": "a test"},
    ("put", "/v1/subjects/{subject}/levels/{metric}"): {"used": 1, "reason": "a test"},
    ("put", "/v1/subjects/{subject}/overrides/{metric}"): {"limit": 1, "reason": "a test"},
    ("post", "/v1/subjects/{subject}/corrections"): {"metric": "calls", "change": 1, "reason": "a test"},
    ("post", "/v1/gifts"): {"from": SUBJECT, "to": "another", "metric": "calls", "amount": 3},
    ("post", "/v1/api_keys"): {"scopes": ["read"]},
    ("post", "/v1/ops/jobs"): {"job": "verify", "subject": SUBJECT},
}


def catalog(plan: str) -> dict[str, Any]:
    limits = {"calls": {"limit": 1_000, "period": "month"}, "seats": {"limit": 5}}
    return {
        "default_plan": plan,
        "metrics": {"calls": {}, "seats": {"kind": "level"}},
        "plans": {plan: {"limits": limits}},
    }


@dataclass(frozen=True)
class Theirs:
    """A tenant with one of each thing that has a name."""

    tenant: Tenant
    key_id: str
    job: str
    gift: str
    hold: str
    receipt: str

    @classmethod
    def of(cls, tenant: Tenant) -> "Theirs":
        client = tenant.client
        tenant.subscribe(SUBJECT, "theirs")
        override = {"limit": 9, "reason": "theirs"}
        assert client.put(f"/v1/subjects/{SUBJECT}/overrides/seats", json=override).status_code == 200
        receipt = tenant.consume(SUBJECT, "calls", 7).json()["receipt"]
        # A hold's id names its subject, metric and place: nobody else is to come to the same place in another shard.
        items = [{"subject": SUBJECT, "metric": "calls", "amount": 1}] * 50
        assert client.post("/v1/consume/batch", json={"items": items}).status_code == 200
        hold = client.post("/v1/reservations", json=HOLD).json()["id"]
        job = client.post("/v1/ops/jobs", json={"job": "verify", "subject": SUBJECT}).json()["id"]
        grant = {"metric": "calls", "amount": 5, "reason": "theirs"}
        client.post(f"/v1/subjects/{SUBJECT}/grants", json=grant)
        given = {"from": SUBJECT, "to": "another", "metric": "calls", "amount": 2}
        gift = client.post("/v1/gifts", json=given).json()["id"]
        key_id = client.post("/v1/api_keys", json={"scopes": ["read"], "name": "theirs"}).json()["id"]
        return cls(tenant, key_id, job, gift, hold, receipt)

    def path(self, template: str) -> str:
        ident = self.key_id if "api_keys" in template else self.job if "jobs" in template else self.hold
        ident = self.gift if "gifts" in template else ident
        words = {"subject": SUBJECT, "plan": "theirs", "metric": "seats", "id": ident}
        return re.sub(r"\{(\w+)\}", lambda found: words[found[1]], template)

    def body(self, method: str, template: str) -> Any:
        if template == "/v1/refunds":
            return {"receipt": self.receipt}
        if (method, template) == ("put", "/v1/catalog"):
            return catalog("mine")
        return BODIES.get((method, template))

    def state(self) -> list[Any]:
        keys = self.tenant.client.get("/v1/api_keys").json()["items"]
        return [
            self.tenant.status(SUBJECT),
            self.tenant.client.get(f"/v1/subjects/{SUBJECT}/overrides").json(),
            self.tenant.client.get("/v1/catalog").json(),
            self.tenant.client.get(f"/v1/ops/jobs/{self.job}").json()["job"],
            [{name: value for name, value in each.items() if name != "last_used_at"} for each in keys],
        ]

    def is_told_in(self, answer: httpx.Response) -> bool:
        quoted = [f'"{ident}"' for ident in (self.gift, self.hold, self.receipt)]  # others may begin like them
        words = ("theirs", self.tenant.name, self.key_id, self.job, *quoted)
        asked = answer.request.url.path  # a problem says what was asked for
        return any(word in answer.text and word not in asked for word in words)


@pytest.fixture
def theirs(system: System, make_tenant: MakeTenant) -> Theirs:
    found = Theirs.of(make_tenant(catalog("theirs")))
    system.drained()
    return found


def test_what_another_tenant_has_is_not_there_on_any_route(
    document: dict[str, Any], theirs: Theirs, make_tenant: MakeTenant
) -> None:
    mine, before = make_tenant(catalog("mine")), theirs.state()
    grant = {"metric": "calls", "amount": 3, "reason": "to give away"}
    assert mine.client.post(f"/v1/subjects/{SUBJECT}/grants", json=grant).status_code == 201
    operations = [(method, path) for path, item in document["paths"].items() for method in item if "/v1/" in path]
    assert set(operations) >= NAMED | BODIES.keys()
    found = {}
    # What only reads comes first, and what is made under a shared name after it.
    for method, path in sorted(operations, key=lambda each: (each not in NAMED, each)):
        body = theirs.body(method, path)
        sent = {} if body is None else {"json": body}
        found[method, path] = mine.client.request(method, theirs.path(path), **sent)
    assert {each: found[each].status_code for each in NAMED} == dict.fromkeys(NAMED, 404)
    others = {each: answer.status_code for each, answer in found.items() if each not in NAMED}
    assert {each: status for each, status in others.items() if status not in {200, 201, 202}} == {}
    assert [each for each, answer in found.items() if theirs.is_told_in(answer)] == []
    assert theirs.state() == before


def test_what_is_not_there_is_told_in_the_same_words_as_what_never_was(theirs: Theirs, make_tenant: MakeTenant) -> None:
    mine = make_tenant(catalog("mine")).client
    nobodys = "00000000-0000-4000-8000-000000000000"
    for route, ident in (("/v1/api_keys", theirs.key_id), ("/v1/ops/jobs", theirs.job)):
        method = "DELETE" if "keys" in route else "GET"
        answers = [mine.request(method, f"{route}/{each}").json() for each in (ident, nobodys)]
        assert [each.pop("instance") for each in answers] == [f"{route}/{ident}", f"{route}/{nobodys}"]
        assert answers[0] == answers[1]
