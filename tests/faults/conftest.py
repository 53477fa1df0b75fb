"""A system that tests may break, and what must be true of it afterwards."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.faults.proxy import Proxy
from tests.load import Log
from tests.system import Gateway, System, eventually, port_of, through

LIMIT = 10_000
SCANS = 50
LOSSES = ("lost", "rewound", "lost_entries")
"""What is told when tests have taken something from Redis; any other incident is a fault of the product."""
CATALOG = f"""
default_plan = "free"

[metrics.calls]
[metrics.units]
[metrics.tokens]
[metrics.frames]
[metrics.minutes]
[metrics.scans]
[metrics.views]
on_outage = "allow"
[metrics.likes]
on_outage = "allow"
[metrics.projects]
kind = "level"

[operations.render]
charges = {{ tokens = 5, frames = 2, minutes = 1 }}
[operations.look]
charges = {{ views = 1, likes = 2 }}
[operations.buy]
charges = {{ views = 1, units = 1 }}

[plans.free]
rank = 0
limits.calls = {{ limit = {LIMIT}, period = "month" }}
limits.units = {{ period = "month" }}
limits.scans = {{ limit = {SCANS}, period = "month" }}
limits.views = {{ limit = 10, period = "month" }}
limits.likes = {{ limit = 1000, period = "month" }}
limits.projects = {{ limit = 100 }}
[plans.tokens_first]
rank = 1
limits.tokens = {{ limit = 501, period = "month" }}
limits.frames = {{ limit = 1000, period = "month" }}
limits.minutes = {{ limit = 1000, period = "month" }}
[plans.frames_first]
rank = 2
limits.tokens = {{ limit = 2000, period = "month" }}
limits.frames = {{ limit = 401, period = "month" }}
limits.minutes = {{ limit = 1000, period = "month", caps = {{ day = 900 }} }}
[plans.minutes_first]
rank = 3
limits.tokens = {{ limit = 2000, period = "month" }}
limits.frames = {{ limit = 1000, period = "month" }}
limits.minutes = {{ limit = 1000, period = "month", caps = {{ day = 151 }} }}
"""


@pytest.fixture(scope="package")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalog") / "catalog.toml"
    path.write_text(CATALOG)
    return path


@pytest.fixture(scope="package")
def faulty(tmp_path_factory: pytest.TempPathFactory, catalog: Path) -> Iterator[System]:
    """A system that these tests may break, with limits that nobody runs into and one hard limit of 10,000."""
    # The clients, and the tests beside these, share its processors: what is slow for that reason is not tried here.
    system = System(tmp_path_factory.mktemp("faulty"), catalog=catalog, deadline_ms="200").start()
    yield system
    assert system.stop() == 0


@dataclass(frozen=True)
class Door:
    """A gateway of its own on the faulty system, which reaches each store through a proxy."""

    gateway: Gateway
    redis: Proxy
    database: Proxy

    @property
    def url(self) -> str:
        return self.gateway.url

    @classmethod
    def opened(cls, system: System, name: str, **settings: str | int) -> "Door":
        urls = system.urls
        redis = Proxy(port_of(urls["redis"])).start()
        database = Proxy(port_of(urls["application_database"])).start()
        addresses: dict[str, Any] = {
            "redis_url": through(urls["redis"], redis.port),
            "database_url": through(urls["application_database"], database.port),
        }
        return cls(Gateway(system, name, **(addresses | settings)).start(), redis, database)

    @contextmanager
    def broken(self, **faults: float) -> Iterator[None]:
        """With these faults between it and Redis inside the block; serving again after it."""
        with self.redis.broken(**faults):
            yield
        self.recover()

    def recover(self) -> None:
        """Heals both proxies, and waits until requests are served again."""
        self.redis.heal()
        self.database.heal()
        with self.gateway.client() as client:
            check = {"subject": "anybody", "metric": "units"}
            eventually(lambda: client.post("/v1/check", json=check).status_code == 200, "requests are served again")

    def close(self) -> None:
        self.redis.heal()
        self.database.heal()
        status = self.gateway.stop()
        self.redis.stop()
        self.database.stop()
        assert status in {0, -signal.SIGTERM}


@pytest.fixture(scope="package")
def doors(faulty: System) -> Iterator[tuple[Door, Door]]:
    # The proxies share a processor with the clients: what is slow for that reason is not what is tried here.
    opened = (Door.opened(faulty, "first", deadline_ms=200), Door.opened(faulty, "second", deadline_ms=200))
    yield opened
    for door in opened:
        door.close()


@pytest.fixture(scope="package")
def apart(faulty: System) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways whose clocks are 5 s apart, and neither is right."""
    started = []
    for name, seconds in (("early", "-2.5"), ("late", "2.5")):
        command = ("tests.faults.shifted_gateway", seconds)
        started.append(Gateway(faulty, name, command=command, deadline_ms=1000).start())
    early, late = started
    yield early, late
    assert {early.stop(), late.stop()} <= {0, -signal.SIGTERM}


@pytest.fixture
def door(doors: tuple[Door, Door]) -> Door:
    return doors[0]


@pytest.fixture
def reader(faulty: System) -> Iterator[httpx.Client]:
    """A client of the system's own gateway, which nothing is broken for."""
    with faulty.client() as client:
        yield client


@pytest.fixture
def client(faulty: System, door: Door) -> Iterator[httpx.Client]:
    with door.gateway.client() as client:
        yield client


def consume(
    client: httpx.Client, subject: str, metric: str = "units", amount: int = 1, **headers: str
) -> httpx.Response:
    body = {"subject": subject, "metric": metric, "amount": amount}
    return client.post("/v1/consume", json=body, headers=headers)


def status(client: httpx.Client, subject: str, metric: str = "units") -> dict[str, Any]:
    """The metric of a subject as the counters have it now."""
    answer = client.get(f"/v1/subjects/{quote(subject, safe='')}/status")
    assert answer.status_code == 200, answer.text
    return next(each for each in answer.json()["metrics"] if each["metric"] == metric)


def used(client: httpx.Client, subject: str, metric: str = "units") -> int:
    return int(status(client, subject, metric)["used"])


def kinds(system: System, subjects: str) -> dict[str, int]:
    """How many entries of each kind the ledger has of these subjects, but for those that opened their accounts."""
    rows = system.sql(
        "SELECT kind, count(*) FROM entries WHERE subject LIKE %s AND kind <> 'open' GROUP BY kind", subjects
    )
    return dict(rows)


def assert_the_two_agree(system: System) -> None:
    """The ledger and the counters, after everything is drained."""
    system.drained(30)
    report = system.reconciled()
    assert (report["drifted"], report["undrained_entries"]) == (0, 0), report
    assert system.sql("SELECT * FROM incidents WHERE kind <> ALL (%s)", list(LOSSES)) == []


def assert_exactly_once(system: System, log: Log, metric: str, subjects: str) -> None:
    """Compares the clients' log with the ledger, and the ledger with the counters."""
    assert_the_two_agree(system)
    rows = system.sql(
        "SELECT request_id, count(*) FROM entries "
        "WHERE metric = %s AND subject LIKE %s AND kind = 'consume' GROUP BY request_id",
        metric,
        subjects,
    )
    in_ledger = {ident for ident, _ in rows}
    assert [row for row in rows if row[1] != 1] == [], "an entry is there twice"
    assert log.acknowledged() - in_ledger == set(), "an acknowledged request is not in the ledger"
    assert in_ledger - log.attempted() == set(), "the ledger has what nobody asked for"
    balance = system.sql("SELECT sum(used) FROM balances WHERE metric = %s AND subject LIKE %s", metric, subjects)
    changes = system.sql("SELECT sum(change) FROM entries WHERE metric = %s AND subject LIKE %s", metric, subjects)
    assert balance == changes


def assert_only_what_was_answered_counts(
    system: System,
    reader: httpx.Client,
    log: Log,
    subjects: list[str],
    amount: int = 1,
    metric: str = "units",
    within_s: float = 30,
) -> None:
    """What was charged without an answer is taken back: each unit that is used was acknowledged."""
    acknowledged = len(log.acknowledged()) * amount
    eventually(
        lambda: sum(used(reader, subject, metric) for subject in subjects) == acknowledged,
        f"{acknowledged} units are used",
        within_s,
    )
    assert_the_two_agree(system)
    assert sum(used(reader, subject, metric) for subject in subjects) == acknowledged
