"""`quotagate top`, beside a system that serves."""

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.conftest import Tenant
from tests.system import ROOT, System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]


def test_it_tells_who_is_busy_who_is_denied_and_who_is_near_a_limit(system: System, make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    assert [tenant.consume("u_1", "credits", 15).status_code for _ in range(4)] == [200, 200, 429, 429]
    words = ("top", "--once", "--json", "--rows", "50", "--data", str(system.data))

    def seen() -> Any:
        document = json.loads(system.command(*words).stdout)
        return [each for each in document["busiest"] if each["tenant"] == tenant.name], document

    def told() -> Any:
        found, document = seen()
        return (found, document) if found and found[0]["denied"] else None

    (mine,), document = eventually(told, "the ledger has the entries", 60)
    counts = {name: mine[name] for name in ("subject", "metric", "passed", "denied", "units")}
    assert counts == {"subject": "u_1", "metric": "credits", "passed": 2, "denied": 2, "units": 30}
    assert mine["share_used"] == round(30 / 35, 4)
    assert document["away"] == []
    assert document["ledger"]["checks_per_s"] >= round(4 / 60, 2)
    assert document["ledger"]["denials_per_s"] > 0
    assert document["counters"]["memory_bytes"] > 0


def on_a_terminal(system: System, **how: Any) -> tuple["subprocess.Popen[bytes]", int, bytes]:
    """One that has shown something, the other end of its terminal, and what it has shown."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "quotagate", "top", "--data", str(system.data)]
    environment = {**system.environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=follower, stdout=follower, stderr=follower, **how
    )
    os.close(follower)
    shown = b""
    while b"entries wait" not in shown:
        assert select.select([leader], [], [], 60)[0], shown
        shown += os.read(leader, 65_536)
    return process, leader, shown


def test_on_a_terminal_it_goes_on_until_q_is_pressed(system: System) -> None:
    process, leader, shown = on_a_terminal(system, start_new_session=True)
    os.write(leader, b"q")
    assert process.wait(20) == 0
    os.close(leader)
    assert b"entries wait for the ledger" in shown and b"Traceback" not in shown


def test_it_ends_when_its_terminal_has_gone_and_nobody_tells_it(system: System) -> None:
    process, leader, _ = on_a_terminal(system)  # the terminal is not its own, so there is no SIGHUP
    os.close(leader)
    try:
        assert process.wait(20) == 0
    finally:
        process.kill()


def test_it_says_which_store_is_away_and_tells_what_the_other_knows(system: System) -> None:
    away = System(system.data, redis_url="redis://127.0.0.1:1/0")
    done = away.command("top", "--once", "--data", str(system.data))
    assert "Redis: " in done.stdout and "checks/s" in done.stdout
