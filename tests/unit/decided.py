"""Decisions for tests of answers, and answers read back."""

from typing import Any

import http_sf
import msgspec

from gateway.answers import Answer
from quota.catalog import Catalog, Limit, Metric, Plan
from quota.decisions import Charged, Decision
from quota.formats import CapState
from quota.periods import DAY_MS, Period, PeriodKind

START_MS = 1_793_491_200_000  # 2026-11-01T00:00:00Z
NOW_MS = START_MS + 21 * DAY_MS
DAY = Period(PeriodKind.DAY, NOW_MS, NOW_MS + DAY_MS)
WEEK = Period(PeriodKind.WEEK, NOW_MS - DAY_MS, NOW_MS + 6 * DAY_MS)
MONTH = Period(PeriodKind.MONTH, START_MS, START_MS + 30 * DAY_MS)
LIFETIME = Period(PeriodKind.LIFETIME, 0, None)
CATALOG = Catalog(
    upgrade_url="https://example.com/upgrade?plan={plan}",
    metrics={"ai_generations": Metric(), "exports": Metric()},
    plans={
        "starter": Plan(rank=1, limits={"ai_generations": Limit(limit=100, period="month")}),
        "growth": Plan(rank=2, limits={"ai_generations": Limit(limit=500, period="month")}),
        "vast": Plan(rank=3, limits={"ai_generations": Limit(period="month", caps={"day": 300})}),
    },
)


def charge(metric: str = "ai_generations", **changes: Any) -> Charged:
    usual = Charged(metric, 5, True, "starter", 100, 42, 0, "hard", MONTH, None)
    return Charged(**({name: getattr(usual, name) for name in usual.__slots__} | changes))


def decided(*charges: Charged, allowed: bool = True, **changes: Any) -> Decision:
    return Decision(allowed, "u_1", charges, NOW_MS, **changes)


def body(answer: Answer) -> dict[str, Any]:
    return dict(msgspec.json.decode(answer.body))


def header(answer: Answer, name: str) -> list[str]:
    return [value for each, value in answer.headers if each == name]


def parsed(headers: list[tuple[str, str]], name: str) -> dict[str, dict[str, Any]]:
    """A RateLimit field as a structured-field library reads it: parameters by name."""
    (value,) = (text for each, text in headers if each == name)
    items: Any = http_sf.parse(value.encode(), tltype="list")
    assert len({item for item, _ in items}) == len(items)
    return {item: dict(parameters) for item, parameters in items}


def capped(day: tuple[int, int] = (10, 8), week: tuple[int, int] = (50, 20)) -> tuple[CapState, ...]:
    """A cap a day and a cap a week: limit and spent."""
    return CapState(DAY, *day), CapState(WEEK, *week)
