"""Lists page by cursor: `?limit=` and `?cursor=` go in, `items` and `next_cursor` come out.

A cursor is the place of the last item that was seen, in the list's own order, so that what is added or taken out
meanwhile shifts nothing. To callers it is one opaque word.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec
from litestar.datastructures import MultiDict

from quota.errors import InvalidRequest

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
MAX_CURSOR_CHARACTERS = 1_000
"""Some identifiers of 200 characters and numbers, in base64."""
QUERY = ("limit", "cursor")
"""What a paged route knows of query parameters."""

Place = TypeVar("Place", bound=tuple[Any, ...])
Item = TypeVar("Item")


def page(
    items: Sequence[Item], place_of: Callable[[Item], Place], kind: type[Place], query: MultiDict[str]
) -> tuple[list[Item], str | None]:
    """The items of the page that is asked for, and the cursor of the next one, None after the last. `place_of` is what
    the items are sorted by, without ties, and `kind` its type. InvalidRequest."""
    limit, after = limit_in(query), place_in(query, kind)
    rest = (item for item in items if after is None or place_of(item) > after)
    found = list(islice(rest, limit + 1))
    return found[:limit], cursor_to(place_of(found[limit - 1])) if len(found) > limit else None


def limit_in(query: MultiDict[str]) -> int:
    """How many items a page may have."""
    text = _single(query, "limit")
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) and 1 <= int(text) <= MAX_LIMIT):
        raise InvalidRequest(f"limit is a whole number from 1 to {MAX_LIMIT}", field="limit")
    return int(text)


def place_in(query: MultiDict[str], kind: type[Place]) -> Place | None:
    """After which place the page begins; None at the beginning."""
    cursor = _single(query, "cursor")
    if cursor is None:
        return None
    try:
        if len(cursor) <= MAX_CURSOR_CHARACTERS:
            place: Place = msgspec.json.decode(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=kind)
            if cursor_to(place) == cursor:
                return place
    except (ValueError, msgspec.MsgspecError):
        pass
    raise InvalidRequest("cursor is not one that this list has given out", field="cursor")


def cursor_to(place: tuple[Any, ...]) -> str:
    """What a caller sends to go on after this place."""
    return urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _single(query: MultiDict[str], name: str) -> str | None:
    values = query.getall(name, [])
    if len(values) > 1:
        raise InvalidRequest(f"send {name} once", field=name)
    return values[0] if values else None
