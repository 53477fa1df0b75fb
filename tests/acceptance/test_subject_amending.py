"""`quotagate subject override | set | correct | gift`: what the routes do, from a shell."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from quotagate import subject_amending
from quotagate.cli import main
from tests.acceptance.shell import Shell
from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
LATER = "2100-01-01T00:00:00Z"
WHY = ("--reason", "ticket 4711")


@pytest.fixture
def shell(system: System, make_tenant: MakeTenant) -> Shell:
    return Shell(system, make_tenant("credits"))


def metric(shell: Shell, subject: str, name: str = "credits") -> Any:
    return next(each for each in shell.tenant.status(subject)["metrics"] if each["metric"] == name)


def test_an_override_holds_from_the_next_request_on_until_it_is_removed(shell: Shell) -> None:
    assert shell.tenant.consume("u_1", "credits", 36).status_code == 429
    status, out, told = shell.run("override", "u_1", "credits", "40", *WHY, "--expires-at", LATER)
    assert status == 0, told
    assert f"  credits override: none → 40 until {LATER}\n  credits limit: 35 → 40\n" in out
    assert shell.tenant.consume("u_1", "credits", 36).status_code == 200
    _, card, _ = shell.run("show", "u_1")
    assert f"override: 40 in place of the plan's, until {LATER}" in card and "by cli: ticket 4711" in card
    status, out, _ = shell.run("override", "u_1", "credits", "unlimited", *WHY, "--json")
    document = json.loads(out)
    assert (document["limit"], document["expires_at"]) == (None, None)
    changes = {each["what"]: (each["before"], each["after"]) for each in document["changes"]}
    assert changes["credits limit"] == (40, "unlimited")
    assert changes["credits override"] == (f"40 until {LATER}", "unlimited")
    status, out, _ = shell.run("override", "u_1", "credits", "--remove", *WHY)
    assert status == 0 and "credits limit: unlimited → 35" in out
    assert shell.tenant.consume("u_1", "credits", 1).status_code == 429
    assert shell.acts() == [(f"override.{act}", "cli", "ticket 4711") for act in ("set", "set", "removed")]


def test_a_counter_is_corrected_up_and_down_and_the_audit_log_says_by_whom(shell: Shell, system: System) -> None:
    assert shell.tenant.consume("u_1", "credits", 10).status_code == 200
    status, out, told = shell.run("correct", "u_1", "credits", "-4", *WHY)
    assert status == 0, told
    assert "corrected by -4" in out and "credits used: 10 → 6" in out and "credits remaining: 25 → 29" in out
    status, out, _ = shell.run("correct", "u_1", "credits", "+34", *WHY, "--json")
    assert (status, json.loads(out)["used"], metric(shell, "u_1")["used"]) == (0, 40, 40)
    expected = [("counter.corrected", "cli", "ticket 4711")] * 2
    eventually(lambda: shell.acts() == expected, "the drain has noted both")
    by_hand = "SELECT DISTINCT origin FROM acts WHERE tenant = %s AND actor = 'cli'"
    ((origin,),) = system.sql(by_hand, shell.tenant.name)
    assert "@" in origin


def test_a_level_is_set_to_what_was_counted_by_hand(shell: Shell) -> None:
    shell.tenant.subscribe("u_1", "pro")
    status, out, told = shell.run("set", "u_1", "connected_platforms", "2", *WHY)
    assert status == 0, told
    assert "u_1 of tenant" in out and "connected_platforms used: 0 → 2" in out
    assert metric(shell, "u_1", "connected_platforms")["used"] == 2
    eventually(lambda: ("level.set", "cli", "ticket 4711") in shell.acts(), "the drain has noted it")


def test_a_gift_is_waited_for_until_the_receiver_can_use_it(shell: Shell) -> None:
    assert shell.run("grant", "u_1", "credits", "20", *WHY)[0] == 0
    status, out, told = shell.run("gift", "u_1", "u_2", "credits", "15", *WHY)
    assert status == 0, told
    assert out.startswith("Gift ") and "15 credits of u_1 for u_2" in out and out.splitlines()[0].endswith(", given.")
    assert "u_1, credits remaining: 55 → 40" in out and "u_2, credits remaining: 35 → 50" in out
    assert shell.tenant.consume("u_2", "credits", 50).status_code == 200
    status, out, told = shell.run("gift", "u_1", "u_2", "credits", "15", "--json")
    assert (status, out) == (2, "") and "u_1 has 5 unused units" in told
    assert ("gift.given", "cli", "ticket 4711") in shell.acts()


def test_a_gift_that_takes_long_is_said_to_be_on_its_way_and_is_given_once(
    shell: Shell, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_amending, "GIVEN_WITHIN_S", 0.3)
    assert shell.run("grant", "u_1", "credits", "20", *WHY)[0] == 0
    where = ["--tenant", shell.tenant.name, "--data", str(system.data)]
    with psycopg.connect(system.urls["database"]) as connection:
        connection.execute("SELECT FROM shards FOR UPDATE")  # the drain waits for it
        done = CliRunner().invoke(main, ["subject", "gift", "u_1", "u_2", "credits", "15", *where])
        assert done.exit_code == 1, done.output
        assert "not given yet" in done.stdout and "do not ask again" in done.stderr
        assert metric(shell, "u_2")["remaining"] == 35
    eventually(lambda: metric(shell, "u_2")["remaining"] == 50, "the drain has booked it")
    assert metric(shell, "u_1")["remaining"] == 40


def test_a_status_that_ends_is_shown_with_when_it_does(shell: Shell) -> None:
    words = ("subscribe", "u_1", "pro", "--status", "past_due", "--status-until", LATER)
    status, out, told = shell.run(*words)
    assert status == 0, told
    assert f"status_until: none → {LATER}" in out
    assert LATER in shell.run("show", "u_1")[1]
    status, out, _ = shell.run("subscribe", "u_1", "pro", "--status", "past_due", "--status-until", "none")
    assert status == 0 and f"status_until: {LATER} → none" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("override", "u_1", "credits", *WHY), "name a limit, unlimited, or --remove"),
        (("override", "u_1", "credits", "many", *WHY), "'many' is no limit"),
        (("override", "u_1", "credits", "5", "--remove", *WHY), "--remove goes with no limit"),
        (("override", "u_1", "credits", "--remove", *WHY), "u_1 has no override of credits"),
        (("override", "u_1", "credits", "5"), "Missing option '--reason'"),
        (("override", "u_1", "nothing", "5", *WHY), "the catalog has no metric nothing"),
        (("override", "u_1", "credits", "5", *WHY, "--expires-at", "2020-01-01T00:00:00Z"), "in the past"),
        (("set", "u_1", "credits", "5", *WHY), "is counted by period and not held"),
        (("set", "u_1", "connected_platforms", "-5", *WHY), "No such option"),
        (("correct", "u_1", "credits", "-5", *WHY), "less than nothing"),
        (("correct", "u_1", "credits", "0", *WHY), "a change of 0 corrects nothing"),
        (("correct", "u_1", "credits", "9007199254740992", *WHY), "9007199254740991"),
        (("correct", "--raeson", "credits", "5", *WHY), "No such option"),
        (("gift", "u_1", "u_2", "credits", "5"), "u_1 has no unused units of grants"),
        (("gift", "u_1", "u_1", "credits", "5"), "name two"),
        (("subscribe", "u_1", "pro", "--status-until", LATER), "has no status_until"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(shell: Shell, words: tuple[str, ...], said: str) -> None:
    before = shell.tenant.status("u_1")
    status, out, told = shell.run(*words)
    assert (status, out) == (2, "")
    assert said in told and "Traceback" not in told
    assert shell.tenant.status("u_1") == before
    assert shell.acts() == []
