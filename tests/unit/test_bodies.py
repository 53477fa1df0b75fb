"""The bodies that callers send: nothing is converted, nothing is ignored, every bound holds."""

import json
from typing import Any

import pytest
from msgspec import UNSET

from gateway.bodies import (
    MAX_BATCH_ITEMS,
    MAX_HOLD_S,
    MAX_REASON_CHARACTERS,
    BatchItem,
    BatchRequest,
    CommitRequest,
    ConsumeRequest,
    GrantRequest,
    LevelRequest,
    NothingRequest,
    RefundRequest,
    ReleaseRequest,
    ReservationRequest,
    SubscriptionRequest,
    decoded,
    fingerprint,
)
from quota.errors import InvalidRequest
from quota.identifiers import MAX_AMOUNT

METRIC = {"subject": "u", "metric": "m"}
OPERATION = {"subject": "u", "operation": "o"}
HOLD = METRIC | {"ttl_s": 60}
GRANT = {"metric": "m", "amount": 5, "reason": "an apology"}
LEVEL = {"used": 3, "reason": "counted by hand"}
SMALLEST: dict[type[Any], dict[str, Any]] = {
    ConsumeRequest: METRIC,
    BatchItem: METRIC,
    BatchRequest: {"items": [METRIC]},
    RefundRequest: {"receipt": "3.1-7.1"},
    ReleaseRequest: METRIC,
    ReservationRequest: HOLD,
    CommitRequest: {},
    NothingRequest: {},
    SubscriptionRequest: {"plan": "free"},
    GrantRequest: GRANT,
    LevelRequest: LEVEL,
}
every_body = pytest.mark.parametrize("kind", list(SMALLEST), ids=lambda kind: kind.__name__)


def consume(body: bytes) -> ConsumeRequest:
    return decoded(ConsumeRequest, body)


def read(kind: type[Any], **changes: Any) -> Any:
    return decoded(kind, json.dumps(SMALLEST[kind] | changes).encode())


def raw(amount: str) -> bytes:
    return f'{{"subject": "u", "metric": "m", "amount": {amount}}}'.encode()


@pytest.mark.parametrize("amount", [0, 1, 2**53 - 1])
def test_a_metric_with_an_amount_is_read(amount: int) -> None:
    request = consume(json.dumps(METRIC | {"amount": amount}).encode())
    assert (request.subject, request.metric, request.amount, request.operation) == ("u", "m", amount, UNSET)


def test_an_operation_with_a_quantity_is_read() -> None:
    request = consume(json.dumps(OPERATION | {"quantity": 3, "metadata": {"a": 1, "b": "c", "d": 1.5}}).encode())
    assert (request.operation, request.quantity, request.metadata) == ("o", 3, {"a": 1, "b": "c", "d": 1.5})


@pytest.mark.parametrize(
    "amount",
    [
        *("-1", "1.5", "1.0", "1e3", "1e400", "NaN", "Infinity", '"5"', "true", "null", "[]"),
        *(str(2**53), "1" + "0" * 400),
    ],
)
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(InvalidRequest):
        consume(raw(amount))
    with pytest.raises(InvalidRequest):
        consume(raw(amount).replace(b"metric", b"operation").replace(b"amount", b"quantity"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"subject": "u"}',
        b'{"metric": "m"}',
        b'{"subject": "u", "metric": "m", "operation": "o"}',
        b'{"subject": "u", "metric": "m", "quantity": 1}',
        b'{"subject": "u", "operation": "o", "amount": 1}',
        b'{"subject": "u", "metric": "m", "colour": 1}',
        b'{"subject": 1, "metric": "m"}',
        b'{"subject": "\xff", "metric": "m"}',
        b'{"subject": "u", "metric": "m"} trailing',
        b"[" * 100_000,
        b'{"subject": "u", "metric": "m", "metadata": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
        b'{"subject": "u", "metric": "m", "metadata": {"a": null}}',
        b'{"subject": "u", "metric": "m", "metadata": {"a": true}}',
        b'{"subject": "u", "metric": "m", "metadata": {"a": "\\u0000"}}',
        b'{"subject": "u", "metric": "m", "metadata": {"\\u0000": 1}}',
        b'{"subject": "u", "metric": "m", "metadata": {"a": "\\ud800"}}',
        b'{"subject": "u", "metric": "m", "metadata": {"a": 1e400}}',
    ],
)
def test_a_body_that_is_not_what_it_should_be_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        consume(body)


@pytest.mark.parametrize("identifier", ["", "a" * 201, "a b", "a\r\nb", "a\n", "a\0", "{a}", "é", "a%3Ab", "\ud800"])
@pytest.mark.parametrize("field", ["subject", "metric", "operation"])
def test_what_is_no_identifier_is_refused(identifier: str, field: str) -> None:
    document = (OPERATION if field == "operation" else METRIC) | {field: identifier}
    with pytest.raises(InvalidRequest):
        consume(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("metadata", "is_taken"),
    [
        ({str(n): n for n in range(16)}, True),
        ({str(n): n for n in range(17)}, False),
        ({"a": "x" * (2048 - 8)}, True),
        ({"a": "x" * (2048 - 7)}, False),
        ({"a": "é" * 1020}, True),
        ({"a": "é" * 1021}, False),
    ],
)
def test_metadata_is_bounded_in_entries_and_in_bytes(metadata: dict[str, Any], is_taken: bool) -> None:
    body = json.dumps(METRIC | {"metadata": metadata}).encode()
    if is_taken:
        assert consume(body).metadata == metadata
        return
    with pytest.raises(InvalidRequest, match="metadata may"):
        consume(body)


def test_two_spellings_of_one_body_have_one_fingerprint() -> None:
    one = consume(b'{"subject": "u", "metric": "m", "amount": 5, "metadata": {"a": 1, "b": 2}}')
    other = consume(b'{"metadata":{"b":2,"a":1},"amount":5,"metric":"\\u006d","subject":"u"}')
    assert fingerprint(one) == fingerprint(other)


def test_bodies_that_ask_for_something_else_have_other_fingerprints() -> None:
    bodies = [METRIC, METRIC | {"amount": 2}, OPERATION, OPERATION | {"quantity": 2}, METRIC | {"subject": "v"}]
    bodies += [METRIC | {"metadata": {"a": value}} for value in (1, "1")]
    assert len({fingerprint(consume(json.dumps(each).encode())) for each in bodies}) == len(bodies)


def test_nothing_of_an_operation_is_no_quantity() -> None:
    with pytest.raises(InvalidRequest, match="quantity"):
        consume(json.dumps(OPERATION | {"quantity": 0}).encode())


@every_body
def test_the_smallest_body_is_taken(kind: type[Any]) -> None:
    assert isinstance(read(kind), kind)


@every_body
def test_a_field_that_a_route_does_not_know_is_refused(kind: type[Any]) -> None:
    with pytest.raises(InvalidRequest, match="colour"):
        read(kind, colour="red")


@every_body
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"1", b'"u"', b"{} {}", b'{"a": }', b"\xff"])
def test_what_is_no_object_is_refused(kind: type[Any], body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decoded(kind, body)


@every_body
def test_whatever_is_asked_for_must_be_there(kind: type[Any]) -> None:
    for name in SMALLEST[kind]:
        without = {each: value for each, value in SMALLEST[kind].items() if each != name}
        with pytest.raises(InvalidRequest):
            decoded(kind, json.dumps(without).encode())


@every_body
@pytest.mark.parametrize("value", ["5", 1.0, 1.5, True, None, [], -1, MAX_AMOUNT + 1, 10**400])
def test_no_amount_of_any_body_is_converted_or_out_of_range(kind: type[Any], value: object) -> None:
    for name in {"amount", "quantity", "ttl_s", "used"}.intersection(kind.__struct_fields__):
        with pytest.raises(InvalidRequest):
            read(kind, **{name: value})


@every_body
@pytest.mark.parametrize("value", [1, None, "", "a b", "a\n", "é", "a" * 201])
def test_every_identifier_of_any_body_is_checked(kind: type[Any], value: object) -> None:
    for name in {"subject", "metric", "operation", "plan"}.intersection(kind.__struct_fields__):
        with pytest.raises(InvalidRequest):
            read(kind, **{name: value})


@every_body
@pytest.mark.parametrize("metadata", [{"a": None}, {"a": []}, [], "x", {"a": "\0"}, {"a": 2**53}, {"a": "x" * 2048}])
def test_metadata_of_any_body_is_checked(kind: type[Any], metadata: object) -> None:
    if "metadata" in kind.__struct_fields__:
        with pytest.raises(InvalidRequest):
            read(kind, metadata=metadata)


@pytest.mark.parametrize("kind", [RefundRequest, GrantRequest, LevelRequest])
@pytest.mark.parametrize("reason", ["", "x" * (MAX_REASON_CHARACTERS + 1), "a\0b", "\0", None, 1])
def test_a_reason_is_some_text_that_postgres_can_keep(kind: type[Any], reason: object) -> None:
    with pytest.raises(InvalidRequest):
        read(kind, reason=reason)
    assert read(kind, reason="x" * MAX_REASON_CHARACTERS).reason == "x" * MAX_REASON_CHARACTERS


@pytest.mark.parametrize("amount", [0, 1, MAX_AMOUNT])
@pytest.mark.parametrize("kind", [ReleaseRequest, ReservationRequest, CommitRequest])
def test_nothing_and_the_most_that_can_be_counted_are_amounts(kind: type[Any], amount: int) -> None:
    assert read(kind, amount=amount).amount == amount


@pytest.mark.parametrize("kind", [RefundRequest, GrantRequest])
def test_nothing_cannot_be_refunded_or_granted(kind: type[Any]) -> None:
    with pytest.raises(InvalidRequest):
        read(kind, amount=0)


@pytest.mark.parametrize(("ttl_s", "is_taken"), [(0, False), (1, True), (MAX_HOLD_S, True), (MAX_HOLD_S + 1, False)])
def test_a_hold_lives_for_a_second_to_a_day(ttl_s: int, is_taken: bool) -> None:
    if is_taken:
        assert read(ReservationRequest, ttl_s=ttl_s).ttl_s == ttl_s
        return
    with pytest.raises(InvalidRequest):
        read(ReservationRequest, ttl_s=ttl_s)


def test_what_is_left_out_has_its_default() -> None:
    assert (read(ReservationRequest).amount, read(ReleaseRequest).amount, read(CommitRequest).amount) == (1, 1, UNSET)
    assert (read(RefundRequest).amount, read(RefundRequest).metric, read(BatchRequest).atomic) == (UNSET, UNSET, False)
    assert (read(GrantRequest).priority, read(GrantRequest).expires_at) == (0, None)


@pytest.mark.parametrize("count", [0, MAX_BATCH_ITEMS + 1])
def test_a_batch_has_one_to_a_thousand_items(count: int) -> None:
    with pytest.raises(InvalidRequest):
        read(BatchRequest, items=[METRIC] * count)
    assert len(read(BatchRequest, items=[METRIC] * MAX_BATCH_ITEMS).items) == MAX_BATCH_ITEMS


def test_a_bad_item_does_not_make_a_bad_batch() -> None:
    items = read(BatchRequest, items=[METRIC, {"colour": 1}, 5, None]).items
    assert decoded(BatchItem, bytes(items[0])).subject == "u"
    for item in items[1:]:
        with pytest.raises(InvalidRequest):
            decoded(BatchItem, bytes(item))


@pytest.mark.parametrize("atomic", ["true", 1, None])
def test_atomic_is_true_or_false_and_nothing_like_it(atomic: object) -> None:
    with pytest.raises(InvalidRequest):
        read(BatchRequest, atomic=atomic)


@pytest.mark.parametrize("key", ["", "a" * 256, 1, None])
def test_an_items_key_is_bounded(key: object) -> None:
    with pytest.raises(InvalidRequest):
        read(BatchItem, idempotency_key=key)


@pytest.mark.parametrize("priority", [-1_000_001, 1_000_001, 1.5, "1", True])
def test_a_priority_is_a_whole_number_within_a_million(priority: object) -> None:
    with pytest.raises(InvalidRequest):
        read(GrantRequest, priority=priority)


def test_the_same_body_for_another_thing_has_another_fingerprint() -> None:
    body = read(CommitRequest)
    assert len({fingerprint(body), fingerprint(body, "rsv_1"), fingerprint(body, "rsv_2")}) == 3
    items = [read(BatchItem, amount=amount) for amount in (1, 2)]
    assert fingerprint(items[0], items[1:]) != fingerprint(items[0])
