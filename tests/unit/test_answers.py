"""Decisions as HTTP answers: the contract's fields, RateLimit fields that parse back, problem documents."""

import inspect
from http import HTTPStatus

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway import problems
from gateway.answers import MAX_FIELD_INTEGER, checked, consumed, metric_document, rate_limit_headers
from quota import errors
from quota.decisions import Charged
from quota.identifiers import MAX_AMOUNT
from quota.periods import DAY_MS, Period, PeriodKind
from tests.unit.decided import CATALOG, LIFETIME, NOW_MS, START_MS, body, charge, decided, header, parsed


def test_an_allowed_consume_has_every_field_of_the_contract() -> None:
    answer = consumed(decided(charge(), receipt="3.1-7.1"), CATALOG, "/v1/consume")
    assert (answer.status, header(answer, "content-type")) == (200, ["application/json"])
    assert body(answer) == {
        "allowed": True,
        "subject": "u_1",
        "metric": "ai_generations",
        "amount": 5,
        "plan": "starter",
        "limit": 100,
        "used": 42,
        "held": 0,
        "remaining": 58,
        "unlimited": False,
        "enforcement": "hard",
        "overage": 0,
        "warning": None,
        "period": {"kind": "month", "start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
        "receipt": "3.1-7.1",
        "replayed": False,
    }


def test_a_denial_says_why_how_long_and_what_would_help() -> None:
    binding = charge(fits=False, used=98)
    answer = consumed(decided(binding, allowed=False), CATALOG, "/v1/consume")
    found = body(answer)
    assert (answer.status, header(answer, "content-type")) == (429, ["application/problem+json"])
    assert header(answer, "retry-after") == ["777600"]
    wanted = {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "violated-policies": ["ai_generations"],
        "title": "Quota exceeded",
        "status": 429,
        "code": "QUOTA_EXCEEDED",
        "detail": "Not enough ai_generations: 2 left, 5 asked. Upgrade your plan for more.",
        "remaining": 2,
        "retry_after_s": 777_600,
        "upgrade": {"plan": "growth", "limit": 500, "url": "https://example.com/upgrade?plan=growth"},
    }
    assert {name: found[name] for name in wanted} == wanted


def test_a_denial_that_no_plan_would_help_has_no_upgrade_and_promises_none() -> None:
    answer = consumed(decided(charge(fits=False, amount=501), allowed=False), CATALOG, "/v1/consume")
    assert body(answer)["upgrade"] is None
    assert "Upgrade" not in body(answer)["detail"]


def test_where_waiting_does_not_help_nobody_is_told_to_wait() -> None:
    answer = consumed(decided(charge(fits=False, period=LIFETIME), allowed=False), CATALOG, "/v1/consume")
    assert (answer.status, header(answer, "retry-after"), body(answer)["retry_after_s"]) == (429, [], None)
    assert body(answer)["period"] == {"kind": "lifetime", "start": None, "end": None}


@pytest.mark.parametrize(("amount", "helps"), [(100, True), (101, False)])
def test_nobody_waits_for_more_than_the_whole_limit(amount: int, helps: bool) -> None:
    """The next period has no room for it either."""
    decision = decided(charge(amount=amount, fits=False), allowed=False)
    denied, found = consumed(decision, CATALOG, "/v1/consume"), body(checked(decision, CATALOG))
    seconds = 777_600 if helps else None
    assert (denied.status, body(denied)["retry_after_s"], found["retry_after_s"]) == (429, seconds, seconds)
    assert header(denied, "retry-after") == ([str(seconds)] if helps else [])


def test_one_charge_that_never_fits_makes_waiting_for_the_others_vain() -> None:
    charges = charge(fits=False, used=98), charge("exports", fits=False, limit=4)
    answer = consumed(decided(*charges, allowed=False), CATALOG, "/")
    assert (body(answer)["metric"], body(answer)["retry_after_s"]) == ("ai_generations", None)
    assert header(answer, "retry-after") == []


@pytest.mark.parametrize(("ends_in_ms", "seconds"), [(1, 1), (999, 1), (1000, 1), (1001, 2), (-5, 1)])
def test_seconds_to_wait_are_rounded_up_and_never_none_at_all(ends_in_ms: int, seconds: int) -> None:
    period = Period(PeriodKind.MONTH, START_MS, NOW_MS + ends_in_ms)
    answer = consumed(decided(charge(fits=False, period=period), allowed=False), CATALOG, "/v1/consume")
    assert header(answer, "retry-after") == [str(seconds)]


def test_of_several_charges_the_first_that_did_not_fit_is_told_and_all_are_listed() -> None:
    charges = (charge(), charge("exports", fits=False, limit=1, used=1))
    found = body(consumed(decided(*charges, allowed=False, operation="reel"), CATALOG, "/v1/consume"))
    assert (found["metric"], found["violated-policies"], found["operation"]) == ("exports", ["exports"], "reel")
    assert [each["metric"] for each in found["charges"]] == ["ai_generations", "exports"]


def test_several_charges_are_answered_with_a_list_and_one_receipt() -> None:
    found = body(consumed(decided(charge(), charge("exports"), receipt="r", operation="reel"), CATALOG, "/"))
    assert [each["metric"] for each in found["charges"]] == ["ai_generations", "exports"]
    assert (found["operation"], found["receipt"], "metric" in found) == ("reel", "r", False)


def test_a_free_operation_is_allowed_with_nothing_charged() -> None:
    answer = consumed(decided(operation="create_post"), CATALOG, "/")
    assert (answer.status, body(answer)["charges"], header(answer, "ratelimit")) == (200, [], [])


def test_no_plan_is_a_403_with_its_own_code() -> None:
    answer = consumed(decided(charge(fits=False, plan=None, limit=0, used=0), allowed=False), CATALOG, "/v1/consume")
    found = body(answer)
    assert (answer.status, found["code"], found["title"]) == (403, "NO_SUBSCRIPTION", "No subscription")
    assert (header(answer, "ratelimit"), found["instance"]) == ([], "/v1/consume")


def test_a_replay_says_so_in_the_header_and_in_the_body() -> None:
    answer = consumed(decided(charge(), replayed=True), CATALOG, "/")
    assert (header(answer, "idempotency-replayed"), body(answer)["replayed"]) == (["true"], True)
    assert header(consumed(decided(charge()), CATALOG, "/"), "idempotency-replayed") == []


@pytest.mark.parametrize("allowed", [True, False])
def test_a_check_is_always_a_200(allowed: bool) -> None:
    answer = checked(decided(charge(fits=allowed, used=98), allowed=allowed), CATALOG)
    found = body(answer)
    assert (answer.status, header(answer, "content-type")) == (200, ["application/json"])
    assert (found["allowed"], found["receipt"]) == (allowed, None)
    assert found.get("code") == (None if allowed else "QUOTA_EXCEEDED")


def test_a_soft_limit_tells_the_overage_and_never_a_remainder_below_zero() -> None:
    found = body(consumed(decided(charge(enforcement="soft", used=130)), CATALOG, "/"))
    assert (found["overage"], found["remaining"]) == (30, 0)


def test_without_a_limit_both_limit_and_remainder_are_null() -> None:
    found = body(consumed(decided(charge(limit=None)), CATALOG, "/"))
    assert (found["unlimited"], found["limit"], found["remaining"], found["overage"]) == (True, None, None, 0)


def test_a_metric_of_a_status_is_a_charge_without_what_was_asked() -> None:
    assert {"amount", "plan"}.isdisjoint(metric_document(charge()))
    assert metric_document(charge())["grants"] == []


def test_of_several_that_did_not_fit_the_wait_is_for_the_last_of_them() -> None:
    shorter = Period(PeriodKind.DAY, NOW_MS - 1000, NOW_MS + 5000)
    for charges in ((charge(fits=False, period=shorter), charge("exports", fits=False)), (charge(fits=False),) * 2):
        answer = consumed(decided(*charges, allowed=False), CATALOG, "/")
        assert header(answer, "retry-after") == ["777600"]
    endless = (charge(fits=False), charge("exports", fits=False, period=LIFETIME))
    assert header(consumed(decided(*endless, allowed=False), CATALOG, "/"), "retry-after") == []


calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
names = st.from_regex(r"[A-Za-z0-9._\-:@/+]{1,200}", fullmatch=True)
periods = st.just(LIFETIME) | st.builds(
    lambda length_ms: Period(PeriodKind.MONTH, START_MS, START_MS + length_ms), st.integers(DAY_MS, 400 * DAY_MS)
)
charges = st.builds(
    charge,
    metric=names,
    limit=st.none() | st.integers(0, MAX_AMOUNT),
    used=st.integers(0, MAX_AMOUNT),
    held=st.integers(0, MAX_AMOUNT),
    period=periods,
)


@calm
@given(st.lists(charges, max_size=4, unique_by=lambda each: each.metric))
@example([charge(limit=MAX_AMOUNT, used=0, period=LIFETIME)])
def test_rate_limit_fields_parse_back_to_what_was_decided(listed: list[Charged]) -> None:
    headers = rate_limit_headers(decided(*listed))
    limited = {each.metric: each for each in listed if each.limit is not None}
    if not limited:
        assert headers == []
        return
    policies, states = parsed(headers, "ratelimit-policy"), parsed(headers, "ratelimit")
    assert list(policies) == list(states) == list(limited)
    for name, each in limited.items():
        assert (policies[name]["q"], states[name]["r"]) == (
            min(each.limit or 0, MAX_FIELD_INTEGER),
            min(each.remaining or 0, MAX_FIELD_INTEGER),
        )
        if each.period.end_ms is None:
            assert (set(policies[name]), set(states[name])) == ({"q"}, {"r"})
        else:
            assert policies[name]["w"] == (each.period.end_ms - each.period.start_ms) // 1000
            assert states[name]["t"] >= 1


def test_rate_limit_fields_are_written_as_the_draft_has_them() -> None:
    fields = dict(rate_limit_headers(decided(charge())))
    assert fields["ratelimit-policy"] == '"ai_generations";q=100;w=2592000'
    assert fields["ratelimit"] == '"ai_generations";r=58;t=777600'


every_error = [
    each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.QuotagateError)
]


@pytest.mark.parametrize("kind", every_error, ids=lambda kind: kind.__name__)
def test_every_error_is_a_problem_document(kind: type[errors.QuotagateError]) -> None:
    error = kind(["what is wrong"]) if kind is errors.CatalogInvalid else kind("what is wrong", field="amount")
    status, headers, document = problems.of_error(error, "/v1/consume")
    found = msgspec.json.decode(document)
    assert headers["content-type"] == "application/problem+json"
    assert (found["status"], found["code"], found["detail"]) == (status, kind.code, "what is wrong")
    assert (found["instance"], bool(found["title"]), bool(found["type"])) == ("/v1/consume", True, True)
    assert HTTPStatus(status)
    assert found.get("field") == (None if kind is errors.CatalogInvalid else "amount")
    assert ("retry-after" in headers) == (kind.code in {"COUNTERS_UNAVAILABLE", "LEDGER_UNAVAILABLE"})
    assert ("www-authenticate" in headers) == (status == 401)


def test_an_error_that_nobody_meant_says_nothing_of_itself() -> None:
    status, _, document = problems.of_error(ZeroDivisionError("the secret is 42"), "/")
    assert (status, b"42" in document, b"ZeroDivision" in document) == (500, False, False)
