"""For how many subjects a new catalog changes something, and how many have used more than they will have.

Counting is a favour: each count has a second, and what takes longer is told as not counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ledger.accounts import array_text
from ledger.instants import to_timestamp
from quota.catalog import Catalog
from quota.catalog_effects import Concerned, Effect, effects
from quota.entitlement import STATUSES_IN_FORCE, STATUSES_THAT_END

TIMEOUT_MS = 1_000
"""Nobody waits longer for a number that decides nothing; a million subscriptions take a third of it."""
CANCELLED = "57014"
"""SQLSTATE of a statement that ran out of time."""
MOST_LOWERED = 200
"""Limits that balances are compared with, in one statement."""

T = TypeVar("T")

# Every subject with a subscription, on the plan that it is on by the catalog of now: as quota/entitlement.py has it.
_on_a_plan = text(
    """
    WITH running AS (
        SELECT subject, CASE WHEN is_due THEN scheduled ->> 'plan' ELSE plan END AS plan,
               CASE WHEN is_due THEN scheduled ->> 'status' ELSE status END AS status,
               CASE WHEN is_due THEN scheduled -> 'add_ons' ELSE add_ons END AS add_ons,
               CASE WHEN is_due THEN CAST(scheduled ->> 'status_until_ms' AS bigint) <= :now_ms
                    ELSE status_until <= :now END AS has_lapsed
        FROM (SELECT *, coalesce(scheduled_at <= :now, false) AS is_due FROM subscriptions WHERE tenant = :tenant) AS s
    ), standing AS (
        SELECT *, status = ANY (CAST(:in_force AS text[]))
                  AND NOT (status = ANY (CAST(:ending AS text[])) AND coalesce(has_lapsed, false)) AS is_in_force
        FROM running
    ), on_plan AS (
        SELECT subject, add_ons, is_in_force,
               CASE WHEN is_in_force AND plan = ANY (CAST(:plans AS text[]))
                    THEN plan ELSE CAST(:default_plan AS text) END AS plan
        FROM standing
    )
    """
)
_by_plan = text(_on_a_plan.text + "SELECT plan, count(*) AS subjects FROM on_plan GROUP BY plan")  # noqa: S608 - both halves are ours
_by_add_on = text(
    _on_a_plan.text  # noqa: S608 - both halves are ours
    + """
    SELECT bought.key AS add_on, count(*) AS subjects FROM on_plan, jsonb_each(add_ons) AS bought
    WHERE is_in_force AND CAST(bought.value AS bigint) > 0 GROUP BY bought.key
    """
)
# `adds` has what one of each add-on adds, by metric: only who has used more than plan and add-ons allow is over.
# An override is in place of the plan's limit, so that limit is nothing to its account.
_over = text(
    _on_a_plan.text  # noqa: S608 - both halves are ours
    + """
    SELECT wanted.plan, wanted.metric, count(DISTINCT b.subject) AS subjects
    FROM unnest(CAST(:lowered_plans AS text[]), CAST(:metrics AS text[]), CAST(:limits AS bigint[]))
         AS wanted (plan, metric, new_limit)
    JOIN balances b ON b.tenant = :tenant AND b.metric = wanted.metric AND b.used > wanted.new_limit
         AND (b.period_end IS NULL OR b.period_end > :now)
    LEFT JOIN on_plan s ON s.subject = b.subject
    LEFT JOIN overrides o ON (o.tenant, o.subject, o.metric) = (b.tenant, b.subject, b.metric)
         AND (o.expires_at IS NULL OR o.expires_at > :now)
    WHERE o.subject IS NULL
      AND wanted.plan = CASE WHEN s.subject IS NULL THEN CAST(:default_plan AS text) ELSE s.plan END
      AND b.used > wanted.new_limit + coalesce((
          SELECT sum(CAST(bought.value AS numeric)
                     * CAST(CAST(:adds AS jsonb) -> wanted.metric ->> bought.key AS numeric))
          FROM jsonb_each(s.add_ons) AS bought WHERE s.is_in_force
      ), 0)
    GROUP BY wanted.plan, wanted.metric
    """
)


@dataclass(frozen=True, slots=True)
class Counted:
    """`subjects` with a subscription; None was not counted. `everybody_else`: all without one as well, who are on the
    default plan. `over_limit` have used more than the new limit; None if it is no lower, or was not counted."""

    effect: Effect
    subjects: int | None
    everybody_else: bool
    over_limit: int | None

    def to_document(self) -> dict[str, Any]:
        """As PUT /v1/catalog shows it."""
        return {
            "path": self.effect.path,
            "change": self.effect.words,
            "tighter": self.effect.is_tighter,
            "subjects": self.subjects,
            "everybody_else": self.everybody_else,
            "over_limit": self.over_limit,
        }


def counted(connection: Connection, tenant: str, old: Catalog, new: Catalog, now_ms: int) -> list[Counted]:
    """What a new catalog changes of the one that holds, and for how many of the tenant's subjects."""
    found = effects(old, new)
    if not found:
        return []
    asked = {
        "tenant": tenant,
        "now": to_timestamp(now_ms),
        "now_ms": now_ms,
        "in_force": array_text(STATUSES_IN_FORCE),
        "ending": array_text(STATUSES_THAT_END),
        "plans": array_text(list(old.plans)),
        "default_plan": old.default_plan,
    }
    by_plan = _in_time(connection, lambda: _counts(connection, _by_plan, asked))
    by_add_on: dict[Any, int] | None = {}
    if any(each.concerned is not None and each.concerned.add_on for each in found):
        by_add_on = _in_time(connection, lambda: _counts(connection, _by_add_on, asked))
    over = _over_limits(connection, found, new, asked)
    return [
        Counted(each, _subjects(each.concerned, by_plan, by_add_on), _is_for_all(each, old), _over_of(each, over))
        for each in found
    ]


def _counts(connection: Connection, statement: Any, asked: dict[str, Any]) -> dict[Any, int]:
    return {row[0]: row[1] for row in connection.execute(statement, asked)}


def _subjects(
    concerned: Concerned | None, by_plan: dict[Any, int] | None, by_add_on: dict[Any, int] | None
) -> int | None:
    if concerned is None:
        return None
    if concerned.add_on is not None:
        return None if by_add_on is None else by_add_on.get(concerned.add_on, 0)
    return None if by_plan is None else sum(by_plan.get(plan, 0) for plan in concerned.plans)


def _is_for_all(effect: Effect, old: Catalog) -> bool:
    return effect.concerned is None or old.default_plan in effect.concerned.plans


def _over_limits(
    connection: Connection, found: Sequence[Effect], new: Catalog, asked: dict[str, Any]
) -> dict[tuple[str, str], int] | None:
    lowered = [each for each in found if each.new_limit is not None]
    if not lowered:
        return {}
    if len(lowered) > MOST_LOWERED:
        return None
    adds: dict[str, dict[str, int]] = {}
    for name, add_on in new.add_ons.items():
        for metric, amount in add_on.adds.items():
            adds.setdefault(metric, {})[name] = amount
    more = {
        "lowered_plans": array_text([str(_plan_of(each)) for each in lowered]),
        "metrics": array_text([str(each.metric) for each in lowered]),
        "limits": [each.new_limit for each in lowered],
        "adds": msgspec.json.encode(adds).decode(),
    }

    def count() -> dict[tuple[str, str], int]:
        return {(row.plan, row.metric): row.subjects for row in connection.execute(_over, asked | more)}

    return _in_time(connection, count)


def _plan_of(effect: Effect) -> str | None:
    assert effect.concerned is not None and len(effect.concerned.plans) == 1, "a limit is of one plan"
    return effect.concerned.plans[0]


def _over_of(effect: Effect, over: dict[tuple[str, str], int] | None) -> int | None:
    if effect.new_limit is None or over is None:
        return None
    return over.get((str(_plan_of(effect)), str(effect.metric)), 0)


_timeout = text("SELECT set_config('statement_timeout', :ms, true)")


def _in_time(connection: Connection, count: Callable[[], T]) -> T | None:
    """What is counted; None if it takes too long. The transaction goes on either way."""
    former = connection.execute(text("SELECT current_setting('statement_timeout')")).scalar_one()
    try:
        with connection.begin_nested():
            connection.execute(_timeout, {"ms": str(TIMEOUT_MS)})
            found = count()
            connection.execute(_timeout, {"ms": former})
            return found
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != CANCELLED:
            raise
        return None
