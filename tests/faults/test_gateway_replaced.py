"""A newer gateway beside a running older one: no request is refused or reset, and the older one's schema may change."""

import json
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Tenant
from tests.faults.replacing import Callers, Replaceable, ended, newer_version, stopped
from tests.system import ROOT, System, eventually

CATALOG: dict[str, Any] = {
    "default_plan": "free",
    "metrics": {"calls": {}},
    "plans": {"free": {"limits": {"calls": {"limit": 1_000_000_000}}}},
}


@pytest.fixture
def tenant(own_system: System) -> Iterator[Tenant]:
    name = f"tenant-{secrets.token_hex(4)}"
    key = own_system.make_key(name)
    with own_system.client(key) as client:
        assert client.put("/v1/catalog", json=CATALOG).status_code == 200
        yield Tenant(name, key, client)


@pytest.fixture(scope="module")
def own_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("replaced") / "data").start()
    yield running
    running.stop()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def counted(system: System, tenant: Tenant) -> int:
    return int(system.sql("SELECT coalesce(sum(used), 0) FROM balances WHERE tenant = %s", tenant.name)[0][0])


@pytest.mark.parametrize("processes", ["2"])
def test_a_newer_version_takes_over_and_every_request_is_answered(
    own_system: System, tenant: Tenant, tmp_path: Path, processes: str
) -> None:
    code = newer_version(tmp_path / "newer")
    place = Replaceable(own_system, free_port(), gateway_processes=processes)
    with ExitStack() as stack:
        older = place.start("older")
        stack.callback(stopped, older)
        place.ready("older", older)
        with Callers(place.url, tenant.key) as callers:
            eventually(lambda: callers.asked() > 100, "callers ask")
            assert "this version's schema" in place.migrate(code)
            asked = callers.asked()
            eventually(lambda: callers.asked() > asked + 100, "the older one serves on the newer schema")
            newer = place.start("newer", code)
            stack.callback(stopped, newer)
            assert ended(older) == 0
            asked = callers.asked()
            eventually(lambda: callers.asked() > asked + 100, "the newer one serves")
            # And back again: the older version finds all that it reads in the newer schema.
            again = place.start("again")
            stack.callback(stopped, again)
            assert ended(newer) == 0
            asked = callers.asked()
            eventually(lambda: callers.asked() > asked + 100, "the older version serves again")
        print(f"{processes} processes: {dict(callers.outcomes)}")
        assert dict(callers.outcomes) == {"200": callers.asked()}
        own_system.drained()
        assert counted(own_system, tenant) == callers.asked()


def test_one_that_dies_before_it_serves_leaves_the_older_one_serving(
    own_system: System, tenant: Tenant, tmp_path: Path
) -> None:
    place = Replaceable(own_system, free_port())
    with ExitStack() as stack:
        older = place.start("older")
        stack.callback(stopped, older)
        place.ready("older", older)
        with Callers(place.url, tenant.key) as callers:
            newer = place.start("newer")
            eventually(lambda: "taking over" in place.log("newer").read_text(), "it has the socket")
            newer.send_signal(signal.SIGKILL)
            newer.wait(10)
            asked = callers.asked()
            eventually(lambda: callers.asked() > asked + 100, "the older one serves on")
            assert older.poll() is None
            third = place.start("third")
            stack.callback(stopped, third)
            assert ended(older) == 0
        assert dict(callers.outcomes) == {"200": callers.asked()}


def test_a_connection_that_was_kept_open_has_its_next_request_answered(
    own_system: System, tenant: Tenant, tmp_path: Path
) -> None:
    place = Replaceable(own_system, free_port())
    body = json.dumps({"subject": "u", "metric": "calls"}).encode()
    head = f"POST /v1/consume HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.key}\r\ncontent-length: {len(body)}"
    with ExitStack() as stack:
        older = place.start("older")
        stack.callback(stopped, older)
        place.ready("older", older)
        used, fresh = (
            stack.enter_context(socket.create_connection(("127.0.0.1", int(place.url.rpartition(":")[2])), 10))
            for _ in range(2)
        )
        used.sendall(head.encode() + b"\r\n\r\n" + body)
        assert answer_on(used).startswith(b"HTTP/1.1 200")
        os.kill(older.pid, signal.SIGTERM)
        # It accepts no more: from now on it stops.
        eventually(lambda: refuses(place.url), "the older one has stopped listening")
        for kept in (used, fresh):
            kept.sendall(head.encode() + b"\r\n\r\n" + body)
        for kept in (used, fresh):
            answer = answer_on(kept)
            assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer.lower()
            assert kept.recv(1) == b""
        ended(older)


def answer_on(connection: socket.socket) -> bytes:
    """One whole answer: a head, and a body of JSON."""
    answer = b""
    while not answer.endswith(b"}"):
        more = connection.recv(65_536)
        assert more, f"hung up after {answer!r}"
        answer += more
    return answer


def refuses(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_address_that_is_taken_by_another_program_is_refused_in_a_sentence(own_system: System) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = Replaceable(own_system, taken.getsockname()[1])
        refused = place.start("refused", ROOT)
        assert ended(refused) == 2
        assert "cannot listen on 127.0.0.1" in place.log("refused").read_text()


def test_a_gateway_of_another_deployment_is_left_alone(own_system: System, tenant: Tenant) -> None:
    port = free_port()
    place = Replaceable(own_system, port)
    with ExitStack() as stack:
        older = place.start("serving")
        stack.callback(stopped, older)
        place.ready("serving", older)
        other = Replaceable(own_system, port, key_pepper=secrets.token_hex(32))
        refused = other.start("another")
        assert ended(refused) == 2
        assert "has another ledger, Redis or pepper, and is left alone" in other.log("another").read_text()
        assert older.poll() is None
        headers = {"authorization": f"Bearer {tenant.key}"}
        answer = httpx.post(f"{place.url}/v1/consume", json={"subject": "u", "metric": "calls"}, headers=headers)
        assert answer.status_code == 200
