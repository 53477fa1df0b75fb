"""Entries of a journal, for tests that need no server."""

from dataclasses import replace
from typing import Any

from quota.formats import Terms, Window
from quota.journal import About, Entry, Place
from quota.keys import AccountName
from quota.periods import PeriodKind, from_rfc3339, period_at

NOW_MS = from_rfc3339("2026-03-10T12:00:00Z")
MONTH = Window(period_at(PeriodKind.MONTH, NOW_MS), Terms("pro", PeriodKind.MONTH, None, (80,)))
USUAL = Entry(
    shard=3,
    place=Place(1, 7),
    occurred_at_ms=NOW_MS,
    kind="consume",
    amount=5,
    change=5,
    used_after=5,
    receipt_first_n=7,
    receipt_count=1,
    detail=None,
    parts=(),
    cap_windows=(),
    account=AccountName("t", "u", "m"),
    window=MONTH,
    about=About(request_id="r-1"),
)


def entry(n: int, kind: str = "consume", **changes: Any) -> Entry:
    """An entry of one receipt of its own, unless that is said."""
    return replace(USUAL, place=Place(1, n), kind=kind, **{"receipt_first_n": n} | changes)
