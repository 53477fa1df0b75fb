"""Lists page by cursor: `?limit=` and `?cursor=` go in, `items` and `next_cursor` come out.

A cursor is the place of the last item that was seen, in the list's own order, so that what is added or taken out
meanwhile shifts nothing. To callers it is one opaque word. Those of the ledger's lists are sealed as well (`Cursors`).
"""

import hmac
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
SEAL_BYTES = 16
"""Nobody guesses 128 bits, and what is won by it is a place in one's own list."""
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
    text = single(query, "limit")
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) and 1 <= int(text) <= MAX_LIMIT):
        raise InvalidRequest(f"limit is a whole number from 1 to {MAX_LIMIT}", field="limit")
    return int(text)


def place_in(query: MultiDict[str], kind: type[Place]) -> Place | None:
    """After which place the page begins; None at the beginning."""
    cursor = single(query, "cursor")
    if cursor is None:
        return None
    try:
        place: Place = msgspec.json.decode(_decoded(cursor), type=kind)
        if cursor_to(place) == cursor:
            return place
    except (ValueError, msgspec.MsgspecError):
        pass
    raise unknown_cursor()


def cursor_to(place: tuple[Any, ...]) -> str:
    """What a caller sends to go on after this place."""
    return _encoded(msgspec.json.encode(place))


class Cursors:
    """Cursors that nobody can make up, each good for the very list that gave it out: the seal is made of the place and
    of `listed`, the words that name the list (its tenant, its route, what it was asked for)."""

    def __init__(self, secret: str) -> None:
        self._secret = b"cursor\0" + secret.encode()

    def to(self, place: tuple[Any, ...], listed: Sequence[str]) -> str:
        """What a caller sends to go on after this place of this list."""
        words = msgspec.json.encode(place)
        return _encoded(self._seal(words, listed) + words)

    def place_in(self, query: MultiDict[str], kind: type[Place], listed: Sequence[str]) -> Place | None:
        """After which place the page begins; None at the beginning. InvalidRequest if it is another list's cursor."""
        cursor = single(query, "cursor")
        if cursor is None:
            return None
        try:
            decoded = _decoded(cursor)
            seal, words = decoded[:SEAL_BYTES], decoded[SEAL_BYTES:]
            # Written again, because base64 has several words for the same bytes.
            if hmac.compare_digest(seal, self._seal(words, listed)) and _encoded(decoded) == cursor:
                place: Place = msgspec.json.decode(words, type=kind)
                return place
        except (ValueError, msgspec.MsgspecError):
            pass
        raise unknown_cursor()

    def _seal(self, words: bytes, listed: Sequence[str]) -> bytes:
        message = msgspec.json.encode(listed) + b"\0" + words
        return hmac.digest(self._secret, message, "sha256")[:SEAL_BYTES]


def _encoded(words: bytes) -> str:
    return urlsafe_b64encode(words).decode().rstrip("=")


def _decoded(cursor: str) -> bytes:
    if len(cursor) > MAX_CURSOR_CHARACTERS:
        raise ValueError("no cursor is that long")
    return urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))


def unknown_cursor() -> InvalidRequest:
    return InvalidRequest("cursor is not one that this list has given out", field="cursor")


def single(query: MultiDict[str], name: str) -> str | None:
    """A parameter's value, None if it is missing; InvalidRequest if it came twice."""
    values = query.getall(name, [])
    if len(values) > 1:
        raise InvalidRequest(f"send {name} once", field=name)
    return values[0] if values else None
