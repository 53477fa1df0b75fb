"""What comes with a body: idempotency keys in both spellings, request ids, bounded reading."""

import asyncio
from typing import Any

import http_sf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.requests import MAX_BODY_BYTES, checked_key, idempotency_key, read_body, request_id
from quota.errors import BodyTooLarge, InvalidRequest

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

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
        [b"a", b"b"],
        [b"a", b"a", b"A"],
        [b"a", b""],
    ],
)
def test_what_is_no_idempotency_key_is_refused(values: list[bytes]) -> None:
    with pytest.raises(InvalidRequest):
        idempotency_key(values)


@pytest.mark.parametrize("text", ["", '""', "a" * 256, '"open', "é", "a\nb", '"a";b', "\x7f"])
def test_the_key_of_a_batchs_item_is_checked_like_a_headers(text: str) -> None:
    with pytest.raises(InvalidRequest):
        checked_key(text.encode())
    assert checked_key(b'"an item"') == checked_key(b"an item") == "an item"


@pytest.mark.parametrize("other", [b"a b", b'"a b"', b" a b\t"])
def test_a_key_that_is_sent_under_both_names_is_one_key(other: bytes) -> None:
    assert idempotency_key([b"a b", other]) == idempotency_key([other, b"a b"]) == "a b"


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
