"""The commands of people on call: doctor, incidents, keys."""

import json
import re
from collections.abc import Callable
from typing import Any

import httpx

from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]


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
    assert system.command(*words, "--hours", "1").stdout == "No incidents in the last 1 hour.\n"
