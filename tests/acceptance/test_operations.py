"""What people on call and machines look at: health, metrics, logs, reconciliation."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Tenant
from tests.system import ROOT, System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
CREDITS = ROOT / "examples" / "credits.toml"
REQUESTS = 200
MAX_CLIENTS = 64


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system with two gateway processes, for whatever would disturb the tests that share the other one."""
    running = System(tmp_path_factory.mktemp("pair"), catalog=CREDITS, gateway_processes="2").start()
    yield running
    assert running.stop() == 0


def _consume(client: httpx.Client, subject: str, amount: int = 1, **headers: str) -> httpx.Response:
    body = {"subject": subject, "metric": "credits", "amount": amount}
    return client.post("/v1/consume", json=body, headers=headers)


def _answered(client: httpx.Client, route: str, status: int) -> int:
    """How many requests `/metrics` says were answered."""
    exposition = client.get("/metrics")
    assert exposition.status_code == 200
    assert exposition.headers["content-type"].startswith("text/plain")
    pattern = rf'^quotagate_requests_total\{{route="{re.escape(route)}",status="{status}"\}} ([0-9.e+]+)$'
    found = re.findall(pattern, exposition.text, re.MULTILINE)
    assert len(found) <= 1, "one line a series, however many processes there are"
    return int(float(found[0])) if found else 0


def _open_on_both(pair: System, stack: ExitStack) -> list[httpx.Client]:
    """Clients that keep their connections, opened until each of the two processes holds one."""
    clients: list[httpx.Client] = []
    port = int(pair.urls["gateway"].rpartition(":")[2])

    def both() -> bool:
        assert len(clients) < MAX_CLIENTS, "all connections go to one process"
        client = stack.enter_context(pair.client())
        client.get("/health/live")
        clients.append(client)
        held = [
            sum(
                each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in process.net_connections()
            )
            for process in pair.parts("quotagate", "gateway", "--fd")
        ]
        assert len(held) == 2
        return min(held) > 0

    eventually(both, "both processes hold a connection")
    return clients


def test_metrics_count_every_request_of_every_process_once(pair: System) -> None:
    with ExitStack() as stack:
        clients = _open_on_both(pair, stack)
        allowed, denied = (_answered(clients[0], "/v1/consume", status) for status in (200, 429))
        checked = _answered(clients[0], "/v1/check", 400)
        for each in range(REQUESTS):
            client = clients[each % len(clients)]
            assert _consume(client, f"counted_{each % 20}").status_code == 200
            assert _consume(client, "counted", 1_000).status_code == 429
            assert client.post("/v1/check", json={}).status_code == 400
        for client in clients:

            def exact(client: httpx.Client = client) -> bool:
                found = [_answered(client, "/v1/consume", status) for status in (200, 429)]
                found.append(_answered(client, "/v1/check", 400))
                wanted = [allowed + REQUESTS, denied + REQUESTS, checked + REQUESTS]
                assert all(map(int.__le__, found, wanted)), f"counted twice: {found}, not {wanted}"
                return found == wanted

            eventually(exact, "every request is counted, whichever process is asked", 5)


def test_metrics_name_routes_by_their_template(pair: System) -> None:
    with pair.client() as client:
        for subject in ("template_1", "template_2"):
            assert client.get(f"/v1/subjects/{subject}/status").status_code == 200
        assert client.get("/no/such/template_3").status_code == 404
        text = client.get("/metrics").text
    assert 'route="/v1/subjects/{subject}/status"' in text
    assert "template_" not in text


def test_a_request_with_a_slash_too_many_is_counted_once_and_has_one_id(pair: System) -> None:
    with pair.client() as client:
        before = {status: _answered(client, "/v1/consume", status) for status in (200, 404)}
        body = {"subject": "slash", "metric": "credits"}
        answer = client.post("/v1/consume/", json=body, headers={"X-Request-Id": "slash-1"})
        assert answer.status_code in before
        assert answer.headers.get_list("x-request-id") == ["slash-1"]
        counted = _answered(client, "/v1/consume", answer.status_code) - before[answer.status_code]
        assert counted == (1 if answer.status_code == 200 else 0)


@pytest.mark.parametrize("path", ["/v1/catalog", "/v1/subjects/u_1/status", "/health/live", "/nothing"])
def test_whoever_asks_for_the_options_of_a_route_gets_no_server_error(system: System, path: str) -> None:
    answer = httpx.options(f"{system.urls['gateway']}{path}")
    assert answer.status_code in {204, 401, 404, 405}


def test_health_needs_no_key(system: System) -> None:
    live = httpx.get(f"{system.urls['gateway']}/health/live")
    assert (live.status_code, live.json()) == (200, {"status": "live"})
    ready = httpx.get(f"{system.urls['gateway']}/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["parts"] == {"counters": "ok", "ledger": "ok"}


@contextmanager
def _paused(pair: System, word: str) -> Iterator[None]:
    processes = pair.parts(word)
    assert processes
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
        url = f"{pair.urls['gateway']}/health/ready"
        eventually(lambda: httpx.get(url, timeout=10).status_code == 200, "ready again")


@pytest.mark.parametrize(
    ("word", "part", "other"), [("valkey", "counters", "ledger"), ("postgres", "ledger", "counters")]
)
def test_ready_says_which_part_does_not_answer(pair: System, word: str, part: str, other: str) -> None:
    url = pair.urls["gateway"]
    with _paused(pair, word):
        answer = httpx.get(f"{url}/health/ready", timeout=5)
        assert httpx.get(f"{url}/health/live", timeout=10).status_code == 200
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
    assert answer.json()["parts"][other] == "ok"
    assert answer.json()["parts"][part] != "ok"


def test_a_request_that_fails_is_in_the_logs_with_its_id_and_every_line_is_one_object(pair: System) -> None:
    with pair.client() as client, _paused(pair, "valkey"):
        failed = _consume(client, "failing", **{"X-Request-Id": "failing-1"})
    assert (failed.status_code, failed.json()["code"]) == (503, "COUNTERS_UNAVAILABLE")
    assert failed.headers["content-type"] == "application/problem+json"
    assert failed.headers["x-request-id"] == "failing-1"
    assert int(failed.headers["retry-after"]) > 0

    def lines() -> list[dict[str, Any]]:
        logs = [
            log for log in (pair.data / "logs").iterdir() if log.name.startswith(("gateway", "worker", "scheduler"))
        ]
        assert len(logs) == 5
        found = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        assert all(isinstance(line, dict) for line in found)
        return [line for line in found if line.get("request_id") == "failing-1"]

    line = eventually(lines, "the failing request is in a log")[0]
    assert line.keys() >= {"event", "level", "at"}
    assert line["level"] in {"warning", "error"}


def _account_key(system: System, subject: str) -> bytes:
    keys = list(system.redis().scan_iter(match=f"qg:{{*}}:a:*:{subject}:credits", count=10_000))
    assert len(keys) == 1
    return bytes(keys[0])


@contextmanager
def _tampered(system: System, subject: str, by: int) -> Iterator[None]:
    key = _account_key(system, subject)
    state = system.redis().hget(key, "state") or b""
    used, entry = state.decode().split(" ")
    system.redis().hset(key, "state", f"{int(used) + by} {entry}")
    try:
        yield
    finally:
        system.redis().hset(key, "state", state)


@dataclass(frozen=True)
class Drift:
    """What is told of a counter of 3 that was made 10: by the command in two forms, and over HTTP to two tenants."""

    clean: CompletedProcess[str]
    told: CompletedProcess[str]
    as_json: CompletedProcess[str]
    shown: httpx.Response
    shown_to_a_stranger: httpx.Response


@pytest.fixture(scope="module")
def drift(pair: System) -> Drift:
    folder = ("--data", str(pair.data))
    with pair.client() as client, pair.client(pair.make_key("stranger")) as stranger:
        assert _consume(client, "tampered_1", 3).status_code == 200
        clean = pair.command("reconcile", *folder, check=False)
        with _tampered(pair, "tampered_1", 7):
            told = pair.command("reconcile", "--no-correct", *folder, check=False)
            as_json = pair.command("reconcile", "--no-correct", "--json", *folder, check=False)
            path = "/v1/ops/reconciliation"
            return Drift(clean, told, as_json, client.get(path), stranger.get(path))


def test_reconcile_ends_with_0_while_nothing_differs(drift: Drift) -> None:
    assert drift.clean.returncode == 0, drift.clean.stdout + drift.clean.stderr
    assert " 0 drifted" in drift.clean.stdout
    assert "tampered_1" not in drift.clean.stdout


def test_reconcile_ends_with_1_and_a_line_on_a_counter_that_was_tampered_with(drift: Drift) -> None:
    assert drift.told.returncode == 1
    lines = [line for line in drift.told.stdout.splitlines() if "tampered_1" in line]
    assert any(re.search(r"\bdefault tampered_1 credits\b.*\b10\b.*\b3\b", line) for line in lines), lines
    assert len(lines) == 1, "it is told once, for people; logs belong on standard error"
    assert " 1 drifted" in drift.told.stdout
    assert "Traceback" not in drift.told.stderr


def test_reconcile_prints_one_json_document_if_asked_to(drift: Drift) -> None:
    assert drift.as_json.returncode == 1
    assert json.loads(drift.as_json.stdout)["drifted"] == 1


def test_drift_is_shown_over_http_without_the_names_of_another_tenants_subjects(drift: Drift) -> None:
    assert (drift.shown.status_code, drift.shown.json()["drifted"]) == (200, 1)
    assert (drift.shown_to_a_stranger.status_code, drift.shown_to_a_stranger.json()["drifted"]) == (200, 1)
    assert "tampered_1" not in drift.shown_to_a_stranger.text


def test_the_last_reconciliation_is_shown_over_http(system: System, make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    tenant.consume("u_1", "credits", 2)
    report = system.reconciled()
    answer = tenant.client.get("/v1/ops/reconciliation")
    assert answer.status_code == 200
    shown = answer.json()
    assert shown.keys() >= {
        "run_id", "started_at", "finished_at", "accounts", "drifted", "corrected", "undrained_entries", "lag_ms",
        "incidents", "missing", "refusal",
    }  # fmt: skip
    assert shown["run_id"] >= report["run_id"]  # the worker reconciles as well
    assert (shown["drifted"], shown["corrected"], shown["incidents"]) == (0, 0, 0)
    assert shown["accounts"] >= 1
    assert shown["started_at"].endswith("Z")
    assert shown["started_at"] <= shown["finished_at"]
