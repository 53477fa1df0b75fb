"""How catalogs, what changes of them, and their versions are shown to people."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.text import Text

from ledger.catalog_effects import Counted
from ledger.catalogs import Version
from quota.periods import to_rfc3339
from quotagate.plain_commands import counted
from quotagate.plain_console import PlainConsole

MARK = "tighter"
TITLES = ("VERSION", "APPLIED AT", "BY", "CHANGES", "REASON")


def print_effects(effects: Sequence[Counted]) -> None:
    """Grouped by plan, a line each; colours on a terminal alone, and none with NO_COLOR."""
    console = PlainConsole()
    widths = [max((len(each) for each in column), default=0) for column in zip(*map(_cells, effects), strict=True)]
    for group, found in groupby(effects, key=lambda each: each.effect.group):
        console.print(Text(group, style="bold"))
        for each in found:
            cells = [cell.ljust(width) for cell, width in zip(_cells(each), widths, strict=True)]
            line = Text(f"  {'  '.join(cells)}".rstrip())
            if each.effect.is_tighter:
                line.append(f"  {MARK}{_over(each)}", style="red")
            console.print(line)


def _cells(each: Counted) -> tuple[str, str, str]:
    return each.effect.name, each.effect.words, _subjects(each)


def _subjects(each: Counted) -> str:
    if each.effect.concerned is None:
        return "everybody who uses it"
    told = "subjects not counted" if each.subjects is None else counted(each.subjects, "subject")
    return f"{told}, and everybody without a subscription" if each.everybody_else else told


def _over(each: Counted) -> str:
    if each.effect.new_limit is None:
        return ""
    if each.over_limit is None:
        return "; who is over it was not counted"
    return f"; {each.over_limit:,} over it now" if each.over_limit else ""


def print_versions(versions: Iterable[Version]) -> None:
    """The newest first, in columns."""
    rows = [TITLES, *(_version_row(each) for each in versions)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(TITLES))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _version_row(each: Version) -> tuple[str, ...]:
    changes = "-" if each.changes is None else f"{each.changes:,}"
    reason = "-" if each.reason is None else each.reason
    return str(each.version), to_rfc3339(each.applied_at_ms), each.applied_by, changes, reason


def summary_line(changes: int, effects: Sequence[Counted], version: int, tenant: str) -> str:
    """In one sentence. Changes are those of the document, as the history counts them; a line may tell of several, and
    several lines of one."""
    lines = sum(each.effect.is_tighter for each in effects)
    tighter = f"; {counted(lines, 'line is', 'lines are')} tighter" if lines else ""
    since = f"version {version}" if version else "the empty catalog"
    return f"{counted(changes, 'change')} from {since} of tenant {tenant}{tighter}."
