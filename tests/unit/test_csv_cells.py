"""CSV that a spreadsheet reads as data: formulas are made texts, numbers stay numbers."""

import csv
from io import StringIO

import pytest

from gateway import csv_cells

FORMULAS = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x","y")', "=", "-", "@"),
    *("=1,2", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"),
]
PLAIN = ["", "a", "u_1", "1-1", "a=1", " =1", "'=1", "a,b", 'a "b"', "two\r\nlines", "müll", "0123"]


def read(written: bytes) -> list[list[str]]:
    return list(csv.reader(StringIO(written.decode(), newline="")))


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_would_begin_a_formula_stands_behind_an_apostrophe(text: str) -> None:
    assert read(csv_cells.lines([[text, "x"]])) == [["'" + text, "x"]]


@pytest.mark.parametrize("text", PLAIN)
def test_any_other_text_is_read_again_as_it_was(text: str) -> None:
    assert read(csv_cells.lines([["x", text]])) == [["x", text]]


@pytest.mark.parametrize("number", [0, -5, 7, 2**53 - 1, -(2**53) + 1])
def test_a_number_stays_a_number(number: int) -> None:
    assert csv_cells.lines([[number, -1]]) == f"{number},-1\r\n".encode()


def test_lines_are_those_of_rfc_4180_and_nothing_is_an_empty_cell() -> None:
    rows: list[list[str | int | None]] = [["a", None, 1], ['say "x"', "b,c", None], ["one\ntwo", "", 2]]
    assert csv_cells.lines(rows) == b'a,,1\r\n"say ""x""","b,c",\r\n"one\ntwo",,2\r\n'
