"""What if, on a real ledger: step by step through its subjects, with what was before the stretch."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from ledger import simulation
from quota.catalog import parse_toml, to_document
from quota.errors import InvalidRequest
from quota.formats import GrantState
from quota.keys import AccountName
from quota.periods import DAY_MS, from_rfc3339
from quota.protocol import Charge
from tests.integration.pipeline import Pipeline

MAX_STEPS = 100
CATALOG = """
default_plan = "free"
[metrics.m]
[plans.free.limits.m]
limit = %d
period = "%s"
"""


def consume(pipeline: Pipeline, subject: str, *amounts: int, **changes: Any) -> None:
    """Of a subject without a limit of its own, so that all of it is allowed."""
    shard, account = pipeline.clocked, AccountName("t", subject, "m")
    shard.open("begun")
    opening = replace(shard.opening(limit=changes.pop("limit", None), **changes), account=account)
    shard.provision(opening)
    shard.consume(*(shard.step(1, charges=(Charge(account.key(3), amount),)) for amount in amounts))
    pipeline.drained()


def simulate(
    pipeline: Pipeline, limit: int, period: str = "month", **how: Any
) -> tuple[dict[str, Any], list[Any], int]:
    arguments = {
        "tenant": "t",
        "catalog": to_document(parse_toml(CATALOG % (limit, period))),
        "from_ms": 0,
        "to_ms": pipeline.clocked.now_ms() + DAY_MS,
        **how,
    }
    cursor, found = None, []
    for steps in range(1, MAX_STEPS):
        step = simulation.step(pipeline.engine, arguments, cursor)
        found += step.found
        if step.result is not None:
            return step.result, found, steps
        cursor = step.cursor
    raise AssertionError("it never ends")


def test_nothing_is_simulated_of_a_tenant_without_entries(pipeline: Pipeline) -> None:
    result, found, steps = simulate(pipeline, 1)
    assert (result["subjects"], result["denied"], found, steps) == (0, 0, [], 1)


def test_each_subject_is_decided_by_its_own_history_whatever_the_step(pipeline: Pipeline) -> None:
    for number in range(8):
        consume(pipeline, f"u{number}", *[5] * number)
    whole = simulate(pipeline, 12)
    assert [(each["subject"], each["denied"]) for each in whole[1]] == [(f"u{n}", n - 2) for n in range(3, 8)]
    counts = ("subjects", "subjects_denied", "denied", "limits")
    assert [whole[0][name] for name in counts] == [7, 5, 15, {"m period": 15}]
    for size in (1, 3, 10):
        result, found, steps = simulate(pipeline, 12, step_entries=size)
        assert (result, found, steps > 1) == (whole[0], whole[1], True)


def test_what_was_used_before_the_stretch_in_its_window_counts(pipeline: Pipeline) -> None:
    consume(pipeline, "u", 9)
    begins_ms = pipeline.clocked.now_ms() + 1
    pipeline.clocked.step_clock(1_000)
    pipeline.clocked.consume(pipeline.clocked.step(1, charges=(Charge(AccountName("t", "u", "m").key(3), 3),)))
    pipeline.drained()
    result, found, _ = simulate(pipeline, 10, from_ms=begins_ms)
    assert (result["denied"], found[0]["limits"][0]["units"]) == (1, 3)
    assert simulate(pipeline, 12, from_ms=begins_ms)[0]["denied"] == 0
    assert simulate(pipeline, 8, to_ms=begins_ms)[0]["denied"] == 1


@pytest.mark.parametrize("kind", ["grant", "gift"])
def test_a_grant_that_was_given_before_anything_is_read_gives_what_was_left_of_it(
    pipeline: Pipeline, kind: str
) -> None:
    granted = text(
        "INSERT INTO grants (id, tenant, subject, metric, amount, priority, created_by) "
        "OVERRIDING SYSTEM VALUE VALUES (7, 't', 'u', 'm', 20, 0, 'test')"
    )
    pipeline.call(lambda connection: connection.execute(granted))
    window = pipeline.clocked.window()
    consume(
        pipeline, "u", 16, limit=10, grants=(GrantState(7, 0, None, 20),), grant_entries={7: (kind, b"")}, period=window
    )
    pipeline.clocked.roll(window)
    begins_ms = pipeline.clocked.now_ms() + 40 * DAY_MS
    pipeline.clocked.set_clock(begins_ms)
    following = pipeline.clocked.window()
    opening = pipeline.clocked.opening(limit=100, period=following, grants=(GrantState(7, 0, None, 14),))
    opening = replace(opening, account=AccountName("t", "u", "m"), journalled_grant=7)
    pipeline.connection.delete(AccountName("t", "u", "m").key(3))
    pipeline.clocked.provision(opening)
    pipeline.clocked.consume(*[pipeline.clocked.step(1, charges=(Charge(AccountName("t", "u", "m").key(3), 8),))] * 4)
    pipeline.drained()
    stretch = {"from_ms": begins_ms, "to_ms": begins_ms + DAY_MS}
    # The day's window is read from its beginning, and the grant lies before it: 10 a day and the 14 that were left.
    assert simulate(pipeline, 10, "day", **stretch)[0]["denied"] == 1
    assert simulate(pipeline, 1, "day", **stretch)[0]["denied"] == 3


def test_a_stretch_that_ends_before_it_begins_is_refused(pipeline: Pipeline) -> None:
    at_ms = from_rfc3339("2026-11-01T00:00:00Z")
    with pytest.raises(InvalidRequest, match="from must lie before to"):
        simulate(pipeline, 1, from_ms=at_ms, to_ms=at_ms)
