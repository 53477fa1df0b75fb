"""A catalog from a file, TOML or JSON by its ending. What is wrong with it is told with the line it stands on."""

import codecs
import re
from collections.abc import Mapping
from pathlib import Path

from quota.catalog import Catalog, parse_json, parse_toml
from quota.catalog_lines import line_of, lines_of_json, lines_of_toml
from quota.errors import CatalogInvalid

_line_of_toml = re.compile(r"^not valid TOML: .*\(at line (\d+), column \d+\)", re.DOTALL)
_byte_of_json = re.compile(r"^not valid JSON: .*\(byte (\d+)\)", re.DOTALL)


def read_catalog(file: Path) -> Catalog:
    """CatalogInvalid, each of its errors as `file:line: path: what to write instead`."""
    content = file.read_bytes().removeprefix(codecs.BOM_UTF8)  # Windows' editors put one there
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CatalogInvalid([f"{file}:{line}: not UTF-8; save the file as UTF-8"]) from error
    is_json = file.suffix == ".json"
    try:
        return parse_json(content) if is_json else parse_toml(text)
    except CatalogInvalid as error:
        if error.errors[0].startswith("not valid "):
            lines: Mapping[str, int] = {}
        else:
            lines = lines_of_json(text) if is_json else lines_of_toml(text)
        told = ((_syntax_line(each, content) or line_of(each, lines), each) for each in error.errors)
        raise CatalogInvalid([f"{file}{f':{line}' if line else ''}: {each}" for line, each in told]) from error


def _syntax_line(error: str, content: bytes) -> int | None:
    """Where a parser has given up."""
    if found := _line_of_toml.match(error):
        return int(found[1])
    if found := _byte_of_json.match(error):
        return content[: int(found[1])].count(b"\n") + 1
    # Both parsers say of a document that stops too early only that it does.
    return content.rstrip().count(b"\n") + 1 if error.startswith("not valid ") else None
