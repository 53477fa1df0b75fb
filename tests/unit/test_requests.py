"""What callers send: strict bodies, idempotency keys in both spellings, request ids, bounded reading."""

import asyncio
import json
from typing import Any

import http_sf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from gateway.requests import MAX_BODY_BYTES, consume_request, fingerprint, idempotency_key, read_body, request_id
from quota.errors import BodyTooLarge, InvalidRequest

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
METRIC = {"subject": "u", "metric": "m"}
OPERATION = {"subject": "u", "operation": "o"}


def raw(amount: str) -> bytes:
    return f'{{"subject": "u", "metric": "m", "amount": {amount}}}'.encode()


@pytest.mark.parametrize("amount", [1, 2**53 - 1])
def test_a_metric_with_an_amount_is_read(amount: int) -> None:
    request = consume_request(json.dumps(METRIC | {"amount": amount}).encode())
    assert (request.subject, request.metric, request.amount, request.operation) == ("u", "m", amount, UNSET)


def test_an_operation_with_a_quantity_is_read() -> None:
    request = consume_request(
        json.dumps(OPERATION | {"quantity": 3, "metadata": {"a": 1, "b": "c", "d": 1.5}}).encode()
    )
    assert (request.operation, request.quantity, request.metadata) == ("o", 3, {"a": 1, "b": "c", "d": 1.5})


@pytest.mark.parametrize(
    "amount",
    [
        "0",
        "-1",
        "1.5",
        "1.0",
        "1e3",
        "1e400",
        "NaN",
        "Infinity",
        '"5"',
        "true",
        "null",
        "[]",
        str(2**53),
        "1" + "0" * 400,
    ],
)
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(InvalidRequest):
        consume_request(raw(amount))
    with pytest.raises(InvalidRequest):
        consume_request(raw(amount).replace(b"metric", b"operation").replace(b"amount", b"quantity"))


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
        consume_request(body)


@pytest.mark.parametrize("identifier", ["", "a" * 201, "a b", "a\r\nb", "a\n", "a\0", "{a}", "é", "a%3Ab", "\ud800"])
@pytest.mark.parametrize("field", ["subject", "metric", "operation"])
def test_what_is_no_identifier_is_refused(identifier: str, field: str) -> None:
    document = (OPERATION if field == "operation" else METRIC) | {field: identifier}
    with pytest.raises(InvalidRequest):
        consume_request(json.dumps(document).encode())


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
        assert consume_request(body).metadata == metadata
        return
    with pytest.raises(InvalidRequest, match="metadata may"):
        consume_request(body)


def test_two_spellings_of_one_body_have_one_fingerprint() -> None:
    one = consume_request(b'{"subject": "u", "metric": "m", "amount": 5, "metadata": {"a": 1, "b": 2}}')
    other = consume_request(b'{"metadata":{"b":2,"a":1},"amount":5,"metric":"\\u006d","subject":"u"}')
    assert fingerprint(one) == fingerprint(other)


def test_bodies_that_ask_for_something_else_have_other_fingerprints() -> None:
    bodies = [METRIC, METRIC | {"amount": 2}, OPERATION, OPERATION | {"quantity": 2}, METRIC | {"subject": "v"}]
    bodies += [METRIC | {"metadata": {"a": value}} for value in (1, "1")]
    assert len({fingerprint(consume_request(json.dumps(each).encode())) for each in bodies}) == len(bodies)


printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255)


@calm
@given(printable.map(str.strip).filter(bool))
def test_a_bare_key_and_a_quoted_one_name_the_same_key(key: str) -> None:
    quoted = http_sf.ser((key, {})).encode()
    assert idempotency_key([quoted]) == key
    if not key.startswith('"'):
        assert idempotency_key([key.encode()]) == idempotency_key([b" " + key.encode() + b"\t"]) == key


@pytest.mark.parametrize(
    "values",
    [
        [b""],
        [b"   "],
        [b'""'],
        [b"a" * 256],
        [b'"' + b"a" * 256 + b'"'],
        [b'"unclosed'],
        [b'"a";b=1'],
        [b'"a", "b"'],
        [b"caf\xc3\xa9"],
        [b"a\x00b"],
        [b"a\tb"],
        [b"a", b"a"],
    ],
)
def test_what_is_no_idempotency_key_is_refused(values: list[bytes]) -> None:
    with pytest.raises(InvalidRequest):
        idempotency_key(values)


def test_no_header_is_no_key() -> None:
    assert idempotency_key([]) is None


@pytest.mark.parametrize("sent", [b"mine-1", b"a.b:c_d-E", b"x" * 128])
def test_a_sane_request_id_is_kept(sent: bytes) -> None:
    assert request_id(sent) == sent.decode()


@pytest.mark.parametrize("sent", [None, b"", b"not sane", b"a\n", b"a\r\nb: c", b"x" * 129, b"\xff", b'"a"'])
def test_any_other_request_id_is_replaced_by_a_new_one(sent: bytes | None) -> None:
    made = {request_id(sent) for _ in range(2)}
    assert len(made) == 2
    assert all(len(ident) == 32 for ident in made)


class Messages:
    """What an ASGI server hands out, and how much of it was taken."""

    def __init__(self, *parts: bytes, disconnects: bool = False) -> None:
        more = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        last = {"type": "http.disconnect"} if disconnects else {"type": "http.request", "body": b""}
        self.left: list[dict[str, Any]] = [*more, last]

    async def receive(self) -> dict[str, Any]:
        return self.left.pop(0)


def read(messages: Messages, *headers: tuple[bytes, bytes]) -> bytes:
    return asyncio.run(read_body(list(headers), messages.receive, MAX_BODY_BYTES))


def test_a_body_in_parts_is_put_together_up_to_the_bound() -> None:
    half = b"x" * (MAX_BODY_BYTES // 2)
    assert read(Messages(half, b"", half)) == half * 2


@pytest.mark.parametrize("length", [str(MAX_BODY_BYTES + 1), "104857600", "9" * 400])
def test_a_body_that_says_it_is_too_large_is_refused_unread(length: str) -> None:
    messages = Messages(b"x")
    with pytest.raises(BodyTooLarge):
        read(messages, (b"content-length", length.encode()))
    assert len(messages.left) == 2


@pytest.mark.parametrize("said", [None, b"1", b"-1", b"many"])
def test_a_body_that_turns_out_too_large_is_refused_before_it_is_read_whole(said: bytes | None) -> None:
    messages = Messages(*[b"x" * 32_768] * 100)
    with pytest.raises(BodyTooLarge):
        read(messages, *([] if said is None else [(b"content-length", said)]))
    assert len(messages.left) == 98


def test_a_caller_that_goes_away_halfway_has_sent_no_request() -> None:
    with pytest.raises(InvalidRequest, match="went away"):
        read(Messages(b"{", disconnects=True))
