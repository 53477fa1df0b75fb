"""An old entry is explained with the plan of its day."""

import json
from collections.abc import Callable
from typing import Any

from quota.catalog import parse_toml, to_document
from tests.conftest import Tenant
from tests.system import ROOT, System

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
CREDITS = (ROOT / "examples" / "credits.toml").read_text()


def test_an_entry_is_told_with_what_its_plan_allowed_then_and_allows_now(
    system: System, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant("credits")
    assert tenant.operate("u_1", "create_reel", 2).status_code == 200
    later = to_document(parse_toml(CREDITS.replace("limit = 35,", "limit = 30,")))
    assert tenant.client.put("/v1/catalog", json=later).status_code == 200
    assert tenant.consume("u_1", "credits", 3).status_code == 200
    system.drained()
    first, second = (
        each for each in tenant.client.get("/v1/subjects/u_1/entries").json()["items"] if each["kind"] == "consume"
    )
    then, now = tenant.client.get("/v1/catalog/versions").json()["items"][::-1]

    told = system.command("ledger", "explain", first["id"], "--data", str(system.data)).stdout.splitlines()
    assert told[0] == f"{first['id']}  {first['at']}  consume"
    assert told[1] == (
        f"  u_1 of tenant {tenant.name} used {first['amount']} credits; {first['used_after']} used after it, "
        f"in the month from {first['period_start']}."
    )
    assert "  operation: create_reel" in told
    by = then["applied_by"]
    assert told[-2:] == [
        f"  then:  plan free, 35 a month (catalog version 1, applied {then['applied_at']} by {by})",
        f"  today: plan free, 30 a month (catalog version 2, applied {now['applied_at']} by {by})",
    ]

    tenant.subscribe("u_1", "pro")
    words = ("ledger", "explain", second["id"], "--json", "--data", str(system.data))
    document = json.loads(system.command(*words).stdout)
    assert (document["tenant"], document["entry"]) == (tenant.name, second)
    assert (document["then"]["version"], document["then"]["plan"]) == (now, "free")
    assert document["then"]["limit"]["limit"] == 30
    assert document["today"]["plan"] == "pro"


def test_what_is_no_entry_is_told(system: System) -> None:
    for word, told in (("12", "write it as reports show it"), ("0.1-999999999", "the ledger has no entry")):
        refused = system.command("ledger", "explain", word, "--data", str(system.data), check=False)
        assert refused.returncode == 2
        assert told in refused.stderr
