"""A subject's status as a card for people: a bar a metric, and a line of what else there is to know. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from quota.periods import from_rfc3339

BAR_WIDTH = 24
NARROW = 64
"""Columns below which a metric's name has a line of its own, and its bar is half as long."""


@dataclass(frozen=True)
class Paper:
    """What the card is written on. `columns` None: no terminal, so no bars, and a line may be as long as it is."""

    columns: int | None
    is_ascii: bool
    now_ms: int


def card(
    document: Mapping[str, Any],
    overrides: Sequence[Mapping[str, Any]],
    denials: Sequence[Mapping[str, Any]],
    tenant: str,
    paper: Paper,
) -> list[Text]:
    """`document` as GET …/status shows it, `overrides` as GET …/overrides does, each with who put it there."""
    lines = [Text.assemble((document["subject"], "bold"), f" of tenant {tenant}")]
    lines += [Text(f"  {name:<10}{value}") for name, value in _subscription(document, paper)]
    width = max((len(each["metric"]) for each in document["metrics"]), default=0)
    for metric in document["metrics"]:
        if paper.columns is not None:
            lines.append(Text(""))
        lines += _metric(metric, width, paper)
        lines += [_override(each, width, paper) for each in overrides if each["metric"] == metric["metric"]]
    shown = {each["metric"] for each in document["metrics"]}
    lines += [
        Text(f"  {each['metric']}:").append_text(_override(each, 0, paper))
        for each in overrides
        if each["metric"] not in shown
    ]
    if not document["metrics"]:
        lines.append(Text("  no metric: the plan in force names none"))
    if denials:
        lines += [Text(""), Text("denied in the last day, the newest first", "bold")]
        lines += [
            Text(f"  {each['at']}  {each['metric']}  {each['amount']:,} asked{each['times']}") for each in denials
        ]
    return lines


def _subscription(document: Mapping[str, Any], paper: Paper) -> Iterator[tuple[str, str]]:
    subscription = document["subscription"]
    plan = document["plan"] or "none: every request is denied"
    if subscription is None:
        yield "plan", plan if document["plan"] is None else f"{plan}, the default one: no subscription"
        return
    yield "plan", f"{plan}, {subscription['status']}"
    if subscription.get("status_until"):
        yield "until", f"{subscription['status_until']}{_away(subscription['status_until'], paper)}"
    if subscription["anchor"]:
        yield "anchor", subscription["anchor"]
    if subscription["add_ons"]:
        yield "add-ons", ", ".join(f"{name} x {count:,}" for name, count in subscription["add_ons"].items())
    if subscription["scheduled"]:
        following = subscription["scheduled"]
        yield "scheduled", f"{following['plan']}, at {following['at']}{_away(following['at'], paper)}"


def _metric(metric: Mapping[str, Any], width: int, paper: Paper) -> Iterator[Text]:
    used, limit, held = metric["used"], metric["limit"], metric["held"]
    percent = None if limit is None else 100 if limit == 0 else (used + held) * 100 // limit
    style = "green" if not metric["warning"] else "yellow" if metric["remaining"] else "red"
    counts = f"{used:,} used, unlimited" if limit is None else f"{used:,} of {limit:,}, {metric['remaining']:,} left"
    share = "" if percent is None else f"{percent} %"
    if paper.columns is None:
        period = metric["period"]
        ends = "" if period["end"] is None else f" until {period['end']}"
        more = "".join(f"  {word}" for word in _more(metric))
        yield Text(f"  {metric['metric']:<{width}}  {share:>6}  {counts}  {period['kind']}{ends}{more}")
    elif paper.columns < NARROW:
        yield Text(metric["metric"], "bold")
        yield Text.assemble("  ", (_bar(used, held, limit, BAR_WIDTH // 2, paper), style), f" {share}")
        yield Text(f"  {counts}")
        yield Text("  " + "; ".join((_period(metric, paper), *_more(metric))), "dim")
    else:
        bar = (_bar(used, held, limit, BAR_WIDTH, paper), style)
        yield Text.assemble((f"{metric['metric']:<{width}}", "bold"), "  ", bar, f" {share:>5}  {counts}")
        yield Text(" " * (width + 2) + "; ".join((_period(metric, paper), *_more(metric))), "dim")
    for grant in metric["grants"]:
        ends = "never ends" if grant["expires_at"] is None else f"until {grant['expires_at']}"
        yield Text(f"{_indent(width, paper)}grant {grant['id']}: {grant['remaining']:,} left, {ends}", "dim")


def _override(override: Mapping[str, Any], width: int, paper: Paper) -> Text:
    """What stands in place of the plan's limit, until when, who put it there, and why."""
    limit = "unlimited" if override["limit"] is None else f"{override['limit']:,}"
    instant = override["expires_at"]
    ends = "never ends" if instant is None else f"until {instant}{_away(instant, paper)}"
    words = f"override: {limit} in place of the plan's, {ends}; by {override['by']}: {override['reason']}"
    return Text(_indent(width, paper) + " ".join(words.split()), "dim")


def _indent(width: int, paper: Paper) -> str:
    return " " * (4 if paper.columns is None or paper.columns < NARROW else width + 2)


def _bar(used: int, held: int, limit: int | None, width: int, paper: Paper) -> str:
    """What is used, what is held, what is left. One unit is enough to be seen, and so is the last one that is left."""
    full, set_aside, empty = "#=." if paper.is_ascii else "█▒░"
    if limit is None:
        return empty * width
    together = _share(used + held, limit, width)
    solid = min(together, _share(used, limit, width))
    return full * solid + set_aside * (together - solid) + empty * (width - together)


def _share(part: int, whole: int, width: int) -> int:
    if part <= 0:
        return 0 if whole else width
    if part >= whole:
        return width
    return min(width - 1, max(1, part * width // whole))


def _period(metric: Mapping[str, Any], paper: Paper) -> str:
    period = metric["period"]
    if period["end"] is None:
        return "for a lifetime" if period["kind"] == "lifetime" else str(period["kind"])
    return f"{period['kind']} until {period['end']}{_away(period['end'], paper)}"


def _more(metric: Mapping[str, Any]) -> Iterator[str]:
    if metric["enforcement"] != "hard":
        yield str(metric["enforcement"])
    if metric["held"]:
        yield f"{metric['held']:,} held"
    if metric["overage"]:
        yield f"{metric['overage']:,} above the limit"
    if metric["warning"]:
        yield f"warned at {metric['warning']} %"
    for cap in metric.get("caps", ()):
        yield f"{cap['used']:,} of {cap['limit']:,} this {cap['period']['kind']}"


def _away(instant: str, paper: Paper) -> str:
    seconds = (from_rfc3339(instant) - paper.now_ms) // 1000
    if seconds < 0:
        return ""
    days, hours, minutes = seconds // 86_400, seconds // 3_600 % 24, seconds // 60 % 60
    words = f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f" (in {words})"
