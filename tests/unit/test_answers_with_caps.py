"""Caps in answers: each is a policy of its own, and a denial tells of the window that had no room."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.answers import MAX_FIELD_INTEGER, checked, consumed, rate_limit_headers
from quota.decisions import Charged
from quota.errors import InvalidRequest
from quota.formats import CapState
from quota.identifiers import MAX_AMOUNT, checked_identifier
from tests.unit.decided import CATALOG, DAY, MONTH, NOW_MS, WEEK, body, capped, charge, decided, header, parsed

CAPS = [
    {
        "period": {"kind": "day", "start": "2026-11-22T00:00:00Z", "end": "2026-11-23T00:00:00Z"},
        "limit": 10,
        "used": 8,
        "remaining": 2,
    },
    {
        "period": {"kind": "week", "start": "2026-11-21T00:00:00Z", "end": "2026-11-28T00:00:00Z"},
        "limit": 50,
        "used": 20,
        "remaining": 30,
    },
]


@pytest.mark.parametrize("allowed", [True, False])
def test_consume_and_check_list_every_cap_with_what_is_left_of_it(allowed: bool) -> None:
    decision = decided(charge(caps=capped(), fits=allowed), allowed=allowed)
    assert body(consumed(decision, CATALOG, "/"))["caps"] == CAPS
    assert body(checked(decision, CATALOG))["caps"] == CAPS


def test_an_account_without_caps_has_no_list_of_them() -> None:
    assert "caps" not in body(consumed(decided(charge()), CATALOG, "/"))


def test_what_was_spent_above_a_lowered_cap_leaves_nothing_and_not_less() -> None:
    over = decided(charge(caps=capped(day=(10, 12))))
    assert [cap["remaining"] for cap in body(consumed(over, CATALOG, "/"))["caps"]] == [0, 30]
    assert parsed(rate_limit_headers(over), "ratelimit")["ai_generations day"]["r"] == 0


def test_a_denial_by_a_cap_shows_the_caps_limit_used_remaining_and_period() -> None:
    answer = consumed(decided(charge(caps=capped(), fits=False), allowed=False), CATALOG, "/v1/consume")
    found = body(answer)
    wanted = {
        "status": 429,
        "code": "QUOTA_EXCEEDED",
        "violated-policies": ["ai_generations day"],
        "detail": "Not enough ai_generations this day: 2 left, 5 asked. Upgrade your plan for more.",
        "metric": "ai_generations",
        "amount": 5,
        **{"limit": 10, "used": 8, "held": 0, "remaining": 2, "unlimited": False},
        "period": CAPS[0]["period"],
        "retry_after_s": 86_400,
        "caps": CAPS,
    }
    assert {name: found[name] for name in wanted} == wanted
    assert header(answer, "retry-after") == ["86400"]


@pytest.mark.parametrize(("day", "used"), [((4, 0), 42), ((4, 0), 98)])
def test_nobody_waits_for_more_than_a_whole_cap(day: tuple[int, int], used: int) -> None:
    """Also where the period is what it ran into: the cap would deny it in the next one."""
    answer = consumed(decided(charge(caps=capped(day), fits=False, used=used), allowed=False), CATALOG, "/")
    assert (body(answer)["retry_after_s"], header(answer, "retry-after")) == (None, [])


def test_a_denial_by_the_period_tells_of_the_period_even_if_a_cap_is_full_too() -> None:
    both = charge(caps=capped(day=(10, 10)), fits=False, used=98)
    found = body(consumed(decided(both, allowed=False), CATALOG, "/"))
    assert (found["violated-policies"], found["limit"], found["used"]) == (["ai_generations"], 100, 98)
    assert (found["period"]["kind"], found["retry_after_s"]) == ("month", 777_600)


def test_of_two_full_caps_the_one_that_ends_last_is_told() -> None:
    """Who waited for the day to end would be denied by the week."""
    full = charge(caps=capped(day=(10, 10), week=(50, 50)), fits=False)
    answer = consumed(decided(full, allowed=False), CATALOG, "/")
    assert (body(answer)["violated-policies"], header(answer, "retry-after")) == (["ai_generations week"], ["518400"])


def test_an_unlimited_metric_that_ran_into_its_cap_is_not_called_unlimited() -> None:
    found = body(consumed(decided(charge(limit=None, caps=capped(), fits=False), allowed=False), CATALOG, "/"))
    assert (found["unlimited"], found["limit"], found["remaining"]) == (False, 10, 2)


def test_the_upgrade_of_a_denial_by_a_cap_has_room_in_that_cap() -> None:
    denied = charge(plan="growth", caps=capped(), fits=False, limit=500, plan_limit=500)
    found = body(consumed(decided(denied, allowed=False), CATALOG, "/"))
    assert (found["upgrade"]["plan"], found["upgrade"]["limit"]) == ("vast", None)
    more = charge(plan="growth", caps=capped(day=(10, 296)), fits=False, limit=500, plan_limit=500)
    assert body(consumed(decided(more, allowed=False), CATALOG, "/"))["upgrade"] is None


def test_each_cap_is_a_policy_of_its_own() -> None:
    fields = dict(rate_limit_headers(decided(charge(caps=capped()))))
    assert fields["ratelimit-policy"] == (
        '"ai_generations";q=100;w=2592000, "ai_generations day";q=10;w=86400, "ai_generations week";q=50;w=604800'
    )
    assert fields["ratelimit"] == (
        '"ai_generations";r=58;t=777600, "ai_generations day";r=2;t=86400, "ai_generations week";r=30;t=518400'
    )


def test_without_a_limit_the_caps_alone_are_policies() -> None:
    headers = rate_limit_headers(decided(charge(limit=None, caps=capped())))
    assert list(parsed(headers, "ratelimit")) == ["ai_generations day", "ai_generations week"]


def test_a_cap_has_a_name_that_no_metric_can_have() -> None:
    """A metric that is called `ai_generations:day` would be one policy with the cap a day of another."""
    alike = charge("ai_generations:day"), charge("ai_generations", caps=capped())
    metrics, caps = ["ai_generations:day", "ai_generations"], ["ai_generations day", "ai_generations week"]
    for field in ("ratelimit-policy", "ratelimit"):
        assert list(parsed(rate_limit_headers(decided(*alike)), field)) == metrics + caps
    for name in caps:
        with pytest.raises(InvalidRequest):
            checked_identifier(name, "metric")


amounts = st.integers(0, MAX_AMOUNT)
caps = st.tuples(
    st.builds(CapState, st.just(DAY), amounts, amounts), st.builds(CapState, st.just(WEEK), amounts, amounts)
)
denied = st.builds(
    charge,
    amount=amounts,
    limit=st.none() | amounts,
    used=amounts,
    held=amounts,
    period=st.sampled_from([MONTH, DAY]),
    fits=st.just(False),
    caps=st.just(()) | caps,
)
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


@calm
@given(denied)
def test_nobody_is_told_to_come_back_before_the_window_that_had_no_room_is_over(each: Charged) -> None:
    decision = decided(each, allowed=False)
    answer = consumed(decision, CATALOG, "/")
    found = body(answer)
    states = parsed(answer.headers, "ratelimit") if header(answer, "ratelimit") else {}
    (violated,) = found["violated-policies"]
    windows = [cap.limit for cap in each.caps] + [MAX_AMOUNT if each.limit is None else each.limit]
    assert (found["retry_after_s"] is None) == (each.amount > min(windows))
    assert header(answer, "retry-after") == ([] if found["retry_after_s"] is None else [str(found["retry_after_s"])])
    if violated in states and found["retry_after_s"] is not None:
        assert found["retry_after_s"] >= states[violated]["t"] >= 1
    policies = parsed(answer.headers, "ratelimit-policy") if states else {}
    assert list(policies) == list(states)
    for cap in each.caps:
        name = f"ai_generations {cap.period.kind}"
        assert policies[name]["q"] == min(cap.limit, MAX_FIELD_INTEGER)
        assert states[name]["r"] == min(max(0, cap.limit - cap.spent), MAX_FIELD_INTEGER)
        assert states[name]["t"] == ((cap.period.end_ms or 0) - NOW_MS) // 1000
