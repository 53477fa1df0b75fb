"""Kills Redis under load, again and again, and looks at what is left."""

from collections.abc import Callable
from itertools import count, takewhile
from typing import Any

from tests.faults.conftest import assert_exactly_once, assert_only_what_was_answered_counts
from tests.load import Log, hammer
from tests.system import System, eventually

BETWEEN_KILLS = 250
"""Requests that are served before Redis is killed again."""
SUBJECTS = 20


def kill_redis_under_load(
    system: System, times: int, name: str, told: Callable[[int, Log], None] = lambda _times, _log: None
) -> Log:
    """Requests go on until Redis was killed so many times and is back. `told` hears of each kill."""

    def kill(log: Log) -> None:
        for killed in range(times):
            _wait_for_more(log, "requests are served")
            system.server("redis").kill()
            told(killed + 1, log)
        _wait_for_more(log, "requests are served after the last kill")

    return requests_go_on(system, name, SUBJECTS, kill, clients=32)


def requests_go_on(system: System, name: str, subjects: int, meanwhile: Callable[[Log], None], **load: Any) -> Log:
    """Consumes 2 units at a time, of one subject after the other, until `meanwhile` comes to its end."""
    done: list[bool] = []

    def until_done(log: Log) -> None:
        try:
            meanwhile(log)
        finally:
            done.append(True)

    bodies = ({"subject": f"{name}-{place % subjects}", "metric": "units", "amount": 2} for place in count())
    requests = takewhile(lambda _: not done, bodies)
    return hammer([system.urls["gateway"]], system.admin_key, requests, meanwhile=until_done, **load)


def _wait_for_more(log: Log, what: str) -> None:
    served = log.served
    eventually(lambda: log.served >= served + BETWEEN_KILLS, what, 60)


def assert_nothing_acknowledged_is_missing(system: System, log: Log, name: str) -> None:
    """Acknowledged ⊆ ledger ⊆ attempted, nothing twice, and in the end only what was acknowledged counts."""
    with system.client() as client:
        subjects = [f"{name}-{place}" for place in range(SUBJECTS)]
        assert_only_what_was_answered_counts(system, client, log, subjects, 2)
    assert_exactly_once(system, log, "units", f"{name}-%")
