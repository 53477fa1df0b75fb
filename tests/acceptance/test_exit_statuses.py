"""The exit status of every command, beside a system that serves: 0 done, 1 something was found, 2 it could not be."""

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from quotagate.cli import main
from tests.system import ROOT, System, eventually

CATALOG = str(ROOT / "examples" / "credits.toml")
OTHER_CATALOG = str(ROOT / "examples" / "builder.toml")
WHY = "--reason why"
NOW_IS_NEVER = "--from 2020-01-01T00:00:00Z --to 2020-01-02T00:00:00Z"
# Words by status; {names} are those of `words` below, and NAME=value is a variable. That drift and accounts that cannot
# be brought in end with 1 is tested where they are made: beside a system that mends them they do not last.
TABLE: Mapping[str, tuple[tuple[int, str], ...]] = {
    "migrate": ((0, ""), (2, "more")),
    "up": ((2, "--port none"),),
    "gateway": ((2, "--fd none"),),
    "worker": ((2, "--role none"),),
    "scheduler": ((2, "more"),),
    "doctor": (
        (0, "--incidents-h 0"),
        (1, "--incidents-h 0 QUOTAGATE_ADMIN_KEY=password"),
        (2, "--incidents-h -1"),
    ),
    "top": ((0, "--once"), (2, "--rows 0")),
    "incidents": ((0, "--kind none"), (1, "--kind found"), (2, "--hours 0")),
    "audit": ((0, "--tenant {tenant}"), (2, "--from yesterday")),
    "subject show": ((0, "u_1 {of}"), (1, "nobody {of}"), (2, "u_1 --tenant nobody")),
    "subject grant": ((0, f"u_1 credits 9 {WHY} {{of}}"), (2, f"u_1 none 9 {WHY} {{of}}")),
    "subject subscribe": ((0, "u_1 starter {of}"), (2, "u_1 none {of}")),
    "subject override": ((0, f"u_1 credits 90 {WHY} {{of}}"), (2, f"u_1 credits {WHY} {{of}}")),
    "subject set": ((0, f"u_1 connected_platforms 1 {WHY} {{of}}"), (2, f"u_1 credits 1 {WHY} {{of}}")),
    "subject correct": ((0, f"u_1 credits -1 {WHY} {{of}}"), (2, f"u_1 credits -99 {WHY} {{of}}")),
    "subject gift": ((0, "u_1 u_2 credits 1 {of}"), (2, "u_1 u_2 credits 99 {of}")),
    "catalog show": ((0, "{of}"), (2, "--version 99 {of}")),
    "catalog history": ((0, "{of}"), (2, "--limit 0 {of}")),
    "catalog diff": ((0, f"{CATALOG} {{of}}"), (1, f"{OTHER_CATALOG} {{of}}"), (2, "nowhere.toml {of}")),
    "catalog apply": ((0, f"{CATALOG} --yes {{of}}"), (2, "nowhere.toml --yes {of}")),
    "tenant create": ((0, "{tenant}-new"), (2, "{long}")),
    "tenant list": ((0, ""), (2, "--limit 0")),
    "key create": ((0, "--scope read {of}"), (2, "--scope none {of}")),
    "key list": ((0, "{of}"), (2, "--limit 0")),
    "key rotate": ((0, "{key}"), (2, "000000000000")),
    "key revoke": ((0, "{key}"), (2, "000000000000")),
    "ledger verify": ((0, "{of}"), (1, "--tenant {false}"), (2, "--subject u_1")),
    "ledger replay": ((0, "{of}"), (2, "--at yesterday")),
    "ledger balance": ((0, "--subject u_1 {of}"), (1, "--subject nobody {of}"), (2, "--subject u_1 --at yesterday")),
    "ledger export": ((0, "{of}"), (2, "--subject u_1")),
    "ledger simulate": (
        (0, f"--catalog {CATALOG} {NOW_IS_NEVER} {{of}}"),
        (1, "--catalog {smaller} --from {began} {of}"),
        (2, f"--catalog nowhere.toml {NOW_IS_NEVER} {{of}}"),
    ),
    "ledger explain": ((0, "{entry}"), (2, "none")),
    "ledger archive": ((0, "--before 2020-01 --out {folder}"), (2, "--before never --out {folder}")),
    "reconcile": ((0, "--history 1"), (2, "--history 0")),
    "rebuild": ((0, "--subject u_1 {of}"), (2, "--subject u_1")),
    "completion": ((0, "bash"), (2, "csh")),
}
A_BALANCE = (
    "INSERT INTO balances (tenant, subject, metric, period_kind, period_start, period_end, used, shard, epoch, n) "
    "VALUES (%s, 'u', 'm', 'lifetime', to_timestamp(0), NULL, 5, 1, 1, 1)"
)
"""Of which no entry knows."""
ENTRY = (
    "SELECT shard || '.' || epoch || '-' || n, to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:00Z') "
    "FROM entries WHERE tenant = %s AND kind = 'consume'"
)
"""Its name, and the minute in which it was."""
SERVE = {"up", "gateway", "worker", "scheduler"}
"""Until they are stopped: that they end with 0 then is tested where they are."""


def leaves(group: click.Group = main, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        path = f"{before} {name}".strip()
        yield from leaves(command, path) if isinstance(command, click.Group) else (path,)


def test_the_table_has_every_command() -> None:
    assert set(TABLE) == set(leaves())
    for path, rows in TABLE.items():
        assert {status for status, _ in rows} >= ({2} if path in SERVE else {0, 2}), path


@pytest.fixture(scope="module")
def words(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A tenant with a subject that has used some, and names of what else the table speaks of."""
    tenant, folder = f"tenant-{secrets.token_hex(4)}", tmp_path_factory.mktemp("exit")
    secret = system.make_key(tenant)
    smaller = folder / "smaller.toml"
    smaller.write_text(Path(CATALOG).read_text().replace("35", "3"))
    with system.client(secret) as client:
        catalog = run(system, "catalog apply", f"{CATALOG} --yes --tenant {tenant}")
        assert catalog.exit_code == 0, catalog.output
        consumed = client.post("/v1/consume", json={"subject": "u_1", "metric": "credits", "amount": 20})
        assert consumed.status_code == 200, consumed.text
    system.drained()
    ((entry, began),) = eventually(lambda: system.sql(ENTRY, tenant), "the ledger has it")
    system.sql(A_BALANCE, f"{tenant}-false")
    system.sql("INSERT INTO incidents (shard, kind, detail) VALUES (0, 'found', '{}')")
    yield {
        "tenant": tenant,
        "of": f"--tenant {tenant}",
        "key": secret.split("_")[1],
        "entry": entry,
        "began": began,
        "smaller": str(smaller),
        "folder": str(folder),
        "false": f"{tenant}-false",
        "long": "x" * 201,
    }
    system.sql("DELETE FROM balances WHERE tenant = %s", f"{tenant}-false")
    system.sql("DELETE FROM incidents WHERE kind = 'found'")


def run(system: System, path: str, given: str) -> Result:
    takes_data = any("--data" in option.opts for option in command_of(path).params)
    where = ["--data", str(system.data)] if takes_data else []
    given_words = given.split()
    variables = dict(word.split("=", 1) for word in given_words if word.startswith("QUOTAGATE_"))
    plain = [word for word in given_words if not word.startswith("QUOTAGATE_")]
    environment = {"QUOTAGATE_OWNER_DATABASE_URL": system.urls["database"], **variables}
    return CliRunner().invoke(main, [*path.split(), *plain, *where], env=environment)


def command_of(path: str) -> click.Command:
    found: click.Command = main
    for name in path.split():
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


@pytest.mark.parametrize(("path", "status", "given"), [(path, *row) for path, rows in TABLE.items() for row in rows])
def test_a_command_ends_with_its_status(
    system: System, words: dict[str, str], path: str, status: int, given: str
) -> None:
    done = run(system, path, given.format(**words))
    assert done.exit_code == status, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert status != 2 or (done.stdout == "" and done.stderr)
