"""How commands that change a subject say what they changed: before and after."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from quotagate.subject_opening import Document

Change = tuple[str, Any, Any]
"""What, before, after."""


def tell(said: str, made: Document, changed: Iterable[Change], *, as_json: bool) -> None:
    """Prints a sentence and a line for each change, or `made` with the changes as one document."""
    found = [{"what": what, "before": old, "after": new} for what, old, new in changed]
    if as_json:
        click.echo(json.dumps({**made, "changes": found}))
        return
    click.echo(said)
    arrow = "→" if can_write(sys.stdout.encoding or "ascii") else "->"
    for each in found:
        click.echo(f"  {each['what']}: {_word(each['before'])} {arrow} {_word(each['after'])}")
    if not found:
        click.echo("  nothing is different now")


def can_write(encoding: str) -> bool:
    """Whether this encoding has the characters that are not ASCII's."""
    try:
        "█▒░→".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def changes(before: Document, after: Document) -> Iterator[Change]:
    """What differs between two status documents. Pure."""
    pairs = [("plan", before["plan"], after["plan"])]
    # No add-ons and no subscription are the same to whoever reads it, and so are nothing used and no such metric.
    old, new = before["subscription"] or {}, after["subscription"] or {}
    pairs += [
        (name, old.get(name), new.get(name)) for name in ("status", "status_until", "anchor", "add_ons", "scheduled")
    ]
    counted = {each["metric"]: each for each in before["metrics"]}
    counts = {each["metric"]: each for each in after["metrics"]}
    for metric in {**counted, **counts}:
        was, now = counted.get(metric), counts.get(metric)
        for name in ("limit", "used", "remaining"):
            pairs.append((f"{metric} {name}", _count(was, name), _count(now, name)))
    return ((what, was, now) for what, was, now in pairs if (was or 0) != (now or 0))


def _count(metric: Document | None, name: str) -> Any:
    if metric is None:
        return None
    return "unlimited" if metric["unlimited"] and name != "used" else metric[name]


def _word(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict) and "at" in value:
        return f"{value['plan']} at {value['at']}"
    return ", ".join(f"{name}={count}" for name, count in value.items()) if isinstance(value, dict) else str(value)
