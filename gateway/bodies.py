"""The bodies that callers send, checked at the door. No value is converted, no field is ignored."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.misfits import misfit
from quota.errors import InvalidRequest
from quota.identifiers import IDENTIFIER_PATTERN, MAX_AMOUNT, checked_identifier

MAX_METADATA_ENTRIES = 16
MAX_METADATA_BYTES = 2048
MAX_BATCH_ITEMS = 1_000
MAX_HOLD_S = 86_400
MAX_REASON_CHARACTERS = 500
MAX_NAME_CHARACTERS = 100

Identifier = Annotated[str, Meta(min_length=1, max_length=200, pattern=IDENTIFIER_PATTERN)]
Amount = Annotated[int, Meta(ge=1, le=MAX_AMOUNT)]
AnyAmount = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
Change = Annotated[int, Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT, extra_json_schema={"not": {"const": 0}})]
WITHOUT_NUL = {"pattern": "^[^\\u0000]*$"}
"""Said to callers here, checked below: Postgres keeps no text with that character in it."""
Reason = Annotated[str, Meta(min_length=1, max_length=MAX_REASON_CHARACTERS, extra_json_schema=WITHOUT_NUL)]
WITHOUT_CONTROLS = {"pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"}
"""The same for names, which people list on terminals."""
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS, extra_json_schema=WITHOUT_CONTROLS)]
Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Scopes = Annotated[
    list[Literal["consume", "read", "admin", "ops"]],
    Meta(min_length=1, max_length=4, extra_json_schema={"uniqueItems": True}),
]
Metadata = Annotated[
    dict[
        Annotated[str, Meta(extra_json_schema=WITHOUT_NUL)],
        Annotated[str, Meta(extra_json_schema=WITHOUT_NUL)]
        | Annotated[int, Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]
        | Annotated[float, Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)],
    ],
    Meta(
        description=f"{MAX_METADATA_BYTES} bytes of compact JSON at most",
        extra_json_schema={"maxProperties": MAX_METADATA_ENTRIES},
    ),
]
T = TypeVar("T")


class _Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    pass


class ConsumeRequest(_Body, frozen=True):
    """`metric` with `amount`, or `operation` with `quantity`."""

    subject: Identifier
    metric: Identifier | UnsetType = UNSET
    amount: AnyAmount | UnsetType = UNSET
    operation: Identifier | UnsetType = UNSET
    quantity: Amount | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class BatchItem(ConsumeRequest, frozen=True):
    """One consume of a batch; a key of its own makes it safe to repeat."""

    idempotency_key: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType = UNSET


class BatchRequest(_Body, frozen=True):
    """Up to 1,000 items, each decided alone, or with `atomic` all or none, for one subject."""

    items: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_BATCH_ITEMS)]
    atomic: bool = False


class RefundRequest(_Body, frozen=True):
    """All that is left of a receipt, or `amount` of it; `metric` says of which charge, where there are several."""

    receipt: Annotated[str, Meta(min_length=1, max_length=200)]
    amount: Amount | UnsetType = UNSET
    metric: Identifier | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class ReleaseRequest(_Body, frozen=True):
    """Units of a level that are given back."""

    subject: Identifier
    metric: Identifier
    amount: AnyAmount = 1
    metadata: Metadata | UnsetType = UNSET


class ReservationRequest(_Body, frozen=True):
    """An amount to hold for `ttl_s` seconds."""

    subject: Identifier
    metric: Identifier
    ttl_s: Annotated[int, Meta(ge=1, le=MAX_HOLD_S)]
    amount: AnyAmount = 1
    metadata: Metadata | UnsetType = UNSET


class CommitRequest(_Body, frozen=True):
    """What is settled: all that was held, if `amount` is left out."""

    amount: AnyAmount | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class NothingRequest(_Body, frozen=True):
    """A body without fields, or none at all."""


class SubscriptionRequest(_Body, frozen=True):
    """The whole subscription, from now or from the period's end: an anchor and add-ons that are left out are gone."""

    plan: Identifier
    status: Literal["active", "trialing", "past_due", "canceled", "paused"] = "active"
    anchor: Instant | None = None
    effective: Literal["now", "period_end"] = "now"
    add_ons: dict[Identifier, Amount] = {}
    status_until: Instant | UnsetType | None = UNSET
    reason: Reason | None = None


class GrantRequest(_Body, frozen=True):
    """Bonus units, used after the plan's allowance."""

    metric: Identifier
    amount: Amount
    reason: Reason
    expires_at: Instant | None = None
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0


class OverrideRequest(_Body, frozen=True):
    """A limit in place of the plan's; null is unlimited. It ends never, if `expires_at` is left out."""

    limit: AnyAmount | None
    reason: Reason
    expires_at: Instant | None = None


class GiftRequest(_Body, frozen=True):
    """Unused units of one subject's grants that are to become another's."""

    giver: Identifier = msgspec.field(name="from")
    to: Identifier
    metric: Identifier
    amount: Amount
    reason: Reason | None = None


class LevelRequest(_Body, frozen=True):
    """What a level is, whatever it was counted to be."""

    used: AnyAmount
    reason: Reason


class CorrectionRequest(_Body, frozen=True):
    """By how much a counter is to be moved, up or down."""

    metric: Identifier
    change: Change
    reason: Reason
    metadata: Metadata | UnsetType = UNSET


class ApiKeyRequest(_Body, frozen=True):
    """A key that is to be made; it expires never, if `expires_at` is left out."""

    scopes: Scopes
    name: Name | None = None
    expires_at: Instant | None = None


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_control = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_fingerprint_encoder = msgspec.json.Encoder(order="deterministic")


def decoded(kind: type[T], body: bytes) -> T:
    """The body as this type; InvalidRequest with the place and the reason."""
    decoder = _decoders.get(kind) or _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    try:
        request: T = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise misfit(error, kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if isinstance(request, _Body):
        _check(request)
    return request


def _check(request: _Body) -> None:
    for name in ("subject", "metric", "operation", "plan"):
        value = getattr(request, name, UNSET)
        if value is not UNSET:
            checked_identifier(value, name)  # again: in the pattern's language, $ stands before a line feed too
    metadata = getattr(request, "metadata", UNSET)
    if metadata is not UNSET:
        _check_metadata(metadata)
    reason = getattr(request, "reason", None)
    if isinstance(reason, str) and "\0" in reason:
        raise InvalidRequest("reason may not hold the character U+0000", field="reason")
    if isinstance(request, ConsumeRequest):
        _check_consume(request)
    if isinstance(request, GiftRequest):
        _check_gift(request)
    if isinstance(request, CorrectionRequest) and request.change == 0:
        raise InvalidRequest("a change of 0 corrects nothing", field="change")
    if isinstance(request, ApiKeyRequest):
        _check_api_key(request)


def _check_consume(request: ConsumeRequest) -> None:
    if (request.metric is UNSET) == (request.operation is UNSET):
        raise InvalidRequest("send either metric (with amount) or operation (with quantity)")
    if request.metric is not UNSET and request.quantity is not UNSET:
        raise InvalidRequest("quantity goes with operation; a metric takes amount", field="quantity")
    if request.operation is not UNSET and request.amount is not UNSET:
        raise InvalidRequest("amount goes with metric; an operation takes quantity", field="amount")


def _check_gift(request: GiftRequest) -> None:
    checked_identifier(request.giver, "from")
    if checked_identifier(request.to, "to") == request.giver:
        raise InvalidRequest("from and to are the same subject; name two", field="to")


def _check_api_key(request: ApiKeyRequest) -> None:
    if len(set(request.scopes)) < len(request.scopes):
        raise InvalidRequest("name each scope once", field="scopes")
    if request.name is not None:
        checked_name(request.name)


def checked_name(name: str) -> str:
    """The same name, or InvalidRequest."""
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or _control.search(name):
        words = f"a name has 1 to {MAX_NAME_CHARACTERS} characters, and no control characters among them"
        raise InvalidRequest(words, field="name")
    return name


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    if len(metadata) > MAX_METADATA_ENTRIES:
        raise InvalidRequest(f"metadata may hold {MAX_METADATA_ENTRIES} entries at most", field="metadata")
    encoded = msgspec.json.encode(metadata)
    if len(encoded) > MAX_METADATA_BYTES:
        raise InvalidRequest(f"metadata may take {MAX_METADATA_BYTES} bytes at most", field="metadata")
    # Postgres cannot keep it, and an entry that the ledger refuses would stop the journal.
    if b"\\u0000" in encoded:
        raise InvalidRequest("metadata may not hold the character U+0000", field="metadata")


def fingerprint(request: _Body, *more: object) -> str:
    """The same for two bodies that ask the same of the same thing, however they were written."""
    return blake2b(_fingerprint_encoder.encode((request, more)), digest_size=16).hexdigest()
