"""The edge: which application a request goes to, by its path as it was sent; and names for single tries."""

import asyncio
from typing import Any
from urllib.parse import unquote

import pytest

from gateway.edge import Edge
from gateway.hot import Attempts

TEMPLATES = [
    "/v1/consume",
    "/v1/consume/batch",
    "/v1/release",
    "/v1/reservations",
    "/v1/reservations/{id}/commit",
    "/v1/reservations/{id}/release",
]


class Routed:
    """Notes which application was reached, and what the path named."""

    def __init__(self) -> None:
        self.reached: list[tuple[str, str | None]] = []

    def application(self, name: str) -> Any:
        async def serve(scope: Any, _receive: Any, send: Any) -> None:
            self.reached.append((name, scope.get("hot_name")))
            await send({"type": "http.response.start", "status": 200, "headers": []})

        return serve


def sent(path: str, **more: Any) -> tuple[str, str | None]:
    """Where a request with this path, as it stands in the request line, is served."""
    routed = Routed()
    edge = Edge(routed.application("other"), {template: routed.application(template) for template in TEMPLATES})
    scope: Any = {"type": "http", "path": unquote(path), "raw_path": path.encode(), "method": "POST", "headers": []}
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        raise AssertionError("the edge reads no body")

    asyncio.run(edge(scope | more, receive, send))
    (found,) = routed.reached
    assert len(messages) == 1
    return found


@pytest.mark.parametrize("path", [template for template in TEMPLATES if "{" not in template])
def test_a_path_without_a_name_goes_to_its_own_application(path: str) -> None:
    assert sent(path) == (path, None)


@pytest.mark.parametrize("end", ["commit", "release"])
def test_the_name_of_a_reservation_is_handed_on(end: str) -> None:
    assert sent(f"/v1/reservations/rsv_abc-_9/{end}") == (f"/v1/reservations/{{id}}/{end}", "rsv_abc-_9")
    assert sent(f"/v1/reservations/rsv%5Fabc/{end}") == (f"/v1/reservations/{{id}}/{end}", "rsv_abc")


@pytest.mark.parametrize("name", ["release", "commit", "reservations", "%20", "{id}", ".", "..", "a%0Ab", "%C3%A9"])
def test_an_odd_name_is_a_name_all_the_same(name: str) -> None:
    """Whether there is such a reservation, somebody else says."""
    assert sent(f"/v1/reservations/{name}/commit") == ("/v1/reservations/{id}/commit", unquote(name))


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/reservations/a/b/commit", "/v1/reservations/a%2Fb/commit", "/v1/reservations//commit"),
        *("/v1/reservations/commit", "/v1/reservations/a/commit/", "/v1/reservations/a/commit/more"),
        *("/v1/reservations/a/commits", "/v1/reservations/a/Commit", "/v1/reservations/a/commit%0A"),
        *("/v1/reservations/a/commit%00", "/x/v1/reservations/a/commit", "//v1/reservations/a/commit"),
        *("/v1/reservations/", "/v1/reservations/a", "/v1/consume/", "/v1/consumes", "/v1/Consume", "/v1", "/", ""),
        *("/v1/consume/../release", "/v1/./consume", "/v1/consume;a=b", "/v1/consume%3Fa", "/v1xconsume"),
    ],
)
def test_what_only_looks_like_a_hot_route_is_not_one(path: str) -> None:
    assert sent(path) == ("other", None)


def test_an_encoded_spelling_of_a_hot_route_is_that_route() -> None:
    assert sent("/v1/%63onsume") == ("/v1/consume", None)


def test_other_routes_see_the_path_as_it_was_sent() -> None:
    seen: list[str] = []

    async def other(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["path"])

    scope: Any = {"type": "http", "path": "/v1/subjects/a/b/status", "headers": []}
    for raw in (b"/v1/subjects/a%2Fb/status", b""):
        asyncio.run(Edge(other, {})(scope | {"raw_path": raw}, None, None))  # type: ignore[arg-type]
    assert seen == ["/v1/subjects/a%2Fb/status", "/v1/subjects/a/b/status"]


def test_what_is_no_request_goes_to_the_application() -> None:
    seen: list[str] = []

    async def other(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Edge(other, {})({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_no_two_tries_share_a_name_in_one_process_or_in_two() -> None:
    one, other = Attempts(), Attempts()
    names = [each.next() for _ in range(1000) for each in (one, other)]
    assert len(set(names)) == 2000
    assert all(len(name) < 40 for name in names)
