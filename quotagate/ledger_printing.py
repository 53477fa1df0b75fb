"""What the ledger's commands print, a line each. Pure, but for the printing."""

import json
from collections.abc import Callable
from typing import Any

import click

Show = Callable[[list[Any]], None]


def print_lines(line_of: Callable[[dict[str, Any]], str], as_json: bool) -> Show:
    """Prints documents: each as JSON, or as its line for people."""

    def show(found: list[Any]) -> None:
        for each in found:
            click.echo(json.dumps(each) if as_json else line_of(each))

    return show


def difference_line(found: dict[str, Any]) -> str:
    """Of one thing that a verification found."""
    account = f"{found['tenant']} {found['subject']} {found['metric']}"
    period = f"{found['period_kind']} of {found['period_start']}"
    stated, added_up = (_number(found[name]) for name in ("stated", "added_up"))
    if found["what"] == "line":
        known = ", as an incident tells" if found["told"] else ""
        return f"line {found['entry']} of {account}, {period}: states {stated}, and {added_up} follows{known}"
    what = f"grant {found['grant']}" if found["what"] == "grant" else found["what"]
    at = ""
    if found["what"] == "balance" and found["stated"] == found["added_up"]:
        at = f"; it stands at {found['entry'] or 'no entry'}, and the last one is {found['last_entry'] or 'none'}"
    return f"{what} of {account}, {period}: is {stated}, and entries add up to {added_up}{at}"


def _number(value: int | None) -> str:
    return "missing" if value is None else f"{value:,}"


def balance_line(found: dict[str, Any]) -> str:
    """Of one balance."""
    period = found["period"]
    window = f"{period['kind']} {period['start']} to {period['end']}" if period["end"] else period["kind"]
    held = f", {found['held']:,} held" if found.get("held") else ""
    account = f"{found['tenant']} {found['subject']} {found['metric']}"
    entries = f"{found['entries']:,} entries up to {found['last_entry']}"
    return f"{account}, {window}: {found['used']:,} used{held}, by {entries}"


def simulated_line(found: dict[str, Any]) -> str:
    """Of one subject."""
    told = [
        f"{each['denied']:,} times by the {each['limit']} limit of {each['metric']} ({each['units']:,} units), first "
        f"{each['first_at']}, last {each['last_at']}"
        for each in found["limits"]
    ]
    words = [f"denied {'; '.join(told)}"] if told else []
    if found["denied_no_more"]:
        words.append(f"{found['denied_no_more']:,} of {found['denied_before']:,} denials would have been none")
    return f"{found['subject']}: {'; '.join(words)}"
