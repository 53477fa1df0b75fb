"""What is wrong with a body, in words for whoever sent it: the field, and what it takes. Pure."""

import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import msgspec

from quota.errors import InvalidRequest
from quota.identifiers import IDENTIFIER_PATTERN

_WORDS = {
    "int": "a whole number",
    "float": "a number with a decimal point",
    "str": "text",
    "bool": "true or false",
    "null": "null",
    "object": "an object",
    "array": "a list",
}
_BOUNDS = {">=": "at least", "<=": "at most"}
_place = re.compile(r"(?P<what>.*) - at (?P<key>`key` in )?`\$\.?(?P<path>[^`]*)`", re.DOTALL)
_no_field = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL)
_length = re.compile(r"Expected `(?P<kind>str|array)` of length (?P<bound>[<>]=) (?P<number>\d+)")
_bound = re.compile(r"Expected `int` (?P<bound>[<>]=) (?P<number>-?\d+)")
_kinds = re.compile(r"Expected `(?P<wanted>[^`]+)`(?:, got `(?P<got>\w+)`)?")


def misfit(error: msgspec.ValidationError, kind: Any) -> InvalidRequest:
    """What msgspec says of a body that is not of this type, with the `field` that it speaks of, where there is one."""
    place = _place.fullmatch(str(error))
    what, field = (place["what"], _field_of(place["path"])) if place else (str(error), "")
    missing = _no_field.fullmatch(what)
    if missing:
        name = f"{field}.{missing['name']}" if field else missing["name"]
        words = "is missing; send it" if missing["how"].startswith("missing") else "is no field of this body"
        return InvalidRequest(f"{name} {words}", field=name)
    subject = f"a name in {field}" if place and place["key"] else field or "the body"
    words = f"{subject} {_demand(what, field, kind)}"
    return InvalidRequest(words, field=field) if field else InvalidRequest(words)


def _field_of(path: str) -> str:
    return path.replace("[...]", "")  # a name that the caller made up: the message has it not


def _demand(what: str, field: str, kind: Any) -> str:
    """What is to be sent, to be read after the field's name."""
    if IDENTIFIER_PATTERN in what.replace("\\\\", "\\"):
        return "is 1 to 200 characters of A-Z a-z 0-9 . _ - : @ / +"
    if what.startswith("Invalid "):  # of a few words it is none
        allowed = list(_words_of(kind, field.partition("[")[0]))
        return f"is one of {', '.join(allowed)}" if allowed else "has none of the values that it may have"
    if found := _length.fullmatch(what):
        unit = "character" if found["kind"] == "str" else "item"
        return f"has {_BOUNDS[found['bound']]} {found['number']} {unit}{'' if found['number'] == '1' else 's'}"
    if found := _bound.fullmatch(what):
        return f"is a whole number, {_BOUNDS[found['bound']]} {found['number']}"
    if found := _kinds.fullmatch(what):
        wanted = " or ".join(_WORDS.get(each, each) for each in found["wanted"].split(" | "))
        return f"is {wanted}" + (f", not {_WORDS.get(found['got'], found['got'])}" if found["got"] else "")
    return f"cannot be understood: {what}"


def _words_of(kind: Any, field: str) -> Iterator[str]:
    """The words that a field takes, as its type names them."""
    for struct in get_args(kind) or (kind,):
        config = struct.__struct_config__
        if config.tag_field == field:
            yield str(config.tag)
        else:
            for each in msgspec.structs.fields(struct):
                if each.encode_name == field:
                    yield from _literals(each.type)


def _literals(kind: Any) -> Iterator[str]:
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    else:
        for each in get_args(kind):
            yield from _literals(each)
