"""The card of `quotagate subject show`: what it says, and that it fits where it is shown."""

from dataclasses import replace
from typing import Any

import pytest

from quotagate.subject_card import Paper, card
from quotagate.subject_telling import changes

NOW_MS = 1_795_392_000_000  # 2026-11-23T00:00:00Z
MONTH = {"kind": "month", "start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"}
WIDE = Paper(100, False, NOW_MS)


def metric(**other: Any) -> dict[str, Any]:
    usual = {
        "metric": "credits",
        "limit": 100,
        "used": 40,
        "held": 10,
        "remaining": 50,
        "unlimited": False,
        "enforcement": "hard",
        "overage": 0,
        "warning": None,
        "period": MONTH,
        "grants": [],
    }
    return usual | other


def status(*metrics: dict[str, Any], **subscription: Any) -> dict[str, Any]:
    usual = {"status": "active", "anchor": None, "add_ons": {}, "scheduled": None} | subscription
    return {"subject": "u_1", "plan": "pro", "subscription": usual, "metrics": list(metrics)}


def lines(document: dict[str, Any], paper: Paper = WIDE, *overrides: dict[str, Any]) -> list[str]:
    return [line.plain for line in card(document, overrides, [], "default", paper)]


@pytest.mark.parametrize(
    ("counts", "bar", "percent"),
    [
        ({}, "█" * 9 + "▒" * 3 + "░" * 12, "50 %"),
        ({"used": 0, "held": 0}, "░" * 24, "0 %"),
        ({"used": 1, "held": 0}, "█" + "░" * 23, "1 %"),
        ({"used": 99, "held": 0}, "█" * 23 + "░", "99 %"),
        ({"used": 100, "held": 0}, "█" * 24, "100 %"),
        ({"used": 140, "held": 0, "overage": 40}, "█" * 24, "140 %"),
        ({"used": 0, "held": 0, "limit": 0}, "█" * 24, "100 %"),
    ],
)
def test_a_bar_is_full_only_when_nothing_is_left(counts: dict[str, int], bar: str, percent: str) -> None:
    (line,) = [each for each in lines(status(metric(**counts))) if each.startswith("credits")]
    assert f"  {bar} " in line and percent in line


def test_all_that_is_unusual_of_a_metric_is_said() -> None:
    cap = {"period": {"kind": "day"}, "used": 7, "limit": 8}
    grant = {"id": "17", "remaining": 5, "expires_at": "2026-11-24T00:00:00Z"}
    unusual = metric(enforcement="soft", overage=3, warning=95, caps=[cap], grants=[grant])
    told = "\n".join(lines(status(unusual, add_ons={"extra": 2}, scheduled={"plan": "free", "at": MONTH["end"]})))
    for words in (
        *("soft", "10 held", "3 above the limit", "warned at 95 %", "7 of 8 this day", "extra x 2"),
        *("grant 17: 5 left, until 2026-11-24T00:00:00Z", "free, at 2026-12-01T00:00:00Z (in 8 d 0 h)"),
    ):
        assert words in told


@pytest.mark.parametrize("columns", [40, 63, 64, 80, 120])
def test_no_bar_is_wider_than_the_terminal(columns: int) -> None:
    for line in lines(status(metric()), replace(WIDE, columns=columns)):
        assert "█" not in line or len(line) <= columns


def test_what_an_old_terminal_cannot_show_is_written_in_ascii() -> None:
    assert all(line.isascii() for line in lines(status(metric(held=0)), replace(WIDE, is_ascii=True)))


def test_without_a_terminal_a_metric_is_one_line_without_a_bar() -> None:
    grant = {"id": "17", "remaining": 5, "expires_at": None}
    found = lines(status(metric(), metric(metric="exports", limit=None, remaining=None)), Paper(None, False, NOW_MS))
    assert [line.split("  ")[1] for line in found[2:]] == ["credits", "exports"]
    assert found[2].index("50 %") + 4 == found[3].index("40 used") - 2
    assert "never ends" in "\n".join(lines(status(metric(grants=[grant])), Paper(None, False, NOW_MS)))


def test_a_subject_without_any_plan_is_said_to_be_denied() -> None:
    document = {"subject": "u_1", "plan": None, "subscription": None, "metrics": []}
    assert "every request is denied" in "\n".join(lines(document))


def test_changes_are_what_differs_and_nothing_else() -> None:
    before = status(metric()) | {"plan": "free", "subscription": None}
    after = status(metric(limit=None, remaining=None, unlimited=True))
    assert list(changes(before, after)) == [
        ("plan", "free", "pro"),
        ("status", None, "active"),
        ("credits limit", 100, "unlimited"),
        ("credits remaining", 50, "unlimited"),
    ]
    assert list(changes(after, after)) == []
