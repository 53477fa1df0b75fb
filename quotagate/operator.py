"""What people on call run from a shell. Each command opens the stores itself, so it works while the gateway is down."""

import getpass
import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import Progress, TextColumn

from ledger.acts import By
from quota.errors import Unsafe
from quota.logs import configure
from quota.settings import Settings, variable
from quotagate.plain_commands import counted

if TYPE_CHECKING:
    from ledger.reconciliations import Reconciliation


def stores(environment: Mapping[str, str], data: Path, *required: str) -> Settings:
    """Settings whose stores are named by the environment, else by `DATA/urls.json` of a running `quotagate up`."""
    given = dict(environment)
    try:
        kept = json.loads((data / "urls.json").read_text())
    except FileNotFoundError:
        kept = {}
    except PermissionError as error:
        raise Unsafe(
            f"{error.filename} may be read by its owner alone: run this as the user of `quotagate up`"
        ) from error
    named = [("redis_url", "redis"), ("database_url", "application_database")]
    if "owner_database_url" in required:  # nobody else is to have it
        named.append(("owner_database_url", "database"))
    for name, key in named:
        if not given.get(variable(name)) and key in kept:
            given[variable(name)] = kept[key]
    if not given.get(variable("key_pepper")) and (data / "key.pepper").exists():
        given[variable("key_pepper")] = (data / "key.pepper").read_text().strip()
    # What people asked for is printed; logs would say it again.
    configure(given.get(variable("log_level")) or "critical", "cli")
    try:
        return Settings.from_environment(given, required)
    except Unsafe as error:
        raise Unsafe(f"{error}\nor start `quotagate up`, and name its folder with --data") from error


def by_operator(reason: str | None = None) -> By:
    """Whoever types at this machine, for the audit log."""
    try:
        person = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        person = str(os.getuid())
    return By("cli", f"{person}@{socket.gethostname()}", None, reason)


def run_reconcile(environment: Mapping[str, str], data: Path, *, corrections: str, as_json: bool) -> int:
    """Reconciles once, with `none`, `guarded` or `all` corrections; how many accounts drifted or were missing."""
    settings = stores(environment, data, "redis_url", "database_url")
    from ledger import jobs
    from ledger.store import ALL_TENANTS, transaction
    from quota.collector import spare_the_collector
    from workers.context import open_context
    from workers.reconcile import WHAT_TO_DO, Corrections

    held = open_context(settings)
    if corrections != "none":
        with transaction(held.engine, ALL_TENANTS) as connection:
            jobs.note_asked(connection, ALL_TENANTS, by_operator(), "reconcile", {"corrections": corrections})
    spare_the_collector()
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,} accounts"))
    is_quiet = as_json or not sys.stderr.isatty()
    with closing(held), Progress(*columns, console=Console(stderr=True), disable=is_quiet) as progress:
        task = progress.add_task("comparing", total=None)
        run = held.reconcile.run_once(
            lambda compared: progress.update(task, completed=compared), Corrections(corrections)
        )
    found = run.drifted + run.missing
    if as_json:
        print(json.dumps({**run.to_document(), "drifts": msgspec.to_builtins(run.drifts)}))
        return found
    print(_in_words(run))
    for drift in run.drifts:
        account = f"  {drift.tenant} {drift.subject} {drift.metric}"
        if drift.reason is not None:
            print(f"{account}: {drift.what}: {drift.reason}")
        else:
            what = "" if drift.what == "used" else f"{drift.what}: "
            at = drift.entry or "(none)"
            print(f"{account}: {what}counter {drift.counter:,}, ledger {drift.ledger:,} at entry {at}")
    if run.refusal is not None:
        print(f"{run.refusal}: {WHAT_TO_DO}")
    return found


def run_history(environment: Mapping[str, str], data: Path, most: int, *, as_json: bool) -> None:
    """Prints what the newest runs found, a line each, the newest last; nothing is compared."""
    settings = stores(environment, data, "database_url")
    from ledger import reconciliations
    from ledger.store import ALL_TENANTS, connect, transaction

    engine = connect(settings.database_url, pool_size=1)
    with transaction(engine, ALL_TENANTS) as connection:
        runs = reconciliations.history(connection, most)
    engine.dispose()
    for run in runs:
        document = run.to_document()
        print(json.dumps(document) if as_json else f"{document['finished_at']}  run {run.run_id}: {_in_words(run)}")
        if run.refusal is not None and not as_json:
            print(f"  {run.refusal}")
    if not runs and not as_json:
        print("Nothing was reconciled yet.")


def _in_words(run: "Reconciliation") -> str:
    return (
        f"{counted(run.accounts, 'account')} compared, {run.drifted:,} drifted, {run.missing:,} missing, "
        f"{run.corrected:,} corrected, {counted(run.undrained_entries, 'entry', 'entries')} not in the ledger yet, "
        f"lag {run.lag_ms} ms, {counted(run.incidents, 'incident')}"
    )
