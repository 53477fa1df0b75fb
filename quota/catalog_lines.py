"""On which line each path of a catalog document stands, for errors that people can click on.

No parser of TOML in Python tells lines of what it has read, so this is a reader of keys alone: it is run over a
document that tomllib or msgspec has accepted, and skips values.
"""

import json
import re
import tomllib
from bisect import bisect_left
from collections.abc import Mapping

from quota.catalog_paths import joined, path_at_start

_blank = re.compile(r"(?:[\s\ufeff]|#[^\n]*)*")  # JSON has no # outside of a text
_string = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\]|\\.)*"|\'[^\']*\'', re.DOTALL)
_bare_key = re.compile(r"[A-Za-z0-9_-]+")
_scalar = re.compile(r"[^,\]}#\n]+")
_CLOSED_BY = {"{": "}", "[": "]"}


class _Reader:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._breaks = [found.start() for found in re.finditer("\n", text)]
        self.lines: dict[str, int] = {}

    def toml(self) -> None:
        table = ""
        while opens := self._next():
            if opens == "[":
                self._at += 2 if self._text.startswith("[[", self._at) else 1
                table = self._key("")
                self._at += 2 if self._text.startswith("]]", self._at) else 1
            else:
                self._pair(table)

    def json(self) -> None:
        self._value("")

    def _next(self) -> str:
        """The next character that means something, "" at the end."""
        self._take(_blank)
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"nothing known stands at character {self._at}")
        self._at = found.end()
        return found[0]

    def _key(self, path: str) -> str:
        """Reads a key, dotted or not, up to what follows it; the path that it leads to."""
        while True:
            opens = self._next()
            line = bisect_left(self._breaks, self._at) + 1
            path = joined(path, _unquoted(self._take(_string)) if opens in {'"', "'"} else self._take(_bare_key))
            if self._next() != ".":
                self.lines[path] = line
                return path
            self.lines.setdefault(path, line)
            self._at += 1

    def _pair(self, path: str) -> None:
        path = self._key(path)
        self._at += 1  # = or :
        self._value(path)

    def _value(self, path: str) -> None:
        opens = self._next()
        if opens in {'"', "'"}:
            self._take(_string)
        elif opens in _CLOSED_BY:
            self._at += 1
            while self._next() not in {_CLOSED_BY[opens], ""}:
                if opens == "{":
                    self._pair(path)
                else:
                    self._value(path)
                if self._next() == ",":
                    self._at += 1
            self._at += 1
        else:
            self._take(_scalar)


def _unquoted(key: str) -> str:
    try:
        return str(json.loads(key))
    except ValueError:  # TOML has quotes and escapes that JSON has not
        return str(next(iter(tomllib.loads(f"{key} = 0"))))


def lines_of_toml(text: str) -> dict[str, int]:
    """Path -> line, counted from 1, of a document that tomllib accepts."""
    reader = _Reader(text)
    reader.toml()
    return reader.lines


def lines_of_json(text: str) -> dict[str, int]:
    """Path -> line, counted from 1, of a valid JSON document."""
    reader = _Reader(text)
    reader.json()
    return reader.lines


def line_of(error: str, lines: Mapping[str, int]) -> int | None:
    """The line of the path that an error begins with, or of what it would stand in; None if nothing of it is there."""
    path = path_at_start(error)
    while path and path not in lines:
        path = _parent(path)
    return lines.get(path)


def _parent(path: str) -> str:
    """Without its last name."""
    quoted = re.search(r'\.?"(?:[^"\\]|\\.)*"\Z', path) if path.endswith('"') else None
    return path[: quoted.start()] if quoted else path.rpartition(".")[0]
