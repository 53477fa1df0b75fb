"""What holds of every command: help that fits, `--json`, and a sentence with exit status 2 when nothing is running."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from quotagate.cli import main
from quotagate.grouped_help import SECTIONS
from tests.system import ROOT

SCREEN = (80, 23)
"""A terminal of 24 lines, one of which is the prompt."""
NOWHERE = {
    "QUOTAGATE_REDIS_URL": "redis://127.0.0.1:1/0",
    "QUOTAGATE_DATABASE_URL": "postgresql://nobody:nothing@127.0.0.1:1/nothing",
    "QUOTAGATE_OWNER_DATABASE_URL": "postgresql://nobody:nothing@127.0.0.1:1/nothing",
    "QUOTAGATE_KEY_PEPPER": "a-pepper-of-tests",
}
STAY = {"up", "gateway", "worker", "scheduler"}
"""They serve until they are stopped, and print nothing that a script would read."""
PRINT_FOR_PROGRAMS = {"completion", "ledger export", "catalog show"}
"""Their output is a script, entries in a format of choice, a JSON document: there is no other for people."""
WORDS = {
    "subject show": ["u_1"],
    "subject grant": ["u_1", "credits", "5", "--reason", "a test"],
    "subject subscribe": ["u_1", "pro"],
    "subject override": ["u_1", "credits", "5", "--reason", "a test"],
    "subject set": ["u_1", "connected_platforms", "5", "--reason", "a test"],
    "subject correct": ["u_1", "credits", "-5", "--reason", "a test"],
    "subject gift": ["u_1", "u_2", "credits", "5"],
    "catalog apply": [str(ROOT / "examples" / "credits.toml")],
    "catalog diff": [str(ROOT / "examples" / "credits.toml")],
    "tenant create": ["t"],
    "key create": ["--scope", "read"],
    "key revoke": ["0123456789ab"],
    "key rotate": ["0123456789ab"],
    "ledger replay": ["--at", "2026-01-01T00:00:00Z"],
    "ledger explain": ["1.1-0"],
    "ledger balance": ["--tenant", "default", "--subject", "u_1"],
    "ledger simulate": ["--catalog", str(ROOT / "examples" / "credits.toml"), "--from", "2026-01-01T00:00:00Z"],
    "ledger archive": ["--before", "2026-01-01T00:00:00Z", "--out", "archived"],
    "completion": ["bash"],
    "top": ["--once"],
}


def commands(group: click.Group = main, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        path = f"{before} {name}".strip()
        if isinstance(command, click.Group):
            yield from commands(command, path)
        else:
            yield path, command


ALL = dict(commands())


def test_the_first_page_fits_on_a_screen_and_cuts_no_sentence_off() -> None:
    width, height = SCREEN
    lines = CliRunner().invoke(main, ["--help"], terminal_width=width).output.splitlines()
    assert len(lines) <= height, "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage")]


def test_every_command_has_its_place_on_the_first_page() -> None:
    assert set(main.commands) <= {name for names in SECTIONS.values() for name in names}


@pytest.mark.parametrize("path", ALL)
def test_a_command_says_what_it_does_in_a_sentence(path: str) -> None:
    done = CliRunner().invoke(main, [*path.split(), "--help"])
    assert done.exit_code == 0
    first = (ALL[path].help or "").split("\n\n")[0].strip()
    assert first.endswith((".", ":")) and first[0].isupper()
    for option in ALL[path].params:
        assert not isinstance(option, click.Option) or option.hidden or option.help, f"{option.name} has no help"


@pytest.mark.parametrize("path", sorted(set(ALL) - STAY - PRINT_FOR_PROGRAMS))
def test_a_command_that_prints_prints_json_as_well(path: str) -> None:
    assert any("--json" in option.opts for option in ALL[path].params)


@pytest.mark.parametrize("path", sorted(set(ALL) - STAY - {"completion", "doctor"}))
def test_a_command_without_stores_ends_with_a_sentence_and_status_2(path: str, tmp_path: Path) -> None:
    given = WORDS.get(path, [])
    if any("--data" in option.opts for option in ALL[path].params):
        given = [*given, "--data", str(tmp_path)]
    done = CliRunner().invoke(main, [*path.split(), *given], env=NOWHERE)
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines and all(line.startswith("quotagate: ") for line in lines), done.stderr


@pytest.mark.parametrize("path", sorted(set(ALL) - {"completion"}))
def test_a_command_with_an_option_that_it_does_not_know_ends_with_status_2(path: str) -> None:
    done = CliRunner().invoke(main, [*path.split(), "--no-such-option"])
    assert done.exit_code == 2
    assert "No such option" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_a_shell_asks_the_command_itself(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert f"_QUOTAGATE_COMPLETE={shell}_complete" in done.stdout


def test_bash_completes_commands_of_commands() -> None:
    asked = {"_QUOTAGATE_COMPLETE": "bash_complete", "COMP_WORDS": "quotagate key r", "COMP_CWORD": "2"}
    program = "from quotagate.cli import main; main(prog_name='quotagate')"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, env=asked, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == ["plain,revoke", "plain,rotate"], done.stderr


def test_an_audit_of_a_time_that_ends_before_it_begins_is_a_mistake() -> None:
    words = ["audit", "--from", "2026-11-02T00:00:00Z", "--to", "2026-11-01T00:00:00Z"]
    told = CliRunner().invoke(main, words, env=NOWHERE)
    assert (told.exit_code, told.stderr) == (2, "quotagate: --from must lie before --to\n")
