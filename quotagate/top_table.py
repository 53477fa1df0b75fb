"""The busiest subjects as a table, however narrow the terminal is: names are cut or left out, numbers never."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

NEAR = 0.8
NAMES, NUMBERS = ("TENANT", "SUBJECT", "METRIC"), ("PASSED", "DENIED", "UNITS", "OF LIMIT")
ENOUGH_COLUMNS = {"TENANT": 80, "METRIC": 60, "SUBJECT": 0}
"""With fewer, whoever looks asks first who it is, then of what, and last of which tenant."""
GAP = 2
LEAST = 4
"""Columns of a name that are left at the least."""


class Busiest:
    """rich asks it for its lines, and says how much room there is."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield table_of(self._rows, options.max_width)


def table_of(rows: Sequence[Mapping[str, Any]], columns: int) -> Table:
    """Fits into so many columns, where numbers leave the names any. Pure."""
    names = [name for name in NAMES if columns >= ENOUGH_COLUMNS[name]]
    numbers = [[*(f"{each[name]:,}" for name in ("passed", "denied", "units")), _share(each)] for each in rows]
    taken = sum(max(len(cell) for cell in column) for column in zip(NUMBERS, *numbers, strict=True))
    left = columns - taken - GAP * (len(names) + len(NUMBERS) - 1)
    widths = [max(len(name), *(len(each[name.lower()]) for each in rows)) for name in names]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, width in zip(names, _fitted(widths, left), strict=True):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=width)
    for title in NUMBERS:
        table.add_column(title, justify="right", no_wrap=True)
    for each, (*counts, share) in zip(rows, numbers, strict=True):
        table.add_row(*(each[name.lower()] for name in names), *counts, Text(share, _style(each["share_used"])))
    return table


def _share(row: Mapping[str, Any]) -> str:
    return "-" if row["share_used"] is None else f"{row['share_used']:.0%}"


def _style(share: float | None) -> str:
    return "" if share is None or share < NEAR else "red" if share >= 1 else "yellow"


def _fitted(widths: list[int], left: int) -> list[int]:
    """The longest gives way first, so that short ones stay whole."""
    for width in range(max(widths), LEAST - 1, -1):
        fitted = [min(each, width) for each in widths]
        if sum(fitted) <= left:
            return fitted
    return [LEAST for _ in widths]
