"""A store is killed or emptied while everything else runs on: it comes back by itself, and the two agree."""

import contextlib

import httpx
import psutil

from tests.faults.conftest import assert_exactly_once
from tests.load import hammer
from tests.system import System, eventually


def _status(client: httpx.Client, subject: str) -> int:
    return client.post("/v1/consume", json={"subject": subject, "metric": "units"}).status_code


def test_a_redis_that_was_emptied_is_provisioned_from_the_ledger_and_counts_on(faulty: System) -> None:
    requests = [{"subject": f"flush_{each % 40}", "metric": "units"} for each in range(800)]
    log = hammer([faulty.urls["gateway"]], faulty.admin_key, requests)
    faulty.drained()
    faulty.redis().flushall()
    with faulty.client() as client:
        answer = client.post(
            "/v1/consume", json={"subject": "flush_0", "metric": "units"}, headers={"X-Request-Id": "f"}
        )
    assert (answer.status_code, answer.json()["used"]) == (200, 21)
    log.status["f"] = 200
    # The jobs' schedule was lost with it, and must come back for the entry to reach the ledger.
    assert_exactly_once(faulty, log, "units", "flush\\_%")


def test_a_killed_redis_comes_back_with_everything_that_was_acknowledged(faulty: System) -> None:
    requests = [{"subject": f"redis_{each % 40}", "metric": "units"} for each in range(800)]
    log = hammer([faulty.urls["gateway"]], faulty.admin_key, requests)
    faulty.server("redis").kill()
    with faulty.client() as client:
        eventually(lambda: _status(client, "elsewhere") == 200, "requests are served again")
    assert len(log.acknowledged()) == 800
    assert_exactly_once(faulty, log, "units", "redis\\_%")


def test_a_killed_postgres_stops_no_subject_that_redis_knows(faulty: System) -> None:
    with faulty.client() as client:
        assert _status(client, "known") == 200
        faulty.server("database").kill()
        assert _status(client, "known") == 200
        eventually(lambda: _status(client, "not_known_yet") == 200, "Postgres is back")
    faulty.drained()
    assert faulty.reconciled()["drifted"] == 0


def test_a_loss_of_redis_leaves_an_incident_for_people_on_call(faulty: System) -> None:
    faulty.drained()
    before = faulty.sql("SELECT count(*) FROM incidents WHERE kind = 'lost'")[0][0]
    faulty.redis().flushall()
    with faulty.client() as client:
        assert _status(client, "after_the_loss") == 200
    assert faulty.sql("SELECT count(*) FROM incidents WHERE kind = 'lost'")[0][0] > before


def test_a_hung_postgres_is_told_within_a_deadline_and_lets_go(faulty: System) -> None:
    with faulty.client() as client:
        assert _status(client, "known") == 200
        postgres = faulty.server("database")
        servers = [postgres, *postgres.children()]
        for server in servers:
            with contextlib.suppress(psutil.NoSuchProcess):  # a backend may end by itself meanwhile
                server.suspend()
        try:
            answer = client.post("/v1/consume", json={"subject": "not_known_at_all", "metric": "units"})
            assert (answer.status_code, answer.json()["code"]) == (503, "LEDGER_UNAVAILABLE")
            assert _status(client, "known") == 200
        finally:
            for server in servers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    server.resume()
        eventually(lambda: _status(client, "not_known_at_all") == 200, "Postgres answers again", 30)
    faulty.drained(30)
