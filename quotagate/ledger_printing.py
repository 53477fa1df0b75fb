"""What the ledger's commands print, a line each. Pure, but for the printing."""

import json
from collections.abc import Callable
from typing import Any

import click

from quotagate.plain_commands import counted

Show = Callable[[list[Any]], None]


def print_lines(line_of: Callable[[dict[str, Any]], str], as_json: bool) -> Show:
    """Prints documents: each as JSON, or as its line for people."""

    def show(found: list[Any]) -> None:
        for each in found:
            click.echo(json.dumps(each) if as_json else line_of(each))

    return show


CHAIN_WORDS = {
    "changed": "was changed after it was linked",
    "deleted": "was linked, and is not there any more",
    "inserted": "is there, and was never linked",
}


def chain_line(found: dict[str, Any], carried: int) -> str:
    """What became of the chains."""
    archived = f", {found['archived']:,} in archives" if found["archived"] else ""
    begun = f"; {counted(carried, 'archived entry is', 'archived entries are')} in the sums" if carried else ""
    return (
        f"{counted(found['links'], 'link')}: {counted(found['linked'], 'entry', 'entries')} compared{archived}, "
        f"{found['unlinked']:,} not linked yet{begun}"
    )


def _break_line(found: dict[str, Any]) -> str:
    if found["what"] == "link":
        at = f" up to entry {found['entry']}" if found["entry"] else ""
        return f"link {found['link']} of shard {found['shard']}{at}: it is not the one that was made"
    account = f" of {found['tenant']} {found['subject']} {found['metric']}" if found["tenant"] else ""
    link = f" (link {found['link']})" if found["link"] else ""
    return f"entry {found['entry']}{account} {CHAIN_WORDS[found['what']]}{link}"


def difference_line(found: dict[str, Any]) -> str:
    """Of one thing that a verification found."""
    if "link" in found:
        return _break_line(found)
    account = f"{found['tenant']} {found['subject']} {found['metric']}"
    period = f"{found['period_kind']} of {found['period_start']}"
    stated, added_up = (_number(found[name]) for name in ("stated", "added_up"))
    if found["what"] == "line":
        known = ", as an incident tells" if found["told"] else ""
        known += "; put right since" if found["told"] and found["corrected"] else ""
        return f"line {found['entry']} of {account}, {period}: states {stated}, and {added_up} follows{known}"
    what = f"grant {found['grant']}" if found["what"] == "grant" else found["what"]
    if found["what"] == "hold":
        open_units = [f"{_number(found[name])} units open" for name in ("stated", "added_up")]
        return f"hold {found['entry']} of {account}, {period}: {open_units[0]}, and by its entries {open_units[1]}"
    what = "sealed period" if what == "sealed" else what
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
    entries = f"{counted(found['entries'], 'entry', 'entries')} up to {found['last_entry']}"
    return f"{account}, {window}: {found['used']:,} used{held}, by {entries}"


def simulated_line(found: dict[str, Any]) -> str:
    """Of one subject."""
    told = [
        f"{counted(each['denied'], 'time')} by the {each['limit']} limit of {each['metric']} "
        f"({counted(each['units'], 'unit')}), first {each['first_at']}, last {each['last_at']}"
        for each in found["limits"]
    ]
    words = [f"denied {'; '.join(told)}"] if told else []
    if found["denied_no_more"]:
        words.append(f"{found['denied_no_more']:,} of {counted(found['denied_before'], 'denial')} would have been none")
    return f"{found['subject']}: {'; '.join(words)}"
