"""What callers send, checked at the door: bodies, ids, idempotency keys. No value is converted, no field is ignored."""

import re
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from os import urandom
from typing import Annotated, Any, Literal, TypeVar

import http_sf
import msgspec
from msgspec import UNSET, Meta, UnsetType

from quota.errors import BodyTooLarge, InvalidRequest
from quota.identifiers import IDENTIFIER_PATTERN, MAX_AMOUNT, checked_identifier

MAX_BODY_BYTES = 64 * 1024
MAX_CATALOG_BYTES = 8 * 1024 * 1024
MAX_METADATA_ENTRIES = 16
MAX_METADATA_BYTES = 2048
MAX_KEY_CHARACTERS = 255

Identifier = Annotated[str, Meta(min_length=1, max_length=200, pattern=IDENTIFIER_PATTERN)]
Amount = Annotated[int, Meta(ge=1, le=MAX_AMOUNT)]
T = TypeVar("T")

_sane_request_id = re.compile(r"[A-Za-z0-9._:\-]{1,128}\Z")


class ConsumeRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`metric` with `amount`, or `operation` with `quantity`."""

    subject: Identifier
    metric: Identifier | UnsetType = UNSET
    amount: Amount | UnsetType = UNSET
    operation: Identifier | UnsetType = UNSET
    quantity: Amount | UnsetType = UNSET
    metadata: dict[str, str | int | float] | UnsetType = UNSET


class SubscriptionRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The plan that a subject is on from now."""

    plan: Identifier
    status: Literal["active", "trialing", "past_due", "canceled", "paused"] = "active"
    anchor: str | None = None
    effective: Literal["now"] = "now"
    add_ons: dict[Identifier, Amount] = {}


_consume_decoder = msgspec.json.Decoder(ConsumeRequest)
_fingerprint_encoder = msgspec.json.Encoder(order="deterministic")


def decoded(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """The body as the decoder's type; InvalidRequest with the place and the reason."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error


def consume_request(body: bytes) -> ConsumeRequest:
    """A checked body of /v1/consume or /v1/check."""
    request = decoded(_consume_decoder, body)
    checked_identifier(request.subject, "subject")  # again: in the pattern's language, $ stands before a line feed too
    if (request.metric is UNSET) == (request.operation is UNSET):
        raise InvalidRequest("send either metric (with amount) or operation (with quantity)")
    if request.metric is not UNSET:
        checked_identifier(request.metric, "metric")
        if request.quantity is not UNSET:
            raise InvalidRequest("quantity goes with operation; a metric takes amount", field="quantity")
    if request.operation is not UNSET:
        checked_identifier(request.operation, "operation")
        if request.amount is not UNSET:
            raise InvalidRequest("amount goes with metric; an operation takes quantity", field="amount")
    if request.metadata is not UNSET:
        _check_metadata(request.metadata)
    return request


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    if len(metadata) > MAX_METADATA_ENTRIES:
        raise InvalidRequest(f"metadata may hold {MAX_METADATA_ENTRIES} entries at most", field="metadata")
    for value in metadata.values():
        if isinstance(value, int) and abs(value) > MAX_AMOUNT:
            raise InvalidRequest(f"whole numbers in metadata lie within ±{MAX_AMOUNT}", field="metadata")
    encoded = msgspec.json.encode(metadata)
    if len(encoded) > MAX_METADATA_BYTES:
        raise InvalidRequest(f"metadata may take {MAX_METADATA_BYTES} bytes at most", field="metadata")
    # Postgres cannot keep it, and an entry that the ledger refuses would stop the journal.
    if b"\\u0000" in encoded:
        raise InvalidRequest("metadata may not hold the character U+0000", field="metadata")


def fingerprint(request: ConsumeRequest) -> str:
    """The same for two bodies that ask the same, however they were written."""
    return blake2b(_fingerprint_encoder.encode(request), digest_size=16).hexdigest()


def idempotency_key(values: list[bytes]) -> str | None:
    """The key in an Idempotency-Key header, bare or as a quoted structured-field string; both name the same key."""
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest("send one Idempotency-Key header")
    raw = values[0].strip()
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
