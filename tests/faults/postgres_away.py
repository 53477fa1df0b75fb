"""Stops Postgres for a while under load, and looks at who notices."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

import psutil

from tests.faults.dying import waiting
from tests.load import Log, hammer
from tests.system import System, eventually

SUBJECTS = 200
WARM_REQUESTS = 1_000
"""Served before anything is measured: by then Redis knows every subject."""
CATCH_UP_WITHIN_S, CATCH_UP_WITHIN = 60.0, 3
"""What catching up may take at least, and how many times the stop itself: the load goes on meanwhile."""


@contextmanager
def hung_postgres(system: System) -> Iterator[None]:
    """SIGSTOP of its server and everybody's backend: it takes connections, and answers nothing."""
    postgres = system.server("database")
    servers = [postgres, *postgres.children()]
    for server in servers:
        with suppress(psutil.NoSuchProcess):  # a backend may end by itself meanwhile
            server.suspend()
    try:
        yield
    finally:
        for server in servers:
            with suppress(psutil.NoSuchProcess):
                server.resume()


@dataclass
class Away:
    """What was seen. The instants are of the monotonic clock: Postgres stopped, went on, and had caught up."""

    log: Log
    began: float = 0.0
    stopped: float = 0.0
    went_on: float = 0.0
    caught_up: float = 0.0
    ended: float = 0.0
    waited: int = 0
    """Entries in the journal when Postgres went on."""
    drained: int = 0
    """Those, and what came until it had caught up."""
    bytes_an_entry: float = 0.0

    def took_ms(self, since: float, until: float) -> list[float]:
        """How long the answers took that were asked for in a stretch of time, sorted."""
        return sorted(seconds * 1000 for _, began, seconds in self.log.answers if since <= began < until)

    @property
    def before(self) -> list[float]:
        return self.took_ms(self.began, self.stopped)

    @property
    def meanwhile(self) -> list[float]:
        return self.took_ms(self.stopped, self.went_on)

    @property
    def catching_up(self) -> list[float]:
        return self.took_ms(self.went_on, self.caught_up)

    @property
    def after(self) -> list[float]:
        return self.took_ms(self.caught_up, self.ended)


def postgres_away(
    system: System,
    urls: list[str],
    name: str,
    away_s: float,
    around_s: float,
    told: Callable[[float, int], object] = lambda *_: None,
    **load: Any,
) -> Away:
    """Requests of known subjects go on for a while, while Postgres stands still, until the ledger has caught up, and
    for a while after it. `told` hears now and then for how many seconds it has stood, and how many entries wait."""
    seen = Away(Log())
    bodies = ({"subject": f"{name}-{each % SUBJECTS}", "metric": "units"} for each in count())

    def stop(log: Log) -> None:
        try:
            eventually(lambda: log.served >= WARM_REQUESTS, "requests are served", 60)
            seen.began = time.monotonic()
            _until(seen.began + around_s)
            with hung_postgres(system):
                seen.stopped = time.monotonic()
                _stand_still(system, seen, away_s, told)
            seen.went_on, served = time.monotonic(), log.served
            within_s = CATCH_UP_WITHIN_S + CATCH_UP_WITHIN * away_s
            a_second = log.served / (seen.went_on - seen.began)
            eventually(lambda: 0 < waiting(system) < a_second, "the ledger is a second behind", within_s)
            seen.caught_up, seen.drained = time.monotonic(), seen.waited + log.served - served
            _until(seen.caught_up + around_s)
        finally:
            seen.ended = time.monotonic()

    hammer(
        urls,
        system.admin_key,
        takewhile(lambda _: not seen.ended, bodies),
        meanwhile=stop,
        into=seen.log,
        **load,
    )
    return seen


def _stand_still(system: System, seen: Away, away_s: float, told: Callable[[float, int], object]) -> None:
    first, first_bytes = waiting(system), _bytes(system)
    for part in range(1, 11):
        _until(seen.stopped + away_s * part / 10)
        seen.waited = waiting(system)
        told(time.monotonic() - seen.stopped, seen.waited)
    seen.bytes_an_entry = (_bytes(system) - first_bytes) / max(seen.waited - first, 1)


def _bytes(system: System) -> int:
    with system.redis() as connection:
        return int(connection.info("memory")["used_memory"])


def _until(instant: float) -> None:
    eventually(lambda: time.monotonic() >= instant, "it went on for a while", max(instant - time.monotonic(), 0.0) + 5)
