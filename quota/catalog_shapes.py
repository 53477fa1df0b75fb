"""Which values of a document have the wrong shape, each by its path, with what to write instead.

msgspec stops at the first and names only the part that it is in; so what it has refused is walked through once more,
by the same types.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from quota.catalog_paths import joined

MAX_SHOWN_CHARACTERS = 40  # enough to find it by
MAX_COMPARED_CHARACTERS = 60
MAX_COMPARED = 50
"""Comparing words is slow, and a hostile document has a thousand wrong ones and a thousand to compare each with."""

_WORDS = {int: "a whole number", str: "a text", dict: "a table", list: "a list"}


def misshapen(path: str, value: object, wanted: Any) -> Iterator[str]:
    """Everything in `value` that is not as the type `wanted` has it; "" is the path of the whole document."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        (wanted,) = (each for each in inner if each is not NoneType)
        if value is not None:
            yield from misshapen(path, value, wanted)
    elif origin is Literal and value not in inner:
        choices = " or ".join(json.dumps(choice) for choice in inner)
        yield f"{path}: write {choices}, not {_shown(value)}{did_you_mean(value, inner)}"
    elif origin is tuple and isinstance(value, list):
        yield from (_not(path, each, inner[0]) for each in value if not _is(each, inner[0]))
    elif origin is dict and isinstance(value, dict):
        for name, each in value.items():
            yield from misshapen(joined(path, name), each, inner[1])
    elif origin in (tuple, dict):
        yield _not(path, value, list if origin is tuple else dict)
    elif isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        yield from _misshapen_part(path, value, wanted)
    elif origin is not Literal and not _is(value, wanted):
        yield _not(path, value, wanted)


def without_unknown(value: object, wanted: Any) -> Any:
    """The same value without the keys that the type `wanted` does not have."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        (wanted,) = (each for each in inner if each is not NoneType)
        return without_unknown(value, wanted)
    if not isinstance(value, dict):
        return value
    if origin is dict:
        return {name: without_unknown(each, inner[1]) for name, each in value.items()}
    if not (isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)):
        return value
    types = get_type_hints(wanted)
    return {name: without_unknown(each, types[name]) for name, each in value.items() if name in types}


def _misshapen_part(path: str, value: object, wanted: type[msgspec.Struct]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _not(path or "document", value, dict)
        return
    types = get_type_hints(wanted)
    unknown = [name for name in value if name not in types]
    for name in unknown:
        meant = did_you_mean(name, types) or f"; write one of {', '.join(sorted(types))}, or take it out"
        yield f"{joined(path, name)}: no such key{meant}"
    for field in msgspec.structs.fields(wanted):
        if field.name in value:
            yield from misshapen(joined(path, field.name), value[field.name], types[field.name])
        elif field.required and not unknown:  # one of those may be it
            yield f"{joined(path, field.name)}: is missing; write it"


def _is(value: object, wanted: Any) -> bool:
    return type(value) is wanted  # True is an int to isinstance


def _not(path: str, value: object, wanted: Any) -> str:
    return f"{path}: write {_WORDS[wanted]}, not {_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return _WORDS[type(value)]
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= MAX_SHOWN_CHARACTERS else f"{shown[:MAX_SHOWN_CHARACTERS]}…"


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """What was probably meant, as the end of a sentence; nothing if nothing comes near."""
    if not isinstance(value, str) or len(value) > MAX_COMPARED_CHARACTERS:
        return ""
    found = difflib.get_close_matches(value, islice(known, MAX_COMPARED), n=1)
    return f"; did you mean {found[0]}?" if found else ""
