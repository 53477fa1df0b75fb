"""`quotagate tenant …` and `quotagate key …`, as the operator and his scripts use them."""

import json
import re
import secrets
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.system import Gateway, System, eventually

OWN_FORM = re.compile(r"qg_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class Shell:
    """Runs commands for one tenant."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.tenant = f"shell-{secrets.token_hex(4)}"

    def run(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return self.system.command(*words, "--data", str(self.system.data), check=check)

    def json(self, *words: str) -> dict[str, Any]:
        return dict(json.loads(self.run(*words, "--json").stdout))

    def create(self, *words: str) -> dict[str, Any]:
        return self.json("key", "create", "--tenant", self.tenant, *words)

    def keys(self, *words: str) -> list[dict[str, Any]]:
        lines = self.run("key", "list", "--tenant", self.tenant, "--json", *words).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def refused(self, *words: str) -> str:
        """The one sentence with which a command gives up."""
        done = self.run(*words, check=False)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def is_good(self, secret: str, gateway: System | Gateway | None = None) -> bool:
        with (gateway or self.system).client(secret) as client:
            return client.get("/v1/plans").status_code == 200


@pytest.fixture
def shell(system: System) -> Shell:
    return Shell(system)


@pytest.fixture(scope="module")
def second(system: System) -> Iterator[Gateway]:
    gateway = Gateway(system, "second-of-commands").start()
    yield gateway
    gateway.stop()


def in_(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_tenant_is_made_once_and_listed(shell: Shell) -> None:
    assert shell.json("tenant", "create", shell.tenant) == {"tenant": shell.tenant, "created": True}
    again = shell.run("tenant", "create", shell.tenant)
    assert again.stdout == f"Tenant {shell.tenant} was there already.\n"
    shell.create("--scope", "read")
    told = shell.run("tenant", "list").stdout.splitlines()
    assert [line for line in told if line.startswith(f"{shell.tenant}: 1 key, made ")]
    documents = [json.loads(line) for line in shell.run("tenant", "list", "--json").stdout.splitlines()]
    assert {"tenant": shell.tenant, "living_keys": 1}.items() <= next(
        each.items() for each in documents if each["tenant"] == shell.tenant
    )
    assert "tenant must be 1 to 200 characters" in shell.refused("tenant", "create", "*")


def test_a_script_reads_the_secret_and_nothing_else(shell: Shell) -> None:
    words = ("key", "create", "--tenant", shell.tenant, "--scope", "read", "--scope", "consume", "--name", "checkout")
    made = shell.run(*words, "--expires-at", "9000-01-01T00:00:00Z")
    found = OWN_FORM.fullmatch(made.stdout.rstrip("\n"))
    assert found is not None
    assert f"Key {found[1]} of tenant {shell.tenant}, for consume, read, until 9000-01-01T00:00:00Z." in made.stderr
    assert f"Tenant {shell.tenant} is new." in made.stderr
    secret = made.stdout.strip()
    assert secret not in made.stderr and shell.is_good(secret)
    (listed,) = shell.keys()
    assert (listed["name"], listed["scopes"], listed["created_by"]) == ("checkout", ["consume", "read"], "cli")
    told = shell.run("key", "list", "--tenant", shell.tenant)
    head, line = told.stdout.splitlines()
    assert head.split("  ")[0] == "ID"
    assert re.split(r"\s{2,}", line)[:5] == [
        found[1], shell.tenant, "checkout", "consume,read", "good until 9000-01-01T00:00:00Z",
    ]  # fmt: skip
    assert secret.split("_", 2)[2] not in told.stdout + json.dumps(listed)


def test_every_gateway_hears_of_a_revocation_and_those_that_ended_are_listed_where_that_is_asked(
    shell: Shell, second: Gateway
) -> None:
    made = shell.create("--scope", "admin")
    for gateway in (shell.system, second):
        assert shell.is_good(made["secret"], gateway)
    done = shell.run("key", "revoke", made["secret"])  # the whole key is what people have at hand
    assert made["secret"] not in done.stdout + done.stderr
    assert f"`quotagate key create --tenant {shell.tenant} --scope admin` makes one" in done.stderr
    for gateway in (shell.system, second):
        eventually(lambda gateway=gateway: not shell.is_good(made["secret"], gateway), "it heard of it")
    assert shell.keys() == []
    (ended,) = shell.keys("--all")
    assert ended["revoked_at"] is not None
    assert shell.json("key", "revoke", made["id"]) == ended
    assert "was revoked already" in shell.run("key", "revoke", made["id"]).stdout


def test_after_a_rotation_both_keys_work_until_the_grace_is_over(shell: Shell, second: Gateway) -> None:
    old = shell.create("--scope", "read", "--scope", "admin", "--name", "billing")
    for gateway in (shell.system, second):
        assert shell.is_good(old["secret"], gateway)
    rotated = shell.json("key", "rotate", old["id"], "--grace", "6s")
    until = rotated["old"]["expires_at"]
    assert (rotated["name"], rotated["scopes"], rotated["replaces"]) == ("billing", ["read", "admin"], old["id"])
    assert rotated["expires_at"] is None
    while instant(in_(2)) < instant(until):  # no request is refused in between
        for gateway in (shell.system, second):
            assert shell.is_good(rotated["secret"], gateway)
            assert shell.is_good(old["secret"], gateway)
    for gateway in (shell.system, second):
        eventually(lambda gateway=gateway: not shell.is_good(old["secret"], gateway), "the grace is over")
        assert instant(in_(0)) >= instant(until)
        assert shell.is_good(rotated["secret"], gateway)
    assert "revoked or has expired" in shell.refused("key", "rotate", old["id"])


def test_a_rotation_that_was_lost_is_gone_on_with_from_the_new_key(shell: Shell) -> None:
    old = shell.create("--scope", "read")
    first = shell.run("key", "rotate", old["id"])
    found = OWN_FORM.fullmatch(first.stdout.strip())
    assert found is not None and f"The old key {old['id']} works until" in first.stderr
    assert f"`quotagate key revoke {found[1]}`" in shell.refused("key", "rotate", old["id"])
    again = shell.json("key", "rotate", found[1], "--grace", "0s")
    assert [shell.is_good(each) for each in (old["secret"], again["secret"])] == [True, True]
    eventually(lambda: not shell.is_good(first.stdout.strip()), "a grace of nothing is over")


def test_whoever_rotates_a_key_that_expires_says_when_the_new_one_is_to(shell: Shell) -> None:
    old = shell.create("--scope", "read", "--expires-at", in_(3_600))
    assert "--expires-at never" in shell.refused("key", "rotate", old["id"])
    rotated = shell.json("key", "rotate", old["id"], "--expires-at", "9000-01-01T00:00:00Z")
    assert rotated["expires_at"] == "9000-01-01T00:00:00Z"
    assert rotated["old"]["expires_at"] == old["expires_at"]  # a day of grace prolongs nothing


def test_what_is_refused_says_what_to_do_and_changes_nothing(shell: Shell) -> None:
    made = shell.create("--scope", "read")
    create = ("key", "create", "--tenant", shell.tenant, "--scope", "read")
    assert "`quotagate key list --all`" in shell.refused("key", "revoke", "nobodys")
    told = shell.refused("key", "rotate", "qg_0123456789ab_" + "secret" * 8)
    assert "`quotagate key list --all`" in told and "secret" not in told
    assert "lies in the past" in shell.refused(*create, "--expires-at", in_(-1))
    assert "or write never" in shell.refused(*create, "--expires-at", "tomorrow")
    assert "no control characters" in shell.refused(*create, "--name", "a\x1bb")
    assert "write 90s, 30m, 24h or 7d" in shell.refused("key", "rotate", made["id"], "--grace", "1 day")
    assert "write 90s, 30m, 24h or 7d" in shell.refused("key", "rotate", made["id"], "--grace", "366d")
    assert "Missing option '--scope'" in shell.refused("key", "create", "--tenant", shell.tenant)
    assert [each["id"] for each in shell.keys("--all")] == [made["id"]]
