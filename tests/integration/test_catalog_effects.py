"""How many subjects a new catalog concerns, and how many have used more than it allows: counted in Postgres."""

from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import Connection, text

from ledger import catalog_effects, catalogs
from ledger.acts import By
from ledger.catalog_effects import Counted
from quota.catalog import parse_toml
from tests.conftest import Database
from tests.integration.pipeline import Pipeline

NOW_MS = 1_790_000_000_000  # in September of 2026
CATALOG = """
default_plan = "free"
[metrics.m]
[plans.free]
limits.m = { limit = 10, period = "month" }
[plans.pro]
rank = 1
limits.m = { limit = 100, period = "month" }
[add_ons.extra]
adds.m = 50
[add_ons.other]
adds.m = 1
"""
# plan, status, add-ons, what it is on by now if something was scheduled, used
SUBJECTS = [
    ("pro", "active", "{}", None, 60),
    ("pro", "trialing", '{"extra": 1}', None, 101),
    ("pro", "active", '{"extra": 1}', None, 99),
    ("pro", "past_due", '{"extra": 0}', None, 50),
    ("pro", "canceled", '{"extra": 3}', None, 9),
    ("gone", "active", "{}", None, 6),
    ("free", "active", "{}", "pro", 51),
    (None, None, None, None, 7),
    (None, None, None, None, 5),
]


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        pipeline.call(catalogs.apply, "t", parse_toml(CATALOG), By("test"), dry_run=False)
        pipeline.call(_plant)
        yield pipeline


def _plant(connection: Connection) -> None:
    for number, (plan, status, add_ons, later, used) in enumerate(SUBJECTS):
        scheduled = None if later is None else f'{{"plan": "{later}", "status": "active", "add_ons": {{}}}}'
        wanted = {"subject": f"s{number}", "plan": plan, "status": status, "add_ons": add_ons, "used": used}
        wanted |= {"scheduled": scheduled}
        if plan is not None:
            connection.execute(
                text(
                    "INSERT INTO subscriptions (tenant, subject, plan, status, add_ons, changed_by, scheduled, "
                    "scheduled_at) VALUES ('t', :subject, :plan, :status, CAST(:add_ons AS jsonb), 'test', "
                    "CAST(:scheduled AS jsonb), "
                    "CASE WHEN CAST(:scheduled AS text) IS NULL THEN NULL ELSE timestamptz '2026-09-01Z' END)"
                ),
                wanted,
            )
        for month, units in ((8, 5_000), (9, used)):  # the month that is over does not matter
            connection.execute(
                text(
                    "INSERT INTO balances (tenant, subject, metric, period_kind, period_start, period_end, used, "
                    "shard, epoch, n) VALUES ('t', :subject, 'm', 'month', "
                    "make_timestamptz(2026, :month, 1, 0, 0, 0, 'UTC'), "
                    "make_timestamptz(2026, :month + 1, 1, 0, 0, 0, 'UTC'), :used, 0, 1, 1)"
                ),
                {"subject": f"s{number}", "month": month, "used": units},
            )


def counted(pipeline: Pipeline, old: str, new: str) -> dict[str, Counted]:
    assert old in CATALOG
    catalog = parse_toml(CATALOG.replace(old, new))
    found = pipeline.call(catalog_effects.counted, "t", parse_toml(CATALOG), catalog, NOW_MS)
    return {each.effect.path: each for each in found}


def test_subjects_are_counted_on_the_plan_that_holds_for_them_now(pipeline: Pipeline) -> None:
    pro = counted(pipeline, "limit = 100", "limit = 50")["plans.pro.limits.m"]
    assert (pro.subjects, pro.everybody_else) == (5, False), "four in force, and one that has come to it"
    # 60 > 50, 101 > 50 + 50, 51 > 50; 99 is below 50 + 50, and 50 is not above it.
    assert pro.over_limit == 3
    free = counted(pipeline, "limit = 10,", "limit = 6,")["plans.free.limits.m"]
    assert (free.subjects, free.everybody_else) == (2, True), "one canceled, one whose plan is gone"
    assert free.over_limit == 2, (
        "9 of the canceled one, whose add-ons do not count, and 7 of one without a subscription"
    )
    assert counted(pipeline, "limit = 10,", "limit = 11,")["plans.free.limits.m"].over_limit is None, "not lowered"


def test_add_ons_are_counted_where_they_are_in_force_and_bought(pipeline: Pipeline) -> None:
    assert counted(pipeline, "adds.m = 50", "adds.m = 40")["add_ons.extra"].subjects == 2
    assert counted(pipeline, "adds.m = 1", "adds.m = 2")["add_ons.other"].subjects == 0


def test_who_is_late_is_counted_until_the_grace_ends_and_by_what_it_falls_to_after(pipeline: Pipeline) -> None:
    pipeline.rows(
        "UPDATE subscriptions SET status = 'past_due', status_until = timestamptz '2026-09-01Z' WHERE subject = 's0' "
        "RETURNING 1"
    )
    # An end that is left of a status before.
    pipeline.rows("UPDATE subscriptions SET status_until = timestamptz '2026-09-01Z' WHERE subject = 's2' RETURNING 1")
    pro = counted(pipeline, "limit = 100", "limit = 50")["plans.pro.limits.m"]
    assert (pro.subjects, pro.over_limit) == (4, 2), "without s0"
    assert counted(pipeline, "limit = 10,", "limit = 6,")["plans.free.limits.m"].over_limit == 3, "with s0"


def test_who_has_an_override_is_not_over_the_plans_limit(pipeline: Pipeline) -> None:
    pipeline.rows(
        'INSERT INTO overrides (tenant, subject, metric, "limit", expires_at, reason, changed_by) VALUES '
        "('t', 's0', 'm', 500, NULL, 'deal', 'test'), ('t', 's1', 'm', 500, timestamptz '2026-09-01Z', 'deal', 'test') "
        "RETURNING 1"
    )
    pro = counted(pipeline, "limit = 100", "limit = 50")["plans.pro.limits.m"]
    assert (pro.subjects, pro.over_limit) == (5, 2), "s0 is not over, and what s1 had is over"


def test_subjects_of_a_plan_that_goes_are_compared_with_the_one_that_they_fall_to(pipeline: Pipeline) -> None:
    pro = CATALOG[CATALOG.index("[plans.pro]") : CATALOG.index("[add_ons.extra]")]
    found = counted(pipeline, pro, "")
    assert found["plans.pro"].subjects == 5
    assert found["plans.pro.limits.m"].over_limit == 5


def test_another_tenants_subjects_are_not_counted(pipeline: Pipeline) -> None:
    pipeline.rows("UPDATE subscriptions SET tenant = 'u' WHERE subject = 's0' RETURNING 1")
    assert counted(pipeline, "limit = 100", "limit = 50")["plans.pro.limits.m"].subjects == 4


def test_what_takes_too_long_is_told_as_not_counted_and_the_transaction_goes_on(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_effects, "TIMEOUT_MS", 1)
    slow = text("SELECT plan, count(*) AS subjects FROM subscriptions, pg_sleep(5) WHERE :tenant <> '' GROUP BY plan")
    monkeypatch.setattr(catalog_effects, "_by_plan", slow)

    def count_and_go_on(connection: Connection) -> tuple[int | None, str]:
        new = parse_toml(CATALOG.replace("limit = 100", "limit = 200"))
        (found,) = catalog_effects.counted(connection, "t", parse_toml(CATALOG), new, NOW_MS)
        return found.subjects, connection.execute(text("SHOW statement_timeout")).scalar_one()

    before = pipeline.rows("SHOW statement_timeout")[0][0]
    assert pipeline.call(count_and_go_on) == (None, before)
