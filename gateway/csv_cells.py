"""Entries as CSV (RFC 4180): what a spreadsheet would run as a formula is made a text. Pure."""

import csv
from collections.abc import Iterable, Sequence
from io import StringIO

# OWASP's list for CSV injection, with the full-width twins that some spreadsheets read alike.
_STARTERS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def cell(value: str | int | None) -> str | int | None:
    """A number as it is, negative ones too; a text that would begin a formula behind an apostrophe."""
    return "'" + value if isinstance(value, str) and value.startswith(_STARTERS) else value


def lines(rows: Iterable[Sequence[str | int | None]]) -> bytes:
    """The rows in UTF-8, each ended by CR LF; None is an empty cell."""
    written = StringIO()
    writer = csv.writer(written, lineterminator="\r\n")
    writer.writerows([cell(value) for value in row] for row in rows)
    return written.getvalue().encode()
