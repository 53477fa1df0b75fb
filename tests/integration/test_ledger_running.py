"""The ledger's commands stopped and gone on with: nothing is told twice, and nothing is left out."""

import json
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from ledger import jobs
from ledger.acts import By
from ledger.store import ALL_TENANTS, transaction
from quota.errors import Conflict, InvalidRequest, NotFound, TooMany
from quota.periods import DAY_MS
from quotagate.cli import main
from quotagate.ledger_export import Output
from quotagate.ledger_running import Done, run_job
from tests.conftest import Database
from tests.integration.pipeline import Pipeline

ACCOUNTS = 6


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        shard = pipeline.shard
        for number in range(ACCOUNTS):
            metric = f"m{number}"
            shard.open(metric, limit=None).consume(*[shard.step(1, metric=metric)] * 3)
        pipeline.drained()
        yield pipeline


@pytest.fixture
def environment(database: Database) -> dict[str, str]:
    return {"QUOTAGATE_DATABASE_URL": database.application_url}


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Ledger:
    """Runs jobs in steps of one account, or of one entry."""

    def __init__(self, environment: dict[str, str], folder: Path, at_ms: int) -> None:
        self.environment, self.folder, self.at_ms = environment, folder, at_ms

    def run(self, name: str, resume: str | None = None, **how: Any) -> Done:
        asked = {"step_entries": 1, "at_ms": self.at_ms, "from_ms": 0, "to_ms": self.at_ms, "form": "csv"}
        return run_job(self.environment, self.folder, name, asked, resume=resume, is_quiet=True, **how)


@pytest.fixture
def ledger(pipeline: Pipeline, environment: dict[str, str], tmp_path: Path) -> Ledger:
    return Ledger(environment, tmp_path, pipeline.shard.now_ms() + DAY_MS)


def the_job(pipeline: Pipeline) -> str:
    ((found,),) = pipeline.rows("SELECT id::text FROM jobs WHERE finished_at IS NULL")
    return str(found)


@pytest.mark.parametrize("stopped_at", [1, 3, ACCOUNTS - 1])
def test_a_replay_that_was_stopped_goes_on_where_it_was(
    pipeline: Pipeline, ledger: Ledger, capsys: pytest.CaptureFixture[str], stopped_at: int
) -> None:
    shown: list[str] = []

    def show(found: list[Any]) -> None:
        shown.extend(each["metric"] for each in found)
        if len(shown) == stopped_at:
            interrupt()

    with pytest.raises(SystemExit) as stopped:
        ledger.run("replay", show=show)
    assert stopped.value.code == 130
    assert len(shown) == stopped_at
    job = the_job(pipeline)
    assert f"quotagate ledger replay --resume {job}" in capsys.readouterr().err
    done = ledger.run("replay", resume=job, show=lambda found: shown.extend(each["metric"] for each in found))
    assert shown == [f"m{number}" for number in range(ACCOUNTS)]
    assert (done.result["balances"], done.result["used"]) == (ACCOUNTS, 3 * ACCOUNTS)
    assert ledger.run("replay", resume=job).result == done.result


@pytest.mark.parametrize("killed_behind_the_cursor", [False, True])
def test_an_export_to_a_file_goes_on_without_a_line_twice(
    pipeline: Pipeline,
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_behind_the_cursor: bool,
) -> None:
    whole, file = tmp_path / "whole.csv", tmp_path / "entries.csv"
    with Output(whole) as output:
        ledger.run("export", output=output)
    assert len(whole.read_bytes().splitlines()) == 1 + 3 * ACCOUNTS
    pages = []
    with Output(file) as output:
        write = output.write

        def write_some(rows: Any, form: str) -> None:
            write(rows, form)
            pages.append(rows)
            if len(pages) == 5:
                interrupt()

        monkeypatch.setattr(output, "write", write_some)
        with pytest.raises(SystemExit):
            ledger.run("export", output=output)
    assert whole.read_bytes().startswith(file.read_bytes())
    if killed_behind_the_cursor:  # it had written more, and nobody had noted it
        with file.open("ab") as opened:
            opened.write(b"half a li")
    with Output(file) as output:
        done = ledger.run("export", resume=the_job(pipeline), output=output)
    assert done.result == {"entries": 3 * ACCOUNTS}
    assert file.read_bytes() == whole.read_bytes()


def pasted(said: str, environment: dict[str, str]) -> Result:
    """What the command does that a stopped one has said, word by word, in a shell."""
    _, _, words = said.strip().partition("go on with: ")
    program, *arguments = shlex.split(words)
    assert program == "quotagate"
    return CliRunner().invoke(main, arguments, env=environment)


def test_what_a_stopped_export_says_is_all_that_one_has_to_paste(
    pipeline: Pipeline, ledger: Ledger, environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "urls.json").write_text(json.dumps({"application_database": environment["QUOTAGATE_DATABASE_URL"]}))
    ledger.environment = {}
    file = tmp_path / "last month's entries.csv"
    with Output(file) as output, pytest.raises(SystemExit):
        interrupt_after_a_page(output)
        ledger.run("export", output=output)
    done = pasted(capsys.readouterr().err, {})
    assert (done.exit_code, done.stderr) == (0, f"{3 * ACCOUNTS} entries\n")
    assert len(file.read_bytes().splitlines()) == 1 + 3 * ACCOUNTS


def test_a_command_that_printed_json_goes_on_printing_json(
    pipeline: Pipeline, ledger: Ledger, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        ledger.run("replay", show=lambda _: interrupt())
    *balances, summary = map(json.loads, pasted(capsys.readouterr().err, environment).stdout.splitlines())
    assert ([each["metric"] for each in balances], summary["job"]) == ([f"m{n}" for n in range(1, ACCOUNTS)], "replay")


def test_an_export_does_not_go_on_in_another_file(pipeline: Pipeline, ledger: Ledger, tmp_path: Path) -> None:
    with Output(tmp_path / "a") as output, pytest.raises(SystemExit):
        interrupt_after_a_page(output)
        ledger.run("export", output=output)
    (tmp_path / "b").write_bytes(b"")
    with Output(tmp_path / "b") as output, pytest.raises(InvalidRequest, match="the same file"):
        ledger.run("export", resume=the_job(pipeline), output=output)


def interrupt_after_a_page(output: Output) -> None:
    write = output.write

    def once(rows: Any, form: str) -> None:
        write(rows, form)
        interrupt()

    output.write = once  # type: ignore[method-assign]


def test_however_many_commands_were_killed_the_next_one_works(pipeline: Pipeline, ledger: Ledger) -> None:
    with transaction(pipeline.engine, ALL_TENANTS) as connection:
        for _ in range(jobs.MAX_UNFINISHED_JOBS):
            jobs.take(connection, jobs.add(connection, ALL_TENANTS, "replay", {}, By("cli")).id)
    assert pipeline.call(jobs.claim) is None
    assert ledger.run("replay").result["balances"] == ACCOUNTS
    for _ in range(jobs.MAX_UNFINISHED_JOBS):
        pipeline.call(jobs.add, ALL_TENANTS, "replay", {}, By("cli"))
    with pytest.raises(TooMany, match="100 jobs are not finished yet"):
        ledger.run("replay")


def test_a_job_is_gone_on_with_by_its_own_command_alone(pipeline: Pipeline, ledger: Ledger) -> None:
    with pytest.raises(SystemExit):
        ledger.run("replay", show=lambda _: interrupt())
    with pytest.raises(InvalidRequest, match="quotagate ledger replay --resume"):
        ledger.run("verify", resume=the_job(pipeline))
    with pytest.raises(NotFound):
        ledger.run("replay", resume="00000000-0000-4000-8000-000000000000")


def test_of_two_who_go_on_with_a_job_the_first_lets_go(pipeline: Pipeline, ledger: Ledger) -> None:
    def show(_: list[Any]) -> None:
        if not second:
            second.append(None)
            second[0] = ledger.run("replay", resume=the_job(pipeline))

    second: list[Any] = []
    with pytest.raises(Conflict, match="somebody else"):
        ledger.run("replay", show=show)
    assert second[0].result["balances"] == ACCOUNTS
