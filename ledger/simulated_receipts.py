"""Which entries of a history were one request. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def receipts(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """The entries of one consume together; every other one alone."""
    group: list[Any] = []
    for row in rows:
        if group and not _belongs(group, row):
            yield group
            group = []
        group.append(row)
        if row.kind != "consume" or len(group) == row.receipt_count:
            yield group
            group = []
    if group:
        yield group


def _belongs(group: Sequence[Any], row: Any) -> bool:
    receipt = (group[0].epoch, group[0].receipt_first_n, group[0].occurred_at)
    return bool(row.kind == "consume" and (row.epoch, row.receipt_first_n, row.occurred_at) == receipt)
