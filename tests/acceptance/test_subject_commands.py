"""`quotagate subject …`: what it prints is what HTTP answers, and what it does is what the routes do."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.shell import Shell
from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]


@pytest.fixture
def shell(system: System, make_tenant: MakeTenant) -> Shell:
    return Shell(system, make_tenant("credits"))


def test_the_card_shows_what_the_status_says_and_what_was_denied(shell: Shell, system: System) -> None:
    assert shell.tenant.consume("u_1", "credits", 30).status_code == 200
    assert shell.tenant.consume("u_1", "credits", 36).status_code == 429
    denied = "SELECT 1 FROM entries WHERE tenant = %s AND kind = 'denied'"
    eventually(lambda: system.sql(denied, shell.tenant.name), "the denial is in the ledger")
    status, out, _ = shell.run("show", "u_1")
    assert status == 0
    assert "30 of 35, 5 left" in out and "warned at 80 %" in out and "free, the default one" in out
    assert "credits  36 asked" in out and "\x1b" not in out
    status, out, _ = shell.run("show", "u_1", "--json")
    assert (status, json.loads(out)) == (0, shell.tenant.status("u_1"))


def test_a_subject_of_which_nothing_is_known_is_said_to_be_unknown(shell: Shell) -> None:
    status, out, told = shell.run("show", "u_nobody")
    assert (status, out) == (1, "")
    assert "nothing was ever written down of u_nobody" in told and len(told.splitlines()) == 1
    status, out, told = shell.run("show", "u 1")
    assert (status, out, len(told.splitlines())) == (2, "", 1)


def test_a_grant_is_usable_at_once_and_is_told_to_the_audit_log(shell: Shell) -> None:
    assert shell.tenant.consume("u_1", "credits", 36).status_code == 429
    status, out, _ = shell.run("grant", "u_1", "credits", "5", "--reason", "ticket 4711")
    assert status == 0
    assert "credits limit: 35 → 40" in out
    assert shell.tenant.consume("u_1", "credits", 36).status_code == 200
    assert shell.acts() == [("grant.given", "cli", "ticket 4711")]


def test_a_plan_is_changed_with_what_was_used_and_bought_kept(shell: Shell) -> None:
    anchor = "2026-01-15T00:00:00Z"
    shell.tenant.subscribe("u_1", "starter", anchor=anchor)
    assert shell.tenant.consume("u_1", "credits", 10).status_code == 200
    status, out, told = shell.run("subscribe", "u_1", "pro", "--reason", "paid by invoice", "--json")
    assert status == 0, told
    changes = {each["what"]: (each["before"], each["after"]) for each in json.loads(out)["changes"]}
    assert changes["plan"] == ("starter", "pro")
    assert "credits used" not in changes and "anchor" not in changes
    assert shell.tenant.status("u_1")["subscription"]["anchor"] == anchor
    status, out, _ = shell.run("subscribe", "u_1", "free", "--at-period-end", "--anchor", "none")
    assert status == 0 and "scheduled: none → free at" in out
    assert shell.tenant.status("u_1")["plan"] == "pro"
    assert shell.acts()[1:] == [
        ("subscription.written", "cli", "paid by invoice"),
        ("subscription.scheduled", "cli", None),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("grant", "u_1", "nothing", "5", "--reason", "x"), "the catalog has no metric nothing"),
        (("grant", "u_1", "credits", "5", "--reason", "x", "--expires-at", "2020-01-01T00:00:00Z"), "in the past"),
        (("grant", "u_1", "credits", "5", "--reason", "x", "--expires-at", "soon"), "instant"),
        (("grant", "u_1", "credits", "0", "--reason", "x"), "0 is not in the range"),
        (("grant", "u_1", "credits", "5"), "Missing option '--reason'"),
        (("subscribe", "u_1", "nothing"), "the catalog has no plan nothing"),
        (("subscribe", "u_1", "free", "--add-on", "nothing=1"), "the catalog has no add-on nothing"),
        (("subscribe", "u_1", "free", "--add-on", "extra"), "write extra_100=2"),
        (("subscribe", "u_1", "free", "--at-period-end"), "no subscription"),
        (("subscribe", "u_1", "free", "--anchor", "yesterday"), "instant"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(shell: Shell, words: tuple[str, ...], said: str) -> None:
    before = shell.tenant.status("u_1")
    status, out, told = shell.run(*words)
    assert (status, out) == (2, "")
    assert said in told and "Traceback" not in told
    assert shell.tenant.status("u_1") == before
    assert shell.acts() == []
