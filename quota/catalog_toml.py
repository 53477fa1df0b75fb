"""A catalog as TOML that people edit and apply again: a table for each thing, a limit a line.

TOML's writers in Python write a table for each limit, twelve lines where people write three. A catalog holds names,
texts, integers and lists of them, and nothing else.
"""

import json
from collections.abc import Iterator
from typing import Any

from quota.catalog import Catalog, to_document
from quota.catalog_paths import joined

_SECTIONS = ("metrics", "operations", "plans", "add_ons")


def to_toml(catalog: Catalog) -> str:
    """`parse_toml` makes the same catalog of it. Names are sorted, plans by rank; defaults are left out."""
    document = to_document(catalog)
    head = [f"{name} = {_value(value)}" for name, value in document.items() if not isinstance(value, dict)]
    parts = ["\n".join(head)] if head else []
    sections = [name for name in document if isinstance(document[name], dict)]
    for section in sorted(sections, key=lambda name: _SECTIONS.index(name) if name in _SECTIONS else len(_SECTIONS)):
        entries = list(document[section].items())
        if section == "plans":
            entries.sort(key=lambda item: item[1].get("rank", 0))
        parts += ["\n".join(_lines(joined(section, name), entry)) for name, entry in entries]
    return "\n\n".join(parts) + "\n"


def _lines(path: str, entry: dict[str, Any]) -> Iterator[str]:
    yield f"[{path}]"
    for key, value in sorted(entry.items(), key=lambda item: isinstance(item[1], dict)):
        if isinstance(value, dict) and value:
            yield from (f"{joined(key, name)} = {_value(each)}" for name, each in value.items())
        else:
            yield f"{key} = {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{joined('', key)} = {_value(each)}" for key, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    # JSON's escapes are TOML's as well, but those of characters beyond the first plane; DEL must be escaped in TOML.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
