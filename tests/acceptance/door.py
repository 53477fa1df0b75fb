"""A door to knock at: a tenant who has used a little, and what a refusal must look like and leave alone."""

import http.client
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from quota.catalog import parse_toml, to_document
from tests.conftest import Tenant
from tests.system import ROOT, System

PROBLEM_MEMBERS = {"type", "title", "status", "detail", "code", "instance"}


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
            return response_of(connection.getresponse())

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


def response_of(answer: http.client.HTTPResponse) -> httpx.Response:
    return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


@contextmanager
def door_of(system: System) -> Iterator[Door]:
    """After all that was tried at it, the ledger holds the first consume alone, and nobody was told of an incident."""
    incidents = system.sql("SELECT count(*) FROM incidents")
    name = f"tenant-{secrets.token_hex(4)}"
    key = system.make_key(name)
    keys = {scope: system.make_key(name, scope) for scope in ("consume", "read", "admin", "ops")}
    with system.client(key) as client:
        tenant = Tenant(name, key, client)
        catalog = to_document(parse_toml((ROOT / "examples" / "credits.toml").read_text()))
        assert client.put("/v1/catalog", json=catalog).status_code == 200
        tenant.subscribe("u_1", "starter")
        assert tenant.consume("u_1", "credits", 7).status_code == 200
        yield Door(system, tenant, keys)
    system.drained()
    found = system.sql("SELECT subject, metric, kind, amount FROM entries WHERE tenant = %s AND kind = 'consume'", name)
    assert found == [("u_1", "credits", "consume", 7)]
    assert system.sql("SELECT count(*) FROM incidents") == incidents


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
