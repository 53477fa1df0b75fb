"""What `quotagate subject subscribe` says came of it."""

import pytest

from quotagate.subject_running import where_it_is


@pytest.mark.parametrize(
    ("status", "plan", "scheduled", "told"),
    [
        ("active", "pro", None, "is on pro"),
        ("past_due", "pro", None, "is on pro"),
        ("canceled", "free", None, "has a subscription to pro that is canceled, and is on free"),
        ("paused", None, None, "has a subscription to pro that is paused, and is on no plan"),
        ("active", "free", {"at": "2030-01-01T00:00:00Z"}, "is on pro from 2030-01-01T00:00:00Z on"),
    ],
)
def test_a_subject_is_said_to_be_on_the_plan_that_holds(
    status: str, plan: str | None, scheduled: dict[str, str] | None, told: str
) -> None:
    assert where_it_is("pro", {"status": status, "scheduled": scheduled}, {"plan": plan}) == told
