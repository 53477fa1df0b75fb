"""`quotagate reconcile` corrects, and says so: to whoever runs it, in the ledger, and over HTTP."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[Any], Tenant]


def _tamper(system: System, tenant: Tenant, by: int) -> None:
    (key,) = system.redis().scan_iter(match=f"qg:{{*}}:a:{tenant.name}:*", count=1000)
    used, entry = (system.redis().hget(key, "state") or b"").decode().split(" ")
    system.redis().hset(key, "state", f"{int(used) + by} {entry}")


def _used(tenant: Tenant) -> int:
    return int(next(each["used"] for each in tenant.status("u_1")["metrics"] if each["metric"] == "credits"))


@pytest.mark.parametrize("by", [7, -2])
def test_a_counter_that_was_tampered_with_is_right_again_and_the_ledger_says_why(
    system: System, make_tenant: MakeTenant, by: int
) -> None:
    tenant = make_tenant("credits")
    assert tenant.consume("u_1", "credits", 3).status_code == 200
    system.drained()
    _tamper(system, tenant, by)
    told = system.command("reconcile", "--data", str(system.data), check=False)
    # The worker reconciles as well, and may have come first.
    eventually(lambda: _used(tenant) == 3, "the counter is the ledger's balance")
    rows = system.sql("SELECT amount, change, used_after, actor FROM entries WHERE kind = 'correct'"
                      " AND tenant = %s", tenant.name)  # fmt: skip
    assert rows == [(abs(by), 0, 3, "reconcile")]
    assert told.returncode == (1 if tenant.name in told.stdout else 0), told.stdout
    assert tenant.consume("u_1", "credits", 1).status_code == 200
    system.drained()
    assert system.sql("SELECT sum(used) FROM balances WHERE tenant = %s", tenant.name) == [(4,)]
    assert system.reconciled()["drifted"] == 0


def test_the_command_says_how_it_ends_and_refuses_what_contradicts_itself(system: System) -> None:
    told = system.command("reconcile", "--help").stdout
    assert "0 nothing differs, 1 something differed (corrected or not), 2 it could not be done" in " ".join(
        told.split()
    )
    for option in ("--no-correct", "--correct-all"):
        assert option in told
        assert system.command("reconcile", option, "--data", str(system.data)).returncode == 0
