"""What comes with a body, checked at the door: its size, the request's id, an idempotency key."""

import re
from collections.abc import Awaitable, Callable
from os import urandom
from typing import Any

import http_sf

from quota.errors import BodyTooLarge, InvalidRequest

MAX_BODY_BYTES = 64 * 1024
MAX_WEBHOOK_BYTES = 256 * 1024
"""Stripe's events are a few KB; metadata and many items make them larger."""
MAX_BATCH_BYTES = 1024 * 1024
MAX_CATALOG_BYTES = 8 * 1024 * 1024
MAX_KEY_CHARACTERS = 255

_sane_request_id = re.compile(r"[A-Za-z0-9._:\-]{1,128}\Z")


def idempotency_key(values: list[bytes]) -> str | None:
    """The key in the headers Idempotency-Key and X-Idempotency-Key, bare or as a quoted structured-field string; both
    forms name the same key. InvalidRequest where the headers name more than one."""
    keys = {checked_key(value.strip()) for value in values}
    if len(keys) > 1:
        raise InvalidRequest("Idempotency-Key and X-Idempotency-Key name different keys; send one of them")
    return keys.pop() if keys else None


def checked_key(raw: bytes) -> str:
    """An idempotency key as a header or a batch's item has it."""
    key = raw.decode("latin-1")
    if raw.startswith(b'"'):
        try:
            item: Any = http_sf.parse(raw, tltype="item")
        except ValueError as error:
            raise InvalidRequest(f"Idempotency-Key is not a structured-field string: {error}") from error
        key, parameters = item
        if parameters or not isinstance(key, str):
            raise InvalidRequest("Idempotency-Key must be a string without parameters")
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS or not all(" " <= character <= "~" for character in key):
        raise InvalidRequest(f"Idempotency-Key must be 1 to {MAX_KEY_CHARACTERS} printable ASCII characters")
    return key


def request_id(value: bytes | None) -> str:
    """The caller's, if it is sane, else a new one."""
    if value is not None and _sane_request_id.match(text := value.decode("latin-1")):
        return text
    return urandom(16).hex()


async def read_body(
    headers: list[tuple[bytes, bytes]], receive: Callable[[], Awaitable[Any]], most_bytes: int
) -> bytes:
    """The whole body; BodyTooLarge as soon as it is known to be longer, without reading the rest."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and (len(value) > 15 or int(value) > most_bytes):
            raise BodyTooLarge(f"the body may have {most_bytes} bytes at most")
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("the caller went away before the body was complete")
        part = message.get("body", b"")
        length += len(part)
        if length > most_bytes:
            raise BodyTooLarge(f"the body may have {most_bytes} bytes at most")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
