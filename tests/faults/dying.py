"""Kills drains and servers at chosen points while requests go on, and looks at what is left."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

import psutil
import psycopg
from redis.exceptions import RedisError

from tests.faults.conftest import assert_exactly_once
from tests.faults.dying_drain import DRAINS, OUTLIVED, SERVERS
from tests.faults.killing import requests_go_on
from tests.load import Log
from tests.system import ROOT, System, eventually

ROUND = 20
"""Kills: each point of a drain four times, each server twice, which takes everybody longer to get over."""
WAITING = 100
"""Entries that wait at least, in many shards, for the drain which is to die."""
SERVED_BETWEEN = 50
SUBJECTS = 60
CLIENTS, PAUSE_S = 12, 0.02
"""About five hundred requests a second: the drain, the stores and the clients share one machine's processors."""


def points(kills: int, seed: int) -> list[str]:
    """Where each kill happens; as many of each as there can be, in an order of the seed's."""
    chances = random.Random(seed)
    order: list[str] = []
    while len(order) < kills:
        turn = [*DRAINS] * 4 + [*SERVERS] * 2
        chances.shuffle(turn)
        order += turn
    assert len(turn) == ROUND
    return order[:kills]


class DyingDrain:
    """The process in which drains die; ended with the block."""

    def __init__(self, system: System) -> None:
        urls = system.urls
        ledger_url = urls["application_database"].replace("postgresql:", "postgresql+psycopg:", 1)
        env = {**os.environ, "REDIS_URL": urls["redis"], "LEDGER_URL": ledger_url}
        command = [sys.executable, "-m", "tests.faults.dying_drain"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, point: str, victim: int | None = None) -> str:
        """What was under way when the drain, or the server with that process id, was killed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(point, victim or "", file=self._process.stdin, flush=True)
        said = [self._process.stdout.readline().strip()]
        while said[-1] and not said[-1].startswith("status "):
            said.append(self._process.stdout.readline().strip())
        status = f"status {OUTLIVED if point in SERVERS else -signal.SIGKILL}"
        assert (len(said), said[-1]) == (2, status), f"nothing was killed at the point {point}: {said}"
        return said[0]


@contextmanager
def drain_held_back(system: System) -> Iterator[None]:
    """The system's own drain does nothing inside the block, and holds no shard; after it, it goes on."""
    worker: psutil.Process = eventually(lambda: _suspended(system), "the system's drain stands still", 30)
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.resume()


def _suspended(system: System) -> psutil.Process | None:
    for worker in system.parts("worker", "drain"):
        worker.suspend()
        try:
            mine = [each.laddr.port for each in worker.net_connections() if each.raddr]
            statement = "SELECT count(*) FROM pg_stat_activity WHERE client_port = ANY (%s) AND state <> 'idle'"
            if mine and system.sql(statement, mine) == [(0,)]:
                return worker
        except (psycopg.OperationalError, psutil.NoSuchProcess):
            pass
        worker.resume()
    return None


def waiting(system: System) -> int:
    """Entries in the journal; 0 while nobody can say."""
    connection = system.redis()
    with connection, suppress(RedisError):
        pipeline = connection.pipeline(transaction=False)
        for name in connection.scan_iter(match="qg:{*}:j", count=1000):
            pipeline.xlen(name)
        return int(sum(pipeline.execute()))
    return 0


def kill_at_points(
    system: System, order: list[str], name: str, told: Callable[[int, str, Log], None] = lambda *_: None
) -> Log:
    """Requests go on until there was a kill at each of these points. `told` hears of each kill: how many there were,
    and what was under way."""

    def kill(log: Log) -> None:
        with DyingDrain(system) as dying:
            for number, point in enumerate(order, 1):
                told(number, f"{point}: {_kill(system, dying, point)}", log)
                served = log.served
                eventually(lambda served=served: log.served >= served + SERVED_BETWEEN, "requests are served", 60)

    return requests_go_on(system, name, SUBJECTS, kill, clients=CLIENTS, pause_s=PAUSE_S)


def _kill(system: System, dying: DyingDrain, point: str) -> str:
    eventually(lambda: 0 < waiting(system) < WAITING / 4, "the last kill was got over", 60)
    with drain_held_back(system):
        eventually(lambda: waiting(system) >= WAITING, "entries wait", 60)
        return dying.run(point, system.server(point).pid if point in SERVERS else None)


def assert_nothing_is_missing_or_there_twice(system: System, log: Log, name: str) -> int:
    """Acknowledged ⊆ ledger ⊆ attempted, only what was acknowledged counts in the end, and no incident was told of:
    nothing was lost. How many entries `ledger verify` has added up."""
    acknowledged = 2 * len(log.acknowledged())
    eventually(lambda: _used(system, name) == acknowledged, f"{acknowledged} units are used", 60)
    assert_exactly_once(system, log, "units", f"{name}-%")
    assert system.sql("SELECT kind, detail FROM incidents") == []
    return verified(system)


def _used(system: System, name: str) -> int | None:
    """As the ledger has it; None while it cannot be asked."""
    with suppress(psycopg.OperationalError):
        return int(system.sql("SELECT sum(used) FROM balances WHERE subject LIKE %s", f"{name}-%")[0][0])
    return None


def verified(system: System) -> int:
    """How many entries `ledger verify` added up, which must find no difference."""
    done = system.command("ledger", "verify", "--json", "--data", str(system.data), check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return int(json.loads(done.stdout.splitlines()[-1])["result"]["entries"])
