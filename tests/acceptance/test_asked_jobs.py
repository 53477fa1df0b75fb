"""Jobs that are asked for over HTTP, and the ledger's commands: what they answer, and what they refuse."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
JOB_MEMBERS = ["id", "job", "state", "progress", "result", "error"]
CATALOG: dict[str, Any] = {
    "default_plan": "free",
    "metrics": {"calls": {}, "seats": {"kind": "level"}},
    "plans": {"free": {"limits": {"calls": {"limit": 10, "period": "month"}, "seats": {"limit": 3}}}},
}
STRICTER = {**CATALOG, "plans": {"free": {"limits": {"calls": {"limit": 4, "period": "month"}}}}}
STRETCH = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}


@pytest.fixture
def tenant(system: System, make_tenant: MakeTenant) -> Iterator[Tenant]:
    tenant = make_tenant(CATALOG)
    for amount in (3, 3, 3, 3):
        tenant.consume("u_1", "calls", amount)
    tenant.consume("u_2", "calls", 1)
    system.drained()
    yield tenant


def start(tenant: Tenant, **body: Any) -> httpx.Response:
    return tenant.client.post("/v1/ops/jobs", json=body)


def finished(tenant: Tenant, **body: Any) -> dict[str, Any]:
    """The job that this body starts, when it has ended."""
    started = start(tenant, **body)
    assert started.status_code == 202, started.text

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = tenant.client.get(started.headers["location"]).json()
        return found if found["state"] in {"done", "failed"} else None

    found = eventually(ended, f"the job {body} ends", 30)
    assert found is not None
    return found


class TestRoutes:
    def test_a_job_is_asked_for_and_followed(self, tenant: Tenant) -> None:
        answer = start(tenant, job="verify")
        started = answer.json()
        assert list(started) == JOB_MEMBERS
        assert (started["job"], started["state"], started["progress"]) == ("verify", "queued", 0)
        assert answer.headers["location"] == f"/v1/ops/jobs/{started['id']}"
        done = finished(tenant, job="verify")
        assert (done["state"], done["progress"], done["error"]) == ("done", 1, None)
        assert done["result"]["entries"] >= 5

    @pytest.mark.parametrize("job", ["drain", "reconcile", "rebuild", "replay", "verify"])
    def test_every_job_that_workers_know_is_done(self, tenant: Tenant, job: str) -> None:
        assert finished(tenant, job=job)["state"] == "done"

    def test_of_one_subject_only_its_entries_are_read(self, tenant: Tenant) -> None:
        found = finished(tenant, job="replay", subject="u_1")["result"]
        assert (found["balances"], found["used"], [each["subject"] for each in found["listed"]]) == (1, 9, ["u_1"])
        assert finished(tenant, job="replay", subject="u_1", at="2020-01-01T00:00:00Z")["result"]["used"] == 0

    def test_another_catalog_is_tried_on_the_tenants_own_history(self, tenant: Tenant) -> None:
        found = finished(tenant, job="simulate", catalog=STRICTER, **STRETCH)["result"]
        assert (found["subjects"], found["subjects_denied"], found["denied"]) == (2, 1, 2)
        (listed,) = found["listed"]
        assert (listed["subject"], listed["limits"][0]["metric"], listed["limits"][0]["denied"]) == ("u_1", "calls", 2)

    def test_another_tenant_sees_neither_the_job_nor_the_names(self, tenant: Tenant, make_tenant: MakeTenant) -> None:
        other = make_tenant(CATALOG)
        job = start(tenant, job="verify").json()["id"]
        assert other.client.get(f"/v1/ops/jobs/{job}").status_code == 404
        everything = finished(other, job="replay")["result"]
        assert everything["balances"] >= 2
        assert everything["listed"] == []
        assert finished(other, job="simulate", catalog=STRICTER, **STRETCH)["result"]["subjects"] == 0

    def test_no_key_and_a_key_of_another_scope_are_refused(self, system: System, tenant: Tenant) -> None:
        for key, status in ((system.make_key(tenant.name, "admin", "read", "consume"), 403), ("none", 401)):
            with system.client(key) as client:
                assert client.post("/v1/ops/jobs", json={"job": "verify"}).status_code == status
                assert client.get("/v1/ops/jobs/00000000-0000-4000-8000-000000000000").status_code == status

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({}, "job"),
            ([], "object"),
            ({"job": "polish"}, "job is one of"),
            ({"job": 5}, "job"),
            ({"job": "verify", "subjects": "u"}, "subjects"),
            ({"job": "drain", "subject": "u"}, "subject"),
            ({"job": "verify", "subject": ""}, "subject"),
            ({"job": "verify", "subject": "u\n"}, "subject"),
            ({"job": "verify", "subject": "u" * 201}, "subject"),
            ({"job": "verify", "subject": 5}, "subject"),
            ({"job": "verify", "tenant": "other"}, "tenant"),
            ({"job": "replay", "at": "yesterday"}, "at:"),
            ({"job": "replay", "at": 5}, "at"),
            ({"job": "simulate", **STRETCH}, "catalog"),
            ({"job": "simulate", "catalog": STRICTER, "from": STRETCH["from"]}, "to"),
            ({"job": "simulate", "catalog": STRICTER, "from": STRETCH["to"], "to": STRETCH["from"]}, "before"),
            ({"job": "simulate", "catalog": STRICTER, "from": STRETCH["to"], "to": STRETCH["to"]}, "before"),
            ({"job": "simulate", "catalog": {"plans": 5}, **STRETCH}, "plans"),
            ({"job": "simulate", "catalog": {"default_plan": "none"}, **STRETCH}, "no such plan"),
            ({"job": "simulate", "catalog": "free", **STRETCH}, "catalog: document: write a table"),
        ],
    )
    def test_what_cannot_be_understood_is_refused_and_queues_nothing(
        self, system: System, tenant: Tenant, body: Any, words: str
    ) -> None:
        answer = tenant.client.post("/v1/ops/jobs", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
        assert words in answer.json()["detail"].lower() + str(answer.json().get("field", ""))
        assert system.sql("SELECT count(*) FROM jobs WHERE tenant = %s", tenant.name) == [(0,)]

    def test_bodies_that_are_no_json_or_too_large_are_refused(self, tenant: Tenant) -> None:
        for content, status in ((b"[", 400), (b"", 400), (b"\xff", 400), (b" " * (64 * 1024 + 1), 413)):
            assert tenant.client.post("/v1/ops/jobs", content=content).status_code == status

    @pytest.mark.parametrize("job", ["none", "00000000-0000-4000-8000-000000000000", "%00", "0" * 300])
    def test_a_job_that_there_is_not_is_a_404(self, tenant: Tenant, job: str) -> None:
        assert tenant.client.get(f"/v1/ops/jobs/{job}").status_code == 404

    def test_a_hundred_jobs_may_wait_and_no_more(self, system: System, tenant: Tenant) -> None:
        system.sql(
            "INSERT INTO jobs (tenant, job, arguments, requested_by, next_try_at) "
            "SELECT %s, 'verify', '{}', 'test', now() + interval '1 hour' FROM generate_series(1, 100)",
            tenant.name,
        )
        answer = start(tenant, job="verify")
        assert (answer.status_code, answer.json()["code"]) == (409, "TOO_MANY")
        system.sql("DELETE FROM jobs WHERE tenant = %s", tenant.name)


class TestCommands:
    def command(self, system: System, *words: str, status: int = 0) -> str:
        done = system.command("ledger", *words, "--data", str(system.data), check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def test_verify_says_what_it_has_read(self, system: System, tenant: Tenant) -> None:
        told = self.command(system, "verify", "--tenant", tenant.name)
        assert "2 accounts verified: 0 differences" in told
        document = json.loads(self.command(system, "verify", "--tenant", tenant.name, "--json"))
        assert (document["job"], document["result"]["accounts"], document["result"]["differing"]) == ("verify", 2, 0)

    def test_verify_ends_with_1_and_names_what_differs(self, system: System, tenant: Tenant) -> None:
        system.sql("UPDATE balances SET used = used + 1 WHERE tenant = %s AND subject = 'u_2'", tenant.name)
        told = self.command(system, "verify", "--tenant", tenant.name, status=1)
        assert f"balance of {tenant.name} u_2 calls" in told
        assert "is 2, and entries add up to 1" in told
        found = json.loads(self.command(system, "verify", "--tenant", tenant.name, "--json", status=1))
        assert [each["subject"] for each in found["result"]["differences"]] == ["u_2"]
        system.sql("UPDATE balances SET used = used - 1 WHERE tenant = %s AND subject = 'u_2'", tenant.name)

    def test_replay_and_balance_add_up_entries(self, system: System, tenant: Tenant) -> None:
        lines = self.command(system, "replay", "--tenant", tenant.name, "--json").splitlines()
        *balances, summary = map(json.loads, lines)
        assert {each["subject"]: each["used"] for each in balances} == {"u_1": 9, "u_2": 1}
        assert summary["result"]["used"] == 10
        words = ("balance", "--tenant", tenant.name, "--subject", "u_1")
        assert "u_1 calls" in self.command(system, *words) and "9 used" in self.command(system, *words)
        self.command(system, *words, "--at", "2020-01-01T00:00:00Z", status=1)

    def test_export_writes_every_entry_as_ndjson_and_as_csv(
        self, system: System, tenant: Tenant, tmp_path: Path
    ) -> None:
        lines = [json.loads(line) for line in self.command(system, "export", "--tenant", tenant.name).splitlines()]
        kinds = [(each["subject"], each["kind"], each["amount"]) for each in lines]
        assert kinds.count(("u_1", "consume", 3)) == 3 and ("u_1", "denied", 3) in kinds
        file = tmp_path / "entries.csv"
        self.command(system, "export", "--tenant", tenant.name, "--format", "csv", "--output", str(file))
        rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
        assert [(row["id"], row["used_after"]) for row in rows] == [(e["id"], str(e["used_after"])) for e in lines]

    def test_simulate_says_who_would_have_been_denied(self, system: System, tenant: Tenant, tmp_path: Path) -> None:
        file = tmp_path / "stricter.json"
        file.write_text(json.dumps(STRICTER))
        words = ("simulate", "--catalog", str(file), "--from", STRETCH["from"], "--tenant", tenant.name)
        assert "u_1: denied 2 times by the period limit of calls (6 units)" in self.command(system, *words, status=1)
        file.write_text(json.dumps(CATALOG))
        assert "0 subjects would have been denied 0 times" in self.command(system, *words)

    @pytest.mark.parametrize(
        "words",
        [
            ("verify", "--subject", "u_1"),
            ("verify", "--resume", "none"),
            ("verify", "--resume", "00000000-0000-4000-8000-000000000000"),
            ("replay", "--at", "yesterday"),
            ("simulate",),
            ("simulate", "--from", "2020-01-01T00:00:00Z"),
            ("balance",),
            ("balance", "--subject", "\n"),
            ("export", "--format", "xml"),
            ("export", "--from", "5"),
            ("export", "--output", "/none/such/file"),
        ],
    )
    def test_what_cannot_be_done_ends_with_2_and_a_sentence(self, system: System, words: tuple[str, ...]) -> None:
        done = system.command("ledger", *words, "--data", str(system.data), check=False)
        assert done.returncode == 2
        assert done.stderr and "Traceback" not in done.stderr
