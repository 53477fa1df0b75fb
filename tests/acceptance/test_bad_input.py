"""What cannot be understood or is not allowed gets a problem document with a 4xx, and changes nothing."""

import http.client
import json
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from quota.catalog import parse_toml, to_document
from tests.conftest import Tenant
from tests.system import ROOT, System

PROBLEM_MEMBERS = {"type", "title", "status", "detail", "code", "instance"}
HUGE_BODY_BYTES = 100 * 1024 * 1024
READ_AT_MOST_BYTES = 16 * 1024 * 1024
"""The limit of the largest route, and what the buffers of two sockets may take on top of it."""
DEEP = 100_000
LONG_DIGITS = "1" + "0" * 400


@dataclass(frozen=True)
class Door:
    """A tenant with one subject that has used 7 credits, keys with single scopes, and a look behind the door."""

    system: System
    tenant: Tenant
    keys: dict[str, str]

    def send(self, method: str, path: str, body: bytes = b"", headers: Any = None) -> httpx.Response:
        """A request whose path goes out as it is. `headers` in place of the key's."""
        key = (("authorization", f"Bearer {self.tenant.key}"),)
        with self.connected() as connection:
            connection.putrequest(method, path)
            for name, value in key if headers is None else headers:
                connection.putheader(name, value)
            if method in {"POST", "PUT", "PATCH"}:
                connection.putheader("content-length", str(len(body)))
            with suppress(ConnectionError):  # it may answer, and hang up, before it has read all
                connection.endheaders(body)
            return _response(connection.getresponse())

    @contextmanager
    def connected(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(urlsplit(self.system.urls["gateway"]).netloc, timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    def state(self) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """The last entry of every journal, and what the tenant's accounts have used."""
        redis = self.system.redis()
        journals = list(redis.scan_iter(match="qg:{*}:j", count=10_000))
        accounts = list(redis.scan_iter(match=f"qg:{{*}}:a:{self.tenant.name}:*", count=10_000))
        pipe = redis.pipeline(transaction=False)
        for name in journals:
            pipe.xinfo_stream(name)
        last = dict(zip(journals, (each["last-generated-id"] for each in pipe.execute()), strict=True))
        used = {name: (redis.hget(name, "state") or b"0").split(b" ")[0] for name in accounts}
        return last, {name: each for name, each in used.items() if each != b"0"}

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        before = self.state()
        yield
        assert self.state() == before


def _response(answer: http.client.HTTPResponse) -> httpx.Response:
    return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


@pytest.fixture(scope="module")
def door(system: System) -> Iterator[Door]:
    name = "tenant-bad-input"
    key = system.make_key(name)
    keys = {scope: system.make_key(name, scope) for scope in ("consume", "read", "admin", "ops")}
    with system.client(key) as client:
        tenant = Tenant(name, key, client)
        catalog = to_document(parse_toml((ROOT / "examples" / "credits.toml").read_text()))
        assert client.put("/v1/catalog", json=catalog).status_code == 200
        tenant.subscribe("u_1", "starter")
        assert tenant.consume("u_1", "credits", 7).status_code == 200
        yield Door(system, tenant, keys)


def assert_problem(answer: httpx.Response, status: int | None = None, code: str | None = None) -> dict[str, Any]:
    """A problem document of RFC 9457 with a 4xx, or with the very status and code that are named."""
    assert 400 <= answer.status_code < 500, f"{answer.status_code} {answer.text[:300]}"
    assert answer.headers["content-type"] == "application/problem+json"
    body = dict(answer.json())
    assert body.keys() >= PROBLEM_MEMBERS
    assert body["status"] == answer.status_code
    assert body["detail"]
    assert answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    assert status is None or answer.status_code == status, answer.text[:300]
    assert code is None or body["code"] == code
    return body


BAD_AMOUNTS = [
    "-1", "1.5", "1.0", "1e3", "1e400", "NaN", "Infinity", '"5"', "true", "null", "[1]", "{}", "01", "0x5", "",
    str(2**53), str(2**64), str(-(2**63)), LONG_DIGITS,
]  # fmt: skip


@pytest.mark.parametrize("route", ["/v1/consume", "/v1/check"])
@pytest.mark.parametrize("amount", BAD_AMOUNTS, ids=lambda text: text[:24] or "nothing")
def test_an_amount_that_is_no_integer_from_0_to_2_to_the_53_is_refused(door: Door, route: str, amount: str) -> None:
    bodies = (
        f'{{"subject": "u_1", "metric": "credits", "amount": {amount}}}',
        f'{{"subject": "u_1", "operation": "create_reel", "quantity": {amount}}}',
    )
    with door.unchanged():
        for body in bodies:
            assert_problem(door.send("POST", route, body.encode()), 400, "INVALID_REQUEST")


def test_the_largest_amount_is_understood_and_one_that_multiplies_beyond_it_is_not(door: Door) -> None:
    assert door.tenant.consume("u_1", "credits", 2**53 - 1).status_code == 429
    with door.unchanged():
        assert_problem(door.tenant.operate("u_1", "create_reel", 2**53 - 1), 400, "INVALID_REQUEST")


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no object": b"[]",
    "a string": b'"u_1"',
    "null": b"null",
    "no subject": b'{"metric": "credits"}',
    "neither metric nor operation": b'{"subject": "u_1"}',
    "both metric and operation": b'{"subject": "u_1", "metric": "credits", "operation": "publish"}',
    "amount with operation": b'{"subject": "u_1", "operation": "publish", "amount": 1}',
    "quantity with metric": b'{"subject": "u_1", "metric": "credits", "quantity": 1}',
    "an unknown field": b'{"subject": "u_1", "metric": "credits", "ammount": 2}',
    "a tenant": b'{"subject": "u_1", "metric": "credits", "tenant": "default"}',
    "a null metric": b'{"subject": "u_1", "metric": null, "operation": "publish"}',
    "a subject that is a number": b'{"subject": 1, "metric": "credits"}',
    "cut off": b'{"subject": "u_1", "metric": "cred',
    "broken UTF-8": b'{"subject": "u_1", "metric": "cr\xffdits"}',
    "broken UTF-8 in metadata": b'{"subject": "u_1", "metric": "credits", "metadata": {"a": "\xc3\x28"}}',
    "a surrogate in UTF-8": b'{"subject": "u_1", "metric": "credits", "metadata": {"a": "\xed\xa0\x80"}}',
    "UTF-16": '{"subject": "u_1", "metric": "credits"}'.encode("utf-16"),
    "deep": b"[" * DEEP,
    "deep, within the size": b"[" * 60_000,
    "deep metadata": b'{"subject": "u_1", "metric": "credits", "metadata": {"a": ' + b"[" * 60_000,
    "deep objects": b'{"a":' * 12_000,
    "an unknown field, deep": b'{"subject": "u_1", "metric": "credits", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
}  # fmt: skip
BAD_IDENTIFIERS = {
    "empty": "", "201 characters": "u" * 201, "10 kB": "u" * 10_240, "braces": "{u_1}", "a brace": "u}",
    "CR LF": "u\\r\\nx", "a trailing line feed": "u_1\\n", "NUL": "u\\u0000x", "a trailing NUL": "u_1\\u0000",
    "a lone surrogate": "\\ud800", "a lone low surrogate": "u\\udfff", "a surrogate pair": "\\ud83d\\ude00",
    "a space": "u 1", "an accent": "ü", "a percent sign": "u%2F1", "a star": "u*",
}  # fmt: skip
BAD_METADATA = {
    "17 entries": json.dumps({f"k{each}": each for each in range(17)}),
    "over 2 KiB": json.dumps({"k": "x" * 2_048}),
    "over 2 KiB of key": json.dumps({"k" * 2_048: 1}),
    "a nested object": '{"a": {"b": 1}}',
    "a list": '{"a": [1]}',
    "true": '{"a": true}',
    "null inside": '{"a": null}',
    "null": "null",
    "no object": '"a"',
    "NUL in a value": '{"a": "x\\u0000"}',
    "NUL in a key": '{"\\u0000": 1}',
    "a lone surrogate": '{"a": "\\ud800"}',
    "a lone low surrogate in a key": '{"\\udc00": 1}',
    "NaN": '{"a": NaN}',
    "1e400": '{"a": 1e400}',
    "10^400": f'{{"a": {LONG_DIGITS}}}',
}


@pytest.mark.parametrize("route", ["/v1/consume", "/v1/check"])
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_body_that_is_not_what_the_route_takes_is_refused(door: Door, route: str, body: bytes) -> None:
    with door.unchanged():
        assert_problem(door.send("POST", route, body))


@pytest.mark.parametrize("name", BAD_IDENTIFIERS.values(), ids=BAD_IDENTIFIERS)
def test_an_identifier_with_a_character_or_a_length_that_no_identifier_has_is_refused(door: Door, name: str) -> None:
    bodies = (
        f'{{"subject": "{name}", "metric": "credits"}}',
        f'{{"subject": "u_1", "metric": "{name}"}}',
        f'{{"subject": "u_1", "operation": "{name}"}}',
    )
    with door.unchanged():
        for body in bodies:
            for route in ("/v1/consume", "/v1/check"):
                assert_problem(door.send("POST", route, body.encode()), 400, "INVALID_REQUEST")
        assert_problem(door.send("PUT", "/v1/subjects/u_1/subscription", f'{{"plan": "{name}"}}'.encode()))


@pytest.mark.parametrize("metadata", BAD_METADATA.values(), ids=BAD_METADATA)
def test_metadata_that_the_ledger_could_not_keep_is_refused(door: Door, metadata: str) -> None:
    body = f'{{"subject": "u_1", "metric": "credits", "metadata": {metadata}}}'
    with door.unchanged():
        assert_problem(door.send("POST", "/v1/consume", body.encode()), 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"subject": "u_1", "metric": "nothing"}', "UNKNOWN_METRIC"),
        (b'{"subject": "u_1", "operation": "nothing"}', "UNKNOWN_OPERATION"),
        (b'{"subject": "u_1", "metric": "create_reel"}', "UNKNOWN_METRIC"),
    ],
)
def test_what_the_catalog_does_not_know_is_not_found(door: Door, body: bytes, code: str) -> None:
    with door.unchanged():
        for route in ("/v1/consume", "/v1/check"):
            assert_problem(door.send("POST", route, body), 404, code)


@pytest.mark.parametrize(
    "value",
    [
        b"", b'""', b"x" * 256, b'"' + b"x" * 256 + b'"', b"caf\xc3\xa9", b"caf\xe9", b"a\tb", b"a\x01b", b"a\x7fb",
        b'"open', b'"a" b', b'"a";p=1', b'"a", "b"', b'"a\\b"', b'"a\tb"', b'"caf\xc3\xa9"',
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Idempotency-Key"])
def test_an_idempotency_key_that_is_none_is_refused(door: Door, name: str, value: bytes) -> None:
    headers = [("authorization", f"Bearer {door.tenant.key}"), (name, value)]
    with door.unchanged():
        answer = door.send("POST", "/v1/consume", b'{"subject": "u_1", "metric": "credits"}', headers)
        assert_problem(answer, 400, "INVALID_REQUEST")


def test_two_idempotency_keys_are_one_too_many(door: Door) -> None:
    authorization = ("authorization", f"Bearer {door.tenant.key}")
    body = b'{"subject": "u_1", "metric": "credits"}'
    with door.unchanged():
        for second in ("Idempotency-Key", "X-Idempotency-Key"):
            headers = [authorization, ("Idempotency-Key", "a"), (second, "b")]
            assert_problem(door.send("POST", "/v1/consume", body, headers), 400, "INVALID_REQUEST")


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
        assert_problem(_response(connection.getresponse()), 413, "BODY_TOO_LARGE")


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
        assert_problem(_response(answer), 413, "BODY_TOO_LARGE")


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


ROUTES = [
    ("POST", "/v1/consume", b'{"subject": "u_1", "metric": "credits"}', ("consume",)),
    ("POST", "/v1/check", b'{"subject": "u_1", "metric": "credits"}', ("consume",)),
    ("GET", "/v1/subjects/u_1/status", b"", ("read",)),
    ("GET", "/v1/catalog", b"", ("read", "admin")),
    ("PUT", "/v1/catalog", b"{}", ("admin",)),
    ("GET", "/v1/plans", b"", ("read", "admin")),
    ("GET", "/v1/plans/free", b"", ("read", "admin")),
    ("GET", "/v1/subjects/u_1/subscription", b"", ("read", "admin")),
    ("PUT", "/v1/subjects/u_1/subscription", b'{"plan": "free"}', ("admin",)),
    ("GET", "/v1/ops/reconciliation", b"", ("ops",)),
]
ROUTE_NAMES = [f"{method} {path}" for method, path, _, _ in ROUTES]


@pytest.mark.parametrize(("method", "path", "body", "scopes"), ROUTES, ids=ROUTE_NAMES)
def test_a_request_without_one_good_key_is_not_served(
    door: Door, method: str, path: str, body: bytes, scopes: tuple[str, ...]
) -> None:
    good = f"Bearer {door.tenant.key}"
    wrong = [
        [],
        [good[:-1] + ("A" if good[-1] != "A" else "B")],
        ["Bearer qg_0123456789ab_" + "x" * 43],
        ["Bearer wrong-but-long-enough"],
        ["Bearer " + "x" * 5_000],
        ["Bearer caf\u00e9-caf\u00e9"],
        ["Bearer"],
        ["Bearer "],
        [door.tenant.key],
        ["Basic " + b64encode(f"{door.tenant.key}:".encode()).decode()],
        [f"Bearer {door.tenant.key},{door.tenant.key}"],
        [good, good],
        [good, "Bearer wrong-but-long-enough"],
    ]
    with door.unchanged():
        for values in wrong:
            answer = door.send(method, path, body, [("authorization", value) for value in values])
            assert_problem(answer, 401, "UNAUTHENTICATED")
            assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path", "body", "scopes"), ROUTES, ids=ROUTE_NAMES)
def test_a_key_without_the_scope_is_forbidden(
    door: Door, method: str, path: str, body: bytes, scopes: tuple[str, ...]
) -> None:
    with door.unchanged():
        for scope in door.keys.keys() - set(scopes):
            answer = door.send(method, path, body, [("authorization", f"Bearer {door.keys[scope]}")])
            assert answer.status_code == 403, f"a key for {scope} alone got {answer.status_code}"
            assert_problem(answer, 403, "FORBIDDEN")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/consume"), ("PUT", "/v1/consume"), ("DELETE", "/v1/consume"), ("PATCH", "/v1/check"),
        ("GET", "/v1/check"), ("POST", "/v1/catalog"), ("DELETE", "/v1/catalog"), ("POST", "/v1/plans"),
        ("DELETE", "/v1/plans/free"), ("POST", "/v1/subjects/u_1/status"), ("DELETE", "/v1/subjects/u_1/subscription"),
        ("POST", "/v1/subjects/u_1/subscription"), ("PUT", "/v1/ops/reconciliation"), ("POST", "/health/live"),
        ("POST", "/health/ready"), ("DELETE", "/metrics"),
    ],
)  # fmt: skip
def test_a_method_that_the_route_does_not_take_is_refused_with_those_that_it_does(
    door: Door, method: str, path: str
) -> None:
    with door.unchanged():
        answer = door.send(method, path, b"{}" if method in {"POST", "PUT", "PATCH"} else b"")
    assert_problem(answer, 405, "METHOD_NOT_ALLOWED")
    assert method not in answer.headers["allow"]  # RFC 9110, section 15.5.6: it must be there


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1", "/v2/consume", "/v1/consume/more", "/v1/nothing", "/v1/subjects", "/v1/subjects/u_1",
        "/v1/subjects/u_1/nothing", "/v1/subjects/a/b/status", "/v1/subjects//status", "/v1/plans/nothing", "/health",
        "/v1/../v1/catalog", "/V1/catalog", "/docs", "/schema/nothing", "/%00", "/%ff",
    ],
)  # fmt: skip
def test_a_route_that_is_not_there_is_not_found(door: Door, path: str) -> None:
    assert_problem(door.send("GET", path), 404)


BAD_SEGMENTS = {
    "NUL": "u%00", "NUL alone": "%00", "broken UTF-8": "u%ff", "an overlong slash": "%c0%af", "a lone percent": "u%",
    "no hexadecimal": "u%zz", "encoded twice": "a%252Fb", "CR LF": "u%0d%0ax", "a trailing line feed": "u_1%0a",
    "braces": "%7Bu%7D", "a space": "u%201", "an accent": "%c3%bc", "a surrogate": "%ed%a0%80",
    "201 characters": "u" * 201, "10 kB": "u" * 10_240,
}  # fmt: skip


@pytest.mark.parametrize("segment", BAD_SEGMENTS.values(), ids=BAD_SEGMENTS)
def test_a_subject_in_a_path_is_held_to_the_same_rules(door: Door, segment: str) -> None:
    with door.unchanged():
        assert_problem(door.send("GET", f"/v1/subjects/{segment}/status"), 400, "INVALID_REQUEST")
        assert_problem(door.send("GET", f"/v1/subjects/{segment}/subscription"), 400, "INVALID_REQUEST")
        answer = door.send("PUT", f"/v1/subjects/{segment}/subscription", b'{"plan": "free"}')
        assert_problem(answer, 400, "INVALID_REQUEST")
        assert_problem(door.send("GET", f"/v1/plans/{segment}"), 400, "INVALID_REQUEST")


BAD_SUBSCRIPTIONS: dict[str, tuple[str, int]] = {
    "nothing": ("", 400),
    "no object": ("[]", 400),
    "no plan": ('{"status": "active"}', 400),
    "a null plan": ('{"plan": null}', 400),
    "a plan that is a number": ('{"plan": 1}', 400),
    "an unknown plan": ('{"plan": "nothing"}', 404),
    "an unknown status": ('{"plan": "pro", "status": "alive"}', 400),
    "an unknown effective": ('{"plan": "pro", "effective": "later"}', 400),
    "an unknown field": ('{"plan": "pro", "anchr": null}', 400),
    "an anchor in words": ('{"plan": "pro", "anchor": "yesterday"}', 400),
    "an empty anchor": ('{"plan": "pro", "anchor": ""}', 400),
    "an anchor that is a number": ('{"plan": "pro", "anchor": 1767225600}', 400),
    "an anchor without a time": ('{"plan": "pro", "anchor": "2026-11-01"}', 400),
    "an anchor without a zone": ('{"plan": "pro", "anchor": "2026-11-01T00:00:00"}', 400),
    "an anchor on no day": ('{"plan": "pro", "anchor": "2026-02-30T00:00:00Z"}', 400),
    "an anchor before all years": ('{"plan": "pro", "anchor": "0000-01-01T00:00:00Z"}', 400),
    "an anchor with a line feed": ('{"plan": "pro", "anchor": "2026-11-01T00:00:00Z\\n"}', 400),
    "an unknown add-on": ('{"plan": "pro", "add_ons": {"nothing": 1}}', 400),
    "an add-on with a line feed": ('{"plan": "pro", "add_ons": {"credits_100\\n": 1}}', 400),
    "a negative add-on": ('{"plan": "pro", "add_ons": {"credits_100": -1}}', 400),
    "half an add-on": ('{"plan": "pro", "add_ons": {"credits_100": 1.5}}', 400),
    "an add-on times a string": ('{"plan": "pro", "add_ons": {"credits_100": "2"}}', 400),
    "an add-on times true": ('{"plan": "pro", "add_ons": {"credits_100": true}}', 400),
    "an add-on times 2^53": (f'{{"plan": "pro", "add_ons": {{"credits_100": {2**53}}}}}', 400),
    "add-ons in a list": ('{"plan": "pro", "add_ons": ["credits_100"]}', 400),
    "broken UTF-8": ('{"plan": "pr\udcff"}', 400),
    "deep": ('{"plan": ' + "[" * 60_000, 400),
}


@pytest.mark.parametrize(("body", "status"), BAD_SUBSCRIPTIONS.values(), ids=BAD_SUBSCRIPTIONS)
def test_a_subscription_that_makes_no_sense_changes_nothing(door: Door, body: str, status: int) -> None:
    path = "/v1/subjects/u_1/subscription"
    before = door.send("GET", path).json()
    with door.unchanged():
        assert_problem(door.send("PUT", path, body.encode(errors="surrogateescape")), status)
    assert door.send("GET", path).json() == before


BAD_CATALOGS = {
    "nothing": "",
    "no object": "[]",
    "null": "null",
    "TOML": 'default_plan = "free"',
    "broken UTF-8": '{"upgrade_url": "https://example.com/\udcff"}',
    "an unknown field": '{"metrics": {}, "plan": {}}',
    "an unknown field of a metric": '{"metrics": {"m": {"units": "x"}}}',
    "an unknown metric": '{"plans": {"free": {"limits": {"m": {"limit": 1}}}}}',
    "an unknown default plan": '{"default_plan": "free"}',
    "an unknown period": '{"metrics": {"m": {}}, "plans": {"free": {"limits": {"m": {"limit": 1, "period": "hour"}}}}}',
    "a limit in a string": '{"metrics": {"m": {}}, "plans": {"free": {"limits": {"m": {"limit": "5"}}}}}',
    "a negative limit": '{"metrics": {"m": {}}, "plans": {"free": {"limits": {"m": {"limit": -1}}}}}',
    "half a limit": '{"metrics": {"m": {}}, "plans": {"free": {"limits": {"m": {"limit": 1.5}}}}}',
    "a limit of 2^53": f'{{"metrics":{{"m":{{}}}},"plans":{{"p":{{"limits":{{"m":{{"limit":{2**53}}}}}}}}}}}',
    "a limit of 10^400": f'{{"metrics":{{"m":{{}}}},"plans":{{"p":{{"limits":{{"m":{{"limit":{LONG_DIGITS}}}}}}}}}}}',
    "a limit that is no number": '{"metrics": {"m": {}}, "plans": {"free": {"limits": {"m": {"limit": NaN}}}}}',
    "an operation that costs nothing of a metric": '{"metrics": {"m": {}}, "operations": {"o": {"charges": {"m": 0}}}}',
    "a name with a brace": '{"metrics": {"m}": {}}}',
    "a name with a line feed": '{"metrics": {"m\\n": {}}}',
    "an empty name": '{"plans": {"": {}}}',
    "a NUL": '{"metrics": {"m": {"unit": "\\u0000"}}}',
    "a lone surrogate": '{"metrics": {"m": {"unit": "\\ud800"}}}',
    "deep": "[" * DEEP,
}


@pytest.mark.parametrize("body", BAD_CATALOGS.values(), ids=BAD_CATALOGS)
def test_a_catalog_that_contradicts_itself_changes_nothing(door: Door, body: str) -> None:
    before = door.send("GET", "/v1/catalog").json()
    with door.unchanged():
        answer = door.send("PUT", "/v1/catalog", body.encode(errors="surrogateescape"))
        assert_problem(answer, 400, "INVALID_CATALOG")
        assert_problem(door.send("PUT", "/v1/catalog?dry_run=perhaps", b"{}"), 400)
    assert door.send("GET", "/v1/catalog").json() == before


def test_after_all_of_it_the_ledger_holds_the_first_consume_alone(door: Door) -> None:
    door.system.drained()
    found = door.system.sql(
        "SELECT subject, metric, kind, amount FROM entries WHERE tenant = %s AND kind = 'consume'", door.tenant.name
    )
    assert found == [("u_1", "credits", "consume", 7)]
    assert door.system.sql("SELECT count(*) FROM incidents") == [(0,)]
