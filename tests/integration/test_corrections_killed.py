"""kill -9 of `quotagate reconcile` at any instant: whatever it had come to, each drift is corrected once."""

import os
import random
import subprocess
import sys
from functools import partial
from typing import Any

from quota import keys
from quota.journal import Place
from tests.conftest import Database, Stores
from tests.integration.accounts_apart import Members
from tests.integration.pipeline import Pipeline
from tests.system import ROOT, eventually

KILLS = 5
SEED = 20261122
COUNT = 1_500


def started(stores: Stores, database: Database) -> "subprocess.Popen[bytes]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QUOTAGATE_")}
    own = {
        "QUOTAGATE_REDIS_URL": stores.redis_url,
        "QUOTAGATE_DATABASE_URL": database.application_url,
        "QUOTAGATE_MAX_CORRECTIONS": "10000",
        "QUOTAGATE_MAX_DRIFT_PCT": "100",
    }
    command = [sys.executable, "-m", "quotagate", "reconcile"]
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env=clean | own, stdout=nowhere, stderr=nowhere)


def last_place(pipeline: Pipeline) -> int:
    info: Any = pipeline.connection.xinfo_stream(keys.journal(3))
    return Place.parsed(info["last-generated-id"].decode()).n


def has_come_to(pipeline: Pipeline, process: "subprocess.Popen[bytes]", n: int) -> bool:
    """Whether the journal has given out that place, or the process has ended without."""
    return last_place(pipeline) >= n or process.poll() is not None


def test_whenever_it_is_killed_each_drift_is_corrected_once(
    pipeline: Pipeline, stores: Stores, database: Database
) -> None:
    chances, members = random.Random(SEED), Members.opened(pipeline, COUNT)
    for number in range(COUNT):
        members.tamper(number, 1 if number % 2 else -1)
    for _ in range(KILLS):
        process = started(stores, database)
        wanted = last_place(pipeline) + chances.randrange(1, COUNT // KILLS)
        eventually(partial(has_come_to, pipeline, process, wanted), "it corrects", 60)
        process.kill()
        process.wait(10)
    last = started(stores, database)
    assert last.wait(60) in (0, 1)
    pipeline.drained()
    assert [members.used(number) for number in range(COUNT)] == members.balances() == [3] * COUNT
    assert len(members.corrections()) == COUNT
    run = pipeline.reconcile().run_once()
    assert (run.drifts, pipeline.incidents()) == ([], [])
