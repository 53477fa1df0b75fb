"""A body that is larger than its route takes is refused before it is read, and changes nothing."""

import http.client
import socket

import pytest

from tests.acceptance.door import Door, assert_problem, response_of

HUGE_BODY_BYTES = 100 * 1024 * 1024
READ_AT_MOST_BYTES = 16 * 1024 * 1024
"""The limit of the largest route, and what the buffers of two sockets may take on top of it."""
SIZE_LIMITED = [
    ("POST", "/v1/consume"),
    ("POST", "/v1/check"),
    ("PUT", "/v1/subjects/u_1/subscription"),
    ("PUT", "/v1/catalog"),
]


@pytest.mark.parametrize(("method", "path"), SIZE_LIMITED)
def test_a_body_of_100_mb_is_refused_by_its_announced_length_alone(door: Door, method: str, path: str) -> None:
    with door.unchanged(), door.connected() as connection:
        connection.putrequest(method, path)
        connection.putheader("authorization", f"Bearer {door.tenant.key}")
        connection.putheader("content-length", str(HUGE_BODY_BYTES))
        connection.endheaders()
        assert_problem(response_of(connection.getresponse()), 413, "BODY_TOO_LARGE")


@pytest.mark.parametrize(("method", "path"), SIZE_LIMITED)
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with a length"])
def test_a_body_of_100_mb_is_refused_before_it_is_read_whole(door: Door, method: str, path: str, chunked: bool) -> None:
    length = "transfer-encoding: chunked" if chunked else f"content-length: {HUGE_BODY_BYTES}"
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {door.tenant.key}\r\n{length}\r\n\r\n"
    part = b" " * 65_536
    framed = b"10000\r\n" + part + b"\r\n" if chunked else part
    with door.unchanged(), door.connected() as connection:
        connection.connect()
        connection.sock.sendall(head.encode())
        sent = _pour(connection.sock, framed, HUGE_BODY_BYTES // len(part))
        assert sent < READ_AT_MOST_BYTES
        answer = http.client.HTTPResponse(connection.sock, method=method)
        answer.begin()
        assert_problem(response_of(answer), 413, "BODY_TOO_LARGE")


def _pour(sock: socket.socket, part: bytes, times: int) -> int:
    """Sends the part again and again until an answer is there; how many bytes went out."""
    sent = 0
    for _ in range(times):
        sock.setblocking(False)
        try:
            if sock.recv(1, socket.MSG_PEEK):
                break
        except BlockingIOError:
            pass
        finally:
            sock.settimeout(10)
        try:
            sock.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            break
        sent += len(part)
    return sent


def test_a_body_just_over_its_limit_is_refused_and_one_just_below_it_is_read(door: Door) -> None:
    body = b'{"subject": "u_1", "metric": "credits"}'
    with door.unchanged():
        assert_problem(door.send("POST", "/v1/consume", body.ljust(64 * 1024 + 1)), 413, "BODY_TOO_LARGE")
        assert door.send("POST", "/v1/check", body.ljust(64 * 1024)).status_code == 200
        assert_problem(door.send("PUT", "/v1/catalog", b"{}".ljust(8 * 1024 * 1024 + 1)), 413, "BODY_TOO_LARGE")
        assert_problem(door.send("PUT", "/v1/catalog", b"[" * 8 * 1024 * 1024), 400, "INVALID_CATALOG")
