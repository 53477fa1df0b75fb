"""Who may not ask, and what is not there to be asked: a problem document with a 4xx, and nothing changes."""

from base64 import b64encode

import pytest

from tests.acceptance.door import Door, assert_problem

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
    ("POST", "/v1/api_keys", b'{"scopes": ["read"]}', ("admin",)),
    ("GET", "/v1/api_keys", b"", ("read", "admin")),
    ("DELETE", "/v1/api_keys/nobodys", b"", ("admin",)),
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
        ("PUT", "/v1/api_keys"), ("DELETE", "/v1/api_keys"), ("GET", "/v1/api_keys/nobodys"),
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
        assert_problem(door.send("DELETE", f"/v1/api_keys/{segment}"), 400, "INVALID_REQUEST")
