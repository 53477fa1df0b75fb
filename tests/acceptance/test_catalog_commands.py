"""Catalogs as code: what would change is shown and asked about, what was applied is kept and told."""

import json
import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quota.catalog import parse_toml, to_document
from tests.conftest import Tenant
from tests.system import ROOT, System

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
CREDITS = (ROOT / "examples" / "credits.toml").read_text()
TIGHTER = CREDITS.replace("limit = 35,", "limit = 30,")
"""Everybody without a subscription is on the free plan."""


class Shell:
    """`quotagate catalog …` of one tenant."""

    def __init__(self, system: System, tenant: Tenant, folder: Path) -> None:
        self.tenant, self.file, self._system = tenant, folder / "plans.toml", system

    def write(self, document: str) -> None:
        self.file.write_text(document)

    def words(self, command: str, *more: str) -> list[str]:
        named = [str(self.file)] if command in {"apply", "diff"} else []
        return ["catalog", command, *named, "--tenant", self.tenant.name, "--data", str(self._system.data), *more]

    def run(self, command: str, *more: str) -> "subprocess.CompletedProcess[str]":
        return self._system.command(*self.words(command, *more), check=False)


@pytest.fixture
def shell(system: System, make_tenant: MakeTenant, tmp_path: Path) -> Shell:
    return Shell(system, make_tenant("credits"), tmp_path)


def test_a_difference_tells_whom_it_concerns_what_is_tighter_and_who_is_over(shell: Shell, system: System) -> None:
    tenant = shell.tenant
    plans = [plan["plan"] for plan in tenant.client.get("/v1/plans").json()["items"]]
    tenant.subscribe("paying", plans[1])
    assert tenant.consume("u_1", "credits", 33).status_code == 200
    system.drained()
    shell.write(TIGHTER)
    before = tenant.client.get("/v1/catalog").json()
    told = shell.run("diff")
    assert told.returncode == 1, told.stderr
    assert told.stdout.splitlines() == [
        "plans.free",
        "  credits  35 → 30 a month  0 subjects, and everybody without a subscription  tighter; 1 over it now",
        f"1 change from version 1 of tenant {tenant.name}; 1 line is tighter.",
    ]
    document = json.loads(shell.run("diff", "--json").stdout)
    assert document["effects"] == [
        {
            "path": "plans.free.limits.credits",
            "change": "35 → 30 a month",
            "tighter": True,
            "subjects": 0,
            "everybody_else": True,
            "over_limit": 1,
        }
    ]
    assert document["changes"] == ["plans.free.limits.credits.limit: 35 -> 30"]
    asked = tenant.client.put("/v1/catalog?dry_run=true", json=to_document(parse_toml(TIGHTER)))
    assert asked.json() == document
    assert shell.run("apply", "--dry-run").returncode == 0
    assert tenant.client.get("/v1/catalog").json() == before
    shell.write(CREDITS)
    same = shell.run("diff")
    assert (same.returncode, same.stdout) == (0, f"Nothing differs from version 1 of tenant {tenant.name}.\n")


def test_nothing_is_applied_where_nobody_can_be_asked_unless_yes_is_said(shell: Shell) -> None:
    shell.write(TIGHTER)
    refused = shell.run("apply")
    assert refused.returncode == 2
    assert "say --yes" in refused.stderr
    assert shell.tenant.consume("u_1", "credits", 31).status_code == 200
    applied = shell.run("apply", "--yes", "--json", "--reason", "dearer models")
    assert applied.returncode == 0, applied.stderr
    assert (json.loads(applied.stdout)["version"], json.loads(applied.stdout)["applied"]) == (2, True)
    assert shell.tenant.consume("u_2", "credits", 31).status_code == 429
    again = shell.run("apply")
    assert again.returncode == 0
    assert again.stdout == f"Nothing differs from version 2 of tenant {shell.tenant.name}.\n", "there is nothing to ask"


@pytest.mark.parametrize(("answer", "status", "amount"), [("y", 0, 30), ("n", 2, 35), ("", 2, 35)])
def test_on_a_terminal_it_is_asked(shell: Shell, system: System, answer: str, status: int, amount: int) -> None:
    shell.write(TIGHTER)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "quotagate", *shell.words("apply")],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"NO_COLOR": "1"},
        cwd=ROOT,
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    out, _ = process.communicate(timeout=60)
    told = os.read(ours, 65_536).decode()
    os.close(ours)
    assert process.returncode == status, told
    assert "Apply? [y/N]" in told
    assert b"35 \xe2\x86\x92 30 a month" in out and b"\x1b" not in out
    assert shell.tenant.check("u_1", "credits").json()["limit"] == amount


def test_what_is_wrong_with_a_file_is_told_with_its_line_and_nothing_is_applied(shell: Shell) -> None:
    wrong = CREDITS.replace("limit = 35,", "limit = -1,")
    line = 1 + wrong[: wrong.index("limit = -1,")].count("\n")
    shell.write(wrong)
    for command in ("apply", "diff"):
        refused = shell.run(command)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == (
            f"quotagate: {shell.file}:{line}: plans.free.limits.credits.limit: write a limit from 0 to "
            "9007199254740991, or leave it out for unlimited\n"
        )
    assert len(shell.tenant.client.get("/v1/catalog/versions").json()["items"]) == 1


def test_every_version_is_kept_listed_and_can_be_edited_and_applied_again(shell: Shell) -> None:
    client = shell.tenant.client
    shell.write(TIGHTER)
    assert shell.run("apply", "--yes", "--reason", "dearer models").returncode == 0
    newest, first = client.get("/v1/catalog/versions").json()["items"]
    assert (newest["version"], newest["reason"], newest["changes"], newest["applied_by"]) == (
        *(2, "dearer models", 1, "cli"),
    )
    assert (first["version"], first["reason"]) == (1, None)
    page = client.get("/v1/catalog/versions?limit=1").json()
    assert page["items"] == [newest]
    following = client.get(f"/v1/catalog/versions?limit=1&cursor={page['next_cursor']}").json()
    assert following == {"items": [first], "next_cursor": None}

    old = to_document(parse_toml(CREDITS))
    assert client.get("/v1/catalog?version=1").json() == old != client.get("/v1/catalog?version=2").json()
    assert client.get("/v1/catalog", params={"at": first["applied_at"]}).json() == old
    assert client.get("/v1/catalog", params={"at": newest["applied_at"]}).json() == client.get("/v1/catalog").json()
    for query in ("version=3", "at=2001-01-01T00:00:00Z"):
        assert client.get(f"/v1/catalog?{query}").status_code == 404
    for query in ("version=0", "version=x", "version=1&version=2", "at=then", "version=1&at=2026-11-01T00:00:00Z"):
        assert client.get(f"/v1/catalog?{query}").status_code == 400

    history = shell.run("history").stdout.splitlines()
    assert history[0].split() == ["VERSION", "APPLIED", "AT", "BY", "CHANGES", "REASON"]
    assert history[1].split() == ["2", newest["applied_at"], "cli", "1", "dearer", "models"]
    listed = [json.loads(line) for line in shell.run("history", "--json").stdout.splitlines()]
    assert listed == [newest, first]

    shown = shell.run("show", "--version", "1").stdout
    assert tomllib.loads(shown)["plans"]["free"]["limits"]["credits"]["limit"] == 35
    assert json.loads(shell.run("show", "--at", first["applied_at"], "--json").stdout) == old
    assert shell.run("show", "--version", "9").returncode == 2
    shell.write(shown)
    assert shell.run("apply", "--yes").returncode == 0
    assert client.get("/v1/catalog").json() == old


def test_what_is_applied_is_what_was_shown(shell: Shell, system: System) -> None:
    """Somebody else applies another catalog while the question waits."""
    shell.write(TIGHTER)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "quotagate", *shell.words("apply")],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=ROOT,
    )
    os.close(theirs)
    told = b""
    while b"[y/N]" not in told:
        told += os.read(ours, 65_536)
    other = to_document(parse_toml(CREDITS.replace("limit = 35,", "limit = 50,")))
    assert shell.tenant.client.put("/v1/catalog", json=other).status_code == 200
    os.write(ours, b"y\n")
    process.communicate(timeout=60)
    told += os.read(ours, 65_536)
    os.close(ours)
    assert process.returncode == 2
    assert b"version 2 was applied meanwhile, nothing was changed; compare again" in told
    assert shell.tenant.client.get("/v1/catalog").json() == other
