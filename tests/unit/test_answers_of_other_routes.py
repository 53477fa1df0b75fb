"""The answers of reservations, releases, refunds, and of what was let through while nobody could count."""

from collections.abc import Callable

import msgspec
import pytest

from gateway.answers import Answer, checked, consumed, degraded, metric_document, refunded, released, reserved
from quota.decisions import Decision
from quota.demands import Asked
from quota.periods import to_rfc3339
from quota.replies import LiveGrant
from tests.unit.decided import CATALOG, LIFETIME, NOW_MS, body, capped, charge, decided, header, parsed

EXPIRES_MS = NOW_MS + 60_000
COUNTS = {"plan": "starter", "limit": 100, "used": 42, "held": 5, "remaining": 53, "unlimited": False, "overage": 0}


def test_a_reservation_is_a_201_that_names_it_and_says_until_when() -> None:
    answer = reserved(decided(charge(held=5)), "rsv_x", EXPIRES_MS)
    assert (answer.status, header(answer, "content-type")) == (201, ["application/json"])
    assert body(answer) == {
        "id": "rsv_x",
        "subject": "u_1",
        "metric": "ai_generations",
        "amount": 5,
        **COUNTS,
        "enforcement": "hard",
        "warning": None,
        "period": {"kind": "month", "start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
        "expires_at": to_rfc3339(EXPIRES_MS),
        "replayed": False,
    }


def test_a_hold_that_was_given_back_is_named_and_a_level_has_no_name() -> None:
    hold, level = body(released(decided(charge()), "rsv_x")), body(released(decided(charge())))
    assert hold["id"] == "rsv_x"
    assert "id" not in level
    for found in (hold, level):
        assert (found["subject"], found["metric"], found["amount"], found["used"]) == ("u_1", "ai_generations", 5, 42)
        assert (found["receipt"], found["replayed"], "allowed" in found) == (None, False, False)


def test_a_denied_commit_asks_for_what_is_more_than_was_held_and_offers_a_plan_that_is_enough() -> None:
    """With the 300 that are held, 450 is all that would be used: it fits into 500, and 550 fits nowhere."""
    for amount, plan in ((450, "growth"), (550, None)):
        settled = charge(amount=amount, used=0, held=300, of_hold=300, limit=100, plan_limit=100, fits=False)
        found = body(consumed(decided(settled, allowed=False), CATALOG, "/"))
        assert found["detail"].startswith(f"Not enough ai_generations: 0 left, {amount - 300} more asked.")
        assert (found["amount"], found["upgrade"] and found["upgrade"]["plan"]) == (amount, plan)


def test_a_refund_tells_what_was_given_back_now_and_in_all() -> None:
    charges = (charge(refunded=7), charge("exports", amount=2, refunded=2))
    answer = refunded(decided(*charges, receipt="3.1-9.2"), "3.1-7.2")
    found = body(answer)
    assert (answer.status, found["receipt"], found["subject"]) == (200, "3.1-7.2", "u_1")
    assert (found["refunded"], found["refunded_total"], found["replayed"]) == (7, 9, False)
    assert [(each["metric"], each["refunded"], each["refunded_total"]) for each in found["charges"]] == [
        ("ai_generations", 5, 7),
        ("exports", 2, 2),
    ]
    assert found["charges"][0]["used"] == 42


def test_a_degraded_answer_allows_and_claims_to_know_nothing() -> None:
    answer = degraded("u_1", [Asked("ai_generations", 5)], None)
    unknown = ("plan", "limit", "used", "held", "remaining", "enforcement", "overage", "warning", "period", "receipt")
    found = body(answer)
    assert (answer.status, found["allowed"], found["degraded"], found["subject"]) == (200, True, True, "u_1")
    assert (found["metric"], found["amount"], found["unlimited"], found["replayed"]) == (
        "ai_generations",
        5,
        False,
        False,
    )
    assert {name: found[name] for name in unknown} == dict.fromkeys(unknown)
    assert answer.headers == [("content-type", "application/json")]


def test_a_degraded_operation_lists_its_charges() -> None:
    found = body(degraded("u_1", [Asked("a", 5), Asked("b", 1)], "reel"))
    assert found["operation"] == "reel"
    assert [(each["metric"], each["amount"]) for each in found["charges"]] == [("a", 5), ("b", 1)]


def test_a_degraded_answer_has_the_fields_of_one_that_was_counted() -> None:
    counted = body(consumed(decided(charge(), receipt="r"), CATALOG, "/"))
    assert set(body(degraded("u_1", [Asked("ai_generations", 5)], None))) == {*counted, "degraded"}


def test_a_status_lists_grants_that_have_something_left() -> None:
    grants = (LiveGrant(7, None, 3), LiveGrant(8, EXPIRES_MS, 0), LiveGrant(9, EXPIRES_MS, 2))
    assert metric_document(charge(grants=grants))["grants"] == [
        {"id": "7", "remaining": 3, "expires_at": None},
        {"id": "9", "remaining": 2, "expires_at": to_rfc3339(EXPIRES_MS)},
    ]


KINDS: dict[str, Callable[[Decision], Answer]] = {
    "allowed": lambda decision: consumed(decision, CATALOG, "/"),
    "checked": lambda decision: checked(decision, CATALOG),
    "reserved": lambda decision: reserved(decision, "rsv_x", EXPIRES_MS),
    "released": lambda decision: released(decision, "rsv_x"),
    "given back": released,
    "refunded": lambda decision: refunded(decision, "3.1-7.1"),
}
every_kind = pytest.mark.parametrize("kind", list(KINDS))


@every_kind
def test_every_answer_has_rate_limit_fields_that_parse_back(kind: str) -> None:
    answer = KINDS[kind](decided(charge(caps=capped(), held=5, refunded=5)))
    assert parsed(answer.headers, "ratelimit-policy") == {
        "ai_generations": {"q": 100, "w": 2_592_000},
        "ai_generations day": {"q": 10, "w": 86_400},
        "ai_generations week": {"q": 50, "w": 604_800},
    }
    assert parsed(answer.headers, "ratelimit") == {
        "ai_generations": {"r": 53, "t": 777_600},
        "ai_generations day": {"r": 2, "t": 86_400},
        "ai_generations week": {"r": 30, "t": 518_400},
    }


@every_kind
def test_a_lifetime_has_neither_a_length_nor_an_end(kind: str) -> None:
    answer = KINDS[kind](decided(charge(period=LIFETIME, refunded=5)))
    assert parsed(answer.headers, "ratelimit-policy") == {"ai_generations": {"q": 100}}
    assert parsed(answer.headers, "ratelimit") == {"ai_generations": {"r": 58}}


@every_kind
@pytest.mark.parametrize("replayed", [True, False])
def test_every_first_answer_that_comes_again_says_so(kind: str, replayed: bool) -> None:
    answer = KINDS[kind](decided(charge(refunded=5), replayed=replayed))
    assert body(answer)["replayed"] is replayed
    assert header(answer, "idempotency-replayed") == ["true"] * replayed


@every_kind
def test_every_answer_is_json_and_shows_caps(kind: str) -> None:
    answer = KINDS[kind](decided(charge(caps=capped(), refunded=5)))
    assert header(answer, "content-type") == ["application/json"]
    found = msgspec.json.decode(answer.body)
    listed = found["charges"][0] if kind == "refunded" else found
    assert [cap["limit"] for cap in listed["caps"]] == [10, 50]
