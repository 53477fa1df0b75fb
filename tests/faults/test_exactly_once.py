"""Acknowledged ⊆ ledger ⊆ attempted, no duplicates, no drift: through crowds and through kill -9 of whoever is at work.
At chosen points: test_killed_at_points.py.
"""

from collections.abc import Callable

from tests.faults.conftest import LIMIT, assert_exactly_once
from tests.load import Log, hammer
from tests.system import System, eventually


def test_64_clients_and_a_limit_of_10_000_admit_exactly_10_000_of_20_000(faulty: System) -> None:
    requests = [{"subject": "crowd", "metric": "calls"}] * (2 * LIMIT)
    log = hammer([faulty.urls["gateway"]], faulty.admin_key, requests)
    assert log.counts == {200: LIMIT, 429: LIMIT}
    assert_exactly_once(faulty, log, "calls", "crowd")
    counts = dict(faulty.sql("SELECT kind, count(*) FROM entries WHERE subject = 'crowd' GROUP BY kind"))
    assert (counts.pop("consume"), counts.pop("warned")) == (LIMIT, 3)
    assert counts.keys() == {"denied"}
    assert counts["denied"] < 100, "ten thousand denials are told as a few entries"


def _kill_repeatedly(system: System, times: int, *words: str) -> Callable[[Log], None]:
    def kill(log: Log) -> None:
        for killed in range(times):
            goal = 1500 * (killed + 1)
            eventually(lambda goal=goal: len(log.status) >= goal, f"{goal} requests were sent", 60)
            victims = eventually(lambda: system.parts(*words), f"{words} runs", 15)
            for victim in victims:
                victim.kill()
            dead = {victim.pid for victim in victims}
            eventually(lambda dead=dead: {part.pid for part in system.parts(*words)} - dead, f"{words} runs again", 15)

    return kill


def test_a_worker_killed_while_it_drains_loses_and_doubles_nothing(faulty: System) -> None:
    requests = [{"subject": f"w_{each % 200}", "metric": "units", "amount": 3} for each in range(4500)]
    killer = _kill_repeatedly(faulty, 2, "worker", "drain")
    log = hammer([faulty.urls["gateway"]], faulty.admin_key, requests, meanwhile=killer)
    assert log.counts == {200: len(requests)}
    assert_exactly_once(faulty, log, "units", "w\\_%")


def test_a_gateway_killed_under_load_loses_and_doubles_nothing(faulty: System) -> None:
    requests = [{"subject": f"g_{each % 200}", "metric": "units", "amount": 2} for each in range(6000)]
    killer = _kill_repeatedly(faulty, 3, "gateway", "--fd")
    log = hammer([faulty.urls["gateway"]], faulty.admin_key, requests, meanwhile=killer)
    assert len(log.acknowledged()) > 5000
    # One that has just started on a busy machine may miss a deadline: it says so, and what it charged goes back.
    assert set(log.counts) <= {0, 200, 503} and log.counts[503] < 50, log.counts
    assert_exactly_once(faulty, log, "units", "g\\_%")


def test_everything_killed_at_once_keeps_what_was_acknowledged(faulty: System) -> None:
    requests = [{"subject": f"e_{each % 50}", "metric": "units"} for each in range(2000)]
    log = hammer([faulty.urls["gateway"]], faulty.admin_key, requests)
    faulty.kill()
    faulty.start()
    assert len(log.acknowledged()) == 2000
    assert_exactly_once(faulty, log, "units", "e\\_%")
