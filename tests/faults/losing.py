"""Takes something from Redis while everything else runs on, and looks at what is left."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.faults.conftest import assert_the_two_agree, kinds, used
from tests.load import Log, hammer
from tests.system import System, eventually

SUBJECTS = 40
FLUSHED = 8


@contextmanager
def redis_down(system: System) -> Iterator[Path]:
    """Kills Redis, and keeps it from being started again while the block changes its files."""
    assert system.process is not None
    supervisor, redis = psutil.Process(system.process.pid), system.server("redis")
    supervisor.suspend()
    try:
        redis.kill()
        eventually(lambda: redis.status() == psutil.STATUS_ZOMBIE, "Redis is dead")
        yield system.data / "valkey"
    finally:
        supervisor.resume()


def asked(system: System, name: str, requests: int = 400) -> int:
    """How many of some requests were served."""
    bodies = [{"subject": f"{name}_{each % SUBJECTS}", "metric": "units"} for each in range(requests)]
    return len(hammer([system.urls["gateway"]], system.admin_key, bodies).acknowledged())


def told(system: System, kind: str) -> int:
    """The units that incidents of a kind tell of."""
    query = "SELECT coalesce(sum((detail ->> 'units')::int), 0) FROM incidents WHERE kind = %s"
    return int(system.sql(query, kind)[0][0])


def served_again(client: httpx.Client) -> None:
    body = {"subject": "other", "metric": "units"}
    eventually(lambda: client.post("/v1/consume", json=body).status_code == 200, "requests are served again")


def cut(system: System, name: str, part: float) -> tuple[int, int]:
    """A crash after which the end of Redis's file is missing: what the ledger has is counted, what it has not got is
    lost, and told to the unit. How many requests were acknowledged, and how many of them were lost."""
    lost_before = told(system, "lost_entries")
    served = asked(system, name)
    with redis_down(system) as files:
        (newest,) = sorted((files / "appendonlydir").glob("*.incr.aof"))[-1:]
        with newest.open("r+b") as file:
            file.truncate(int(newest.stat().st_size * part))
    with system.client() as client:
        served_again(client)
        served += asked(system, name)
        assert_the_two_agree(system)
        kept = kinds(system, name.replace("_", "\\_") + "\\_%")["consume"]
        assert sum(used(client, f"{name}_{each}") for each in range(SUBJECTS)) == kept
    eventually(lambda: told(system, "lost_entries") - lost_before == served - kept, "what was lost is told", 5)
    return served, served - kept


def flush_under_load(system: System, urls: list[str], name: str, requests: int) -> tuple[int, int]:
    """FLUSHALL while every gateway is at work, against a limit that binds. How many requests were acknowledged, and how
    many of them were lost, which is what was let through above the limit at most."""
    lost_before = told(system, "lost_entries")
    bodies = [{"subject": f"{name}_{each % FLUSHED}", "metric": "scans"} for each in range(requests)]

    def flush(log: Log) -> None:
        eventually(lambda: log.served >= 100, "requests are served")
        system.redis().flushall()

    log = hammer(urls, system.admin_key, bodies, meanwhile=flush)
    acknowledged = len(log.acknowledged())
    assert_the_two_agree(system)
    kept = kinds(system, name.replace("_", "\\_") + "\\_%").get("consume", 0)
    eventually(lambda: told(system, "lost_entries") - lost_before == acknowledged - kept, "what was lost is told", 10)
    return acknowledged, acknowledged - kept
