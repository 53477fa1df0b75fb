"""What people on call and machines look at: health, metrics, reconciliation, commands, logs, the OpenAPI document."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import psutil
import pytest
from jsonschema import Draft202012Validator

from tests.conftest import Tenant
from tests.system import ROOT, System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
CREDITS = ROOT / "examples" / "credits.toml"
REQUESTS = 200
MAX_CLIENTS = 64
ROUTES = {
    "/v1/consume": {"post"},
    "/v1/check": {"post"},
    "/v1/subjects/{subject}/status": {"get"},
    "/v1/subjects/{subject}/subscription": {"get", "put"},
    "/v1/catalog": {"get", "put"},
    "/v1/plans": {"get"},
    "/v1/plans/{plan}": {"get"},
    "/v1/ops/reconciliation": {"get"},
    "/health/live": {"get"},
    "/health/ready": {"get"},
    "/metrics": {"get"},
}
PUBLIC = {"/health/live", "/health/ready", "/metrics"}


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
        "incidents",
    }  # fmt: skip
    assert shown["run_id"] >= report["run_id"]  # the worker reconciles as well
    assert (shown["drifted"], shown["corrected"], shown["incidents"]) == (0, 0, 0)
    assert shown["accounts"] >= 1
    assert shown["started_at"].endswith("Z")
    assert shown["started_at"] <= shown["finished_at"]


def test_doctor_finds_nothing_in_a_healthy_system_and_says_what_is_unsafe_in_another(system: System) -> None:
    folder = ("--data", str(system.data))
    healthy = system.command("doctor", *folder, check=False)
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    wanting_more = System(system.data, durability="always")
    unsafe = wanting_more.command("doctor", *folder, check=False)
    assert unsafe.returncode == 1
    assert "appendfsync" in unsafe.stdout
    assert len(unsafe.stdout.splitlines()) == 1


def test_doctor_tells_of_what_an_outage_has_left_undone(system: System) -> None:
    folder = ("--data", str(system.data))
    # Of an account that no catalog knows, and whose time has not come.
    system.sql(
        "INSERT INTO lost_replies (id, tenant, document, until_ms, noted_at) "
        "VALUES (gen_random_uuid(), 'nobody', '{}', 9007199254740991, now() - interval '1 hour')"
    )
    system.sql(
        "INSERT INTO outage_charges (id, tenant, subject, document, settled_at, refusal) "
        "VALUES (gen_random_uuid(), 'nobody', 'u', '{}', now(), 'the catalog has no metric x')"
    )
    try:
        told = system.command("doctor", *folder, check=False)
        assert told.returncode == 1
        late, refused = told.stdout.splitlines()
        assert re.search(r"1 lost replies .* has waited for 36\d\d s", late)
        assert "can never be charged" in refused
        eventually(lambda: 'quotagate_left_to_do{what="lost_replies"} 1.0' in _metrics(system), "metrics tell of it")
    finally:
        system.sql("DELETE FROM lost_replies WHERE tenant = 'nobody'")
        system.sql("DELETE FROM outage_charges WHERE tenant = 'nobody'")


def _metrics(system: System) -> str:
    return httpx.get(f"{system.urls['gateway']}/metrics").text


def test_a_key_that_the_command_made_has_the_scopes_that_were_named_and_no_other(system: System) -> None:
    words = ("key", "create", "--tenant", "by-command", "--scope", "read", "--json", "--data", str(system.data))
    made = json.loads(system.command(*words).stdout)
    assert made["scopes"] == ["read"] and made["tenant"] == "by-command"
    with system.client(made["secret"]) as client:
        assert client.get("/v1/plans").status_code == 200
        assert client.post("/v1/check", json={"subject": "u_1", "metric": "m"}).status_code == 403


def test_a_catalog_file_is_compared_then_applied(system: System, make_tenant: MakeTenant, tmp_path: Path) -> None:
    tenant = make_tenant("credits")
    assert tenant.consume("u_1", "credits", 36).status_code == 429
    file = tmp_path / "more.toml"
    file.write_text(CREDITS.read_text().replace("limit = 35,", "limit = 36,"))
    words = ("catalog", "apply", str(file), "--tenant", tenant.name, "--data", str(system.data))
    before = tenant.client.get("/v1/catalog").json()
    compared = system.command(*words, "--dry-run")
    assert "plans.free.limits.credits.limit: 35 -> 36" in compared.stdout.splitlines()
    assert tenant.client.get("/v1/catalog").json() == before
    applied = system.command(*words, "--json")
    assert tenant.consume("u_1", "credits", 36).status_code == 200
    file.write_text('default_plan = "nothing"')
    refused = system.command(*words, check=False)
    assert refused.returncode != 0
    assert len(refused.stderr.splitlines()) == 1
    assert "default_plan" in refused.stderr
    assert tenant.consume("u_1", "credits", 1).status_code == 429
    assert json.loads(applied.stdout)["changes"] == ["plans.free.limits.credits.limit: 35 -> 36"]


@pytest.fixture(scope="module")
def document(system: System) -> dict[str, Any]:
    answer = httpx.get(f"{system.urls['gateway']}/schema/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def test_the_openapi_document_is_sound(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"]
    assert document["info"]["version"]
    names = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            names.append(operation["operationId"])
            assert operation["responses"], (method, path)
            assert all(response["description"] for response in operation["responses"].values()), (method, path)
            declared = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert declared == set(re.findall(r"\{(\w+)\}", path)), (method, path)
    assert len(names) == len(set(names))
    for reference in _references(document):
        target: Any = document
        for word in reference.removeprefix("#/").split("/"):
            target = target[word]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_the_openapi_document_names_every_route(document: dict[str, Any]) -> None:
    paths = document["paths"]
    assert {path: set(paths.get(path, {})) for path in ROUTES} == ROUTES
    assert "Idempotency-Key" in {each["name"] for each in paths["/v1/consume"]["post"]["parameters"]}
    assert "dry_run" in {each["name"] for each in paths["/v1/catalog"]["put"]["parameters"]}


def test_the_openapi_document_says_what_each_route_takes(document: dict[str, Any]) -> None:
    operations = {(method, path): document["paths"][path][method] for path in ROUTES for method in ROUTES[path]}
    with_body = {name for name, operation in operations.items() if "requestBody" in operation}
    assert with_body == {(method, path) for method, path in operations if method in {"post", "put"}}


def test_the_openapi_document_says_which_routes_need_a_key(document: dict[str, Any]) -> None:
    of_all = document.get("security", [])
    with_key = {
        path for path in ROUTES for each in document["paths"][path].values() if any(each.get("security", of_all))
    }
    assert with_key == ROUTES.keys() - PUBLIC


def _mismatches(document: dict[str, Any], path: str, answer: httpx.Response) -> list[str]:
    """Where an answer is not as the document describes it."""
    method = answer.request.method.lower()
    name = f"{method} {path} {answer.status_code}"
    responses = document["paths"][path][method]["responses"]
    described = responses.get(str(answer.status_code)) or responses["default"]
    media = answer.headers["content-type"].partition(";")[0]
    if media not in described["content"]:
        return [f"{name}: {media} is not described"]
    schema = {**described["content"][media].get("schema", {}), "components": document["components"]}
    value = answer.json() if media.endswith("json") else answer.text
    return [f"{name}: {each.json_path}: {each.message}" for each in Draft202012Validator(schema).iter_errors(value)]


def test_the_service_answers_as_the_openapi_document_says(document: dict[str, Any], make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    client = tenant.client
    subscription = "/v1/subjects/{subject}/subscription"
    answers = [
        ("/v1/consume", tenant.consume("u_1", "credits", 5)),
        ("/v1/consume", tenant.operate("u_1", "create_post")),
        ("/v1/consume", tenant.consume("u_1", "credits", 50)),
        ("/v1/consume", tenant.consume("u_1", "nothing")),
        ("/v1/consume", client.post("/v1/consume", json={})),
        ("/v1/consume", client.post("/v1/consume", headers={"authorization": "Bearer nobody-knows"})),
        ("/v1/check", tenant.check("u_1", "credits", 50)),
        (subscription, tenant.subscribe("u_1", "pro")),
        (subscription, client.get("/v1/subjects/u_1/subscription")),
        (subscription, client.get("/v1/subjects/u_2/subscription")),
        ("/v1/subjects/{subject}/status", client.get("/v1/subjects/u_1/status")),
        ("/v1/plans/{plan}", client.get("/v1/plans/pro")),
        ("/v1/plans/{plan}", client.get("/v1/plans/nothing")),
        ("/v1/catalog", client.put("/v1/catalog", json={"metrics": 1})),
        ("/v1/catalog", client.put("/v1/catalog?dry_run=true", json={})),
    ]
    answers += [(path, client.get(path)) for path in ("/v1/catalog", "/v1/plans", *sorted(PUBLIC))]
    assert [mismatch for path, answer in answers for mismatch in _mismatches(document, path, answer)] == []


def test_incidents_are_told_in_words_and_what_to_do(system: System) -> None:
    detail = {"epoch": 1, "units": 1200, "accounts": [{"tenant": "t", "subject": "u_1", "metric": "m", "units": 1200}]}
    system.sql("INSERT INTO incidents (shard, kind, detail) VALUES (5, 'lost_entries', %s::jsonb)", json.dumps(detail))
    words = ("incidents", "--kind", "lost_entries", "--data", str(system.data))
    told = system.command(*words, check=False)
    assert told.returncode == 1
    assert "lost_entries  shard 5: epoch 1, units 1,200" in told.stdout
    assert "    t u_1 m: 1,200 units" in told.stdout and "give or charge it by hand" in told.stdout
    (document,) = map(json.loads, system.command(*words, "--json", check=False).stdout.splitlines())
    assert (document["kind"], document["shard"], document["detail"]) == ("lost_entries", 5, detail)
    system.sql("DELETE FROM incidents WHERE kind = 'lost_entries'")
    assert system.command(*words).stdout == "No incidents in the last 24 hours.\n"
