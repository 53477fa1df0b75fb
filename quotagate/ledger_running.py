"""Runs a job of the ledger from a shell: the steps that a worker would take, with a bar that shows how far it is."""

import json
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from ledger import archive_reading, jobs, replay_balances, schema, tenants
from ledger.chain_verification import Head
from ledger.jobs import Job
from ledger.replay_jobs import STEPPING
from ledger.store import ALL_TENANTS, connect, transaction
from quota.errors import Conflict, InvalidRequest, Unsafe
from quota.identifiers import checked_identifier
from quotagate.ledger_export import Output
from quotagate.ledger_printing import Show
from quotagate.operator import by_operator, stores
from quotagate.plain_commands import DEFAULT_DATA

EXIT_STOPPED = 130
"""As a shell has it of a command that Ctrl-C has ended."""
MAX_HEADS_BYTES = 16 << 20
MAX_STEPS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Done:
    """A job that is finished."""

    job: Job
    result: dict[str, Any]

    def print_summary(self, *left_out: str) -> None:
        """One JSON document: the job, and its result without what was printed before."""
        result = {name: value for name, value in self.result.items() if name not in left_out}
        click.echo(json.dumps({"id": self.job.id, "job": self.job.job, "result": result}))


def run_job(
    environment: Mapping[str, str],
    data: Path,
    name: str,
    asked: dict[str, Any],
    *,
    resume: str | None,
    is_quiet: bool,
    archived: Path | None = None,
    show: Show = lambda _: None,
    output: Output | None = None,
) -> Done:
    """Takes the job's steps until it is done; what each finds goes to `show` or `output`. Ctrl-C ends this process
    after the step that is under way, and leaves the job where it is."""
    engine, months = _engine(environment, data, archived)
    if resume is None and months:
        asked |= {"archived": months}
    try:
        job = _begun(engine, name, asked, resume)
        if job.arguments.get("archived", []) != months:
            wanted = ", ".join(job.arguments.get("archived", [])) or "no archived month"
            raise InvalidRequest(f"the job {job.id} reads {wanted}: go on with the same --archive")
        if job.state == "done" and job.result is not None:
            return Done(job, job.result)
        with _bar(name, job.progress, is_quiet) as bar, _stopping() as stopping:
            result = _steps(engine, job, bar, stopping, show=show, output=output)
        if result is None:
            how = _how_to_go_on(job, data, archived, output, is_quiet=is_quiet)
            click.echo(f"stopped; go on with: {how}", err=True)
            sys.exit(EXIT_STOPPED)
        return Done(job, result)
    finally:
        engine.dispose()


def _steps(
    engine: Engine, job: Job, bar: "Bar", stopping: "Stopping", *, show: Show, output: Output | None
) -> dict[str, Any] | None:
    """The job's result; None if somebody has asked to stop before it was there."""
    cursor = job.cursor
    if output is not None:
        output.begin((cursor or {}).get("written", 0))
    for _ in range(MAX_STEPS):
        if stopping.is_asked:
            return None
        step = STEPPING[job.job](engine, job.arguments, cursor)
        if output is None:
            show(step.found)
        else:
            output.write(step.found, job.arguments["form"])
        cursor = step.cursor | ({} if output is None else {"written": output.written})
        bar.at(step.progress)
        with transaction(engine, ALL_TENANTS) as connection:
            if step.result is None:
                is_ours = jobs.advance(connection, job, step.progress, cursor)
            else:
                is_ours = jobs.finish(connection, job, step.result)
        if not is_ours:
            raise Conflict(f"somebody else goes on with the job {job.id}")
        if step.result is not None:
            bar.at(1.0)
            return step.result
    raise AssertionError("no job has so many steps")


def _how_to_go_on(job: Job, data: Path, archived: Path | None, output: Output | None, *, is_quiet: bool) -> str:
    """To be pasted. What was asked for is kept with the job; where it is read from and goes to is not."""
    words = ["quotagate", "ledger", job.job, "--resume", job.id]
    if output is not None and output.file is not None:
        words += ["--output", str(output.file)]
    if archived is not None:
        words += ["--archive", str(archived)]
    if data != DEFAULT_DATA:
        words += ["--data", str(data)]
    if is_quiet and output is None:
        words.append("--json")
    return shlex.join(words)


def _begun(engine: Engine, name: str, asked: dict[str, Any], resume: str | None) -> Job:
    with transaction(engine, ALL_TENANTS) as connection:
        if resume is None:
            tenants.must_be_known(connection, asked.get("tenant"))
            # In one transaction, so that no worker sees it wait.
            resume = jobs.add(connection, ALL_TENANTS, name, asked, by_operator()).id
        job = jobs.take(connection, resume)
    if job.job != name:
        raise InvalidRequest(f"the job {job.id} is not one of {name}: quotagate ledger {job.job} --resume {job.id}")
    if job.state == "failed":
        raise Conflict(f"the job {job.id} has failed: {job.error}")
    return job


def kept_heads(file: Path) -> dict[str, Any]:
    """The heads of chains that `verify --json` printed; or they alone. InvalidRequest."""
    try:
        with file.open("rb") as opened:
            document = msgspec.json.decode(opened.read(MAX_HEADS_BYTES))
        if isinstance(document, dict) and "result" in document:
            document = document["result"]["chain"]["heads"]
        return {shard: msgspec.to_builtins(head) for shard, head in msgspec.convert(document, dict[str, Head]).items()}
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror}") from error
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{file} has no heads of chains in it: {error}") from error


def balances_at(
    environment: Mapping[str, str],
    data: Path,
    *,
    tenant: str,
    subject: str,
    metric: str | None,
    at_ms: int,
    archived: Path | None = None,
) -> list[dict[str, Any]]:
    """How a subject's accounts stood at an instant, from entries alone."""
    checked_identifier(tenant, "tenant")
    checked_identifier(subject, "subject")
    engine, _ = _engine(environment, data, archived)
    try:
        with transaction(engine, tenant) as connection:
            tenants.must_be_known(connection, tenant)
            return list(replay_balances.at_instant(connection, tenant, subject, metric, at_ms))
    finally:
        engine.dispose()


def _engine(environment: Mapping[str, str], data: Path, archived: Path | None) -> tuple[Engine, list[str]]:
    """What the job reads, and which archived months are part of it."""
    url = stores(environment, data, "database_url").database_url
    engine = connect(url, pool_size=2)
    try:
        with transaction(engine, ALL_TENANTS) as connection:
            found = schema.complaints(connection)
        if found:
            raise Unsafe("\n".join(found))
        if archived is None:
            return engine, []
        read = archive_reading.months_to_read(engine, archived)
    finally:
        engine.dispose()  # whoever goes on with it connects anew
    return archive_reading.connect_with(url, read), [each.month for each in read.manifests]


class Bar:
    """How far it is, on a terminal's standard error."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=1.0)

    def at(self, share: float) -> None:
        self._progress.update(self._task, completed=share)


@contextmanager
def _bar(name: str, begins_at: float, is_quiet: bool) -> Iterator[Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    is_shown = not is_quiet and sys.stderr.isatty()
    # What is printed meanwhile goes above the bar; but not where it goes to a file.
    with Progress(*columns, console=console, disable=not is_shown, redirect_stdout=sys.stdout.isatty()) as progress:
        bar = Bar(progress, name)
        bar.at(begins_at)
        yield bar


class Stopping:
    """Whether somebody has asked to stop."""

    is_asked = False

    def ask(self, _number: int, _frame: FrameType | None) -> None:
        self.is_asked = True


@contextmanager
def _stopping() -> Iterator[Stopping]:
    """Hears Ctrl-C and SIGTERM; a step is brought to its end first."""
    stopping = Stopping()
    former = {number: signal.signal(number, stopping.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
