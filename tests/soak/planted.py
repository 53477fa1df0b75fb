"""Plants faults and looks whether each is found, reconciles for long beside normal load, and measures how many accounts
it compares a second: `python -m tests.soak.planted`.

Prints how far it is; exits with an error when a fault was missed, or something was told of a system that was well.
"""

import argparse
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis

from ledger.store import connect
from quota.logs import configure
from quotagate.data_folder import remembered_port
from quotagate.embedded import EmbeddedPostgres, valkey_part, valkey_url
from quotagate.parts import migrate
from quotagate.supervisor import Supervisor
from tests.conftest import SHARDS
from tests.faults.conftest import CATALOG, assert_the_two_agree
from tests.faults.reconciling import alarms, reconciling
from tests.integration.accounts_apart import Members
from tests.integration.pipeline import Pipeline
from tests.integration.planting import Planter
from tests.system import System

DRIFTS_A_MEASUREMENT = 100


def say(words: str) -> None:
    print(words, flush=True)


@contextmanager
def empty_stores(folder: Path) -> Iterator[Pipeline]:
    """A Valkey and a PostgreSQL with nothing in them, and nobody else at work."""
    with Supervisor() as supervisor:
        port = remembered_port(folder, "valkey")
        supervisor.start(valkey_part(folder / "valkey", port, folder / "valkey.log", password="soak"))
        connection = redis.Redis.from_url(valkey_url(port, "soak"))
        supervisor.wait_until("valkey", connection.ping, 30)
        server = EmbeddedPostgres.prepare(folder / "postgres", folder / "postgres.log")
        port = remembered_port(folder, "postgres")
        supervisor.start(server.part(port))
        owner_url = server.owner_url(port)
        plain = owner_url.replace("+psycopg", "", 1)
        supervisor.wait_until("postgres", lambda: psycopg.connect(plain).close(), 30)
        from sqlalchemy import make_url

        login = make_url(owner_url).set(username="application", password="application")
        application_url = login.render_as_string(hide_password=False)
        migrate(owner_url, application_url, SHARDS)
        engine = connect(application_url)
        try:
            yield Pipeline(connection, engine)
        finally:
            engine.dispose()


def plant(pipeline: Pipeline, faults: int, seed: int) -> str:
    planter = Planter(pipeline, seed)
    for turn in range(faults):
        fault = planter.plant(turn)
        assert planter.is_found(fault), f"seed {seed}, fault {turn}: {fault} was not found"
        planter.heal(fault)
        left = planter.left()
        assert left == [], f"seed {seed}, fault {turn}: {fault}: told once it was healed: {left}"
        if (turn + 1) % 10 == 0:
            say(f"  {turn + 1} of {faults} planted, all found: {dict(planter.planted)}")
    return f"{faults} faults planted, {faults} found, 0 told once healed"


def measure(pipeline: Pipeline, accounts: int) -> str:
    """Drifted ones among them, so that what is measured is not only the easy case."""
    say(f"  {accounts:,} accounts are made and charged")
    members = Members.opened(pipeline, accounts, used=1)
    reconcile = pipeline.reconcile()
    began = time.monotonic()
    assert reconcile.run_once().drifted == 0
    took_s = time.monotonic() - began
    calm = f"{accounts / took_s:,.0f} accounts a second"
    say(f"  nothing drifted: {took_s:.1f} s, {calm}")
    for number in range(0, accounts, accounts // DRIFTS_A_MEASUREMENT):
        members.tamper(number, 1 if number % 2 else -1)
    began = time.monotonic()
    run = reconcile.run_once()
    took_s = time.monotonic() - began
    assert run.drifted == run.corrected == DRIFTS_A_MEASUREMENT, run
    say(f"  {run.corrected} corrected: {took_s:.1f} s, {accounts / took_s:,.0f} accounts a second")
    return f"{accounts:,} accounts reconciled at {calm}, {accounts / took_s:,.0f} with {run.corrected} corrected"


def rest(folder: Path, minutes: float, seed: int) -> str:
    say(f"{minutes:g} minutes of normal load, reconciled all the time")
    (folder / "catalog.toml").write_text(CATALOG)
    system = System(folder / "calm", catalog=folder / "catalog.toml").start()
    try:
        log, runs = reconciling(system, minutes * 60, seed)
        assert alarms(runs) == [], alarms(runs)
        assert_the_two_agree(system)
    finally:
        system.stop()
    return f"{len(runs)} runs in {minutes:g} minutes beside {log.served:,} requests that were served, 0 alarms"


def soak(faults: int, minutes: float, accounts: int, seed: int) -> None:
    say(f"seed {seed}")
    configure("critical", "soak")
    found = []
    with tempfile.TemporaryDirectory(prefix="quotagate-soak-") as name:
        folder = Path(name)
        for part in ("planted", "measured", "calm"):
            (folder / part).mkdir()
        if faults:
            say(f"{faults} faults, one at a time")
            with empty_stores(folder / "planted") as pipeline:
                found.append(plant(pipeline, faults, seed))
        if accounts:
            say("speed")
            with empty_stores(folder / "measured") as pipeline:
                found.append(measure(pipeline, accounts))
        if minutes:
            found.append(rest(folder, minutes, seed))
    say(f"= planted: {'; '.join(found)}; seed {seed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=1_000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="of the faults and the requests")
    asked = parser.parse_args()
    soak(asked.faults, asked.minutes, asked.accounts, secrets.randbelow(2**31) if asked.seed is None else asked.seed)
