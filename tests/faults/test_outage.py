"""Redis is away, or hangs: an answer at once by the metric's declared posture, and everything counted in the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.faults.conftest import Door, assert_the_two_agree, consume, kinds, used
from tests.load import hammer
from tests.system import System, eventually

FAULTS: dict[str, dict[str, float]] = {"refuses": {"refuses": True}, "hangs": {"swallows": True}}


@pytest.fixture(params=FAULTS)
def away(request: pytest.FixtureRequest) -> dict[str, float]:
    return FAULTS[request.param]


@contextmanager
def without_redis(door: Door, **fault: float) -> Iterator[httpx.Client]:
    """A client of a gateway that knows already that Redis is away."""
    with door.gateway.client() as client, door.broken(**(fault or {"refuses": True})):
        eventually(lambda: _is_refused_at_once(door, client), "the breaker is open")
        yield client


def _is_refused_at_once(door: Door, client: httpx.Client) -> bool:
    before = door.redis.counts.trips
    assert consume(client, "anybody").status_code == 503
    return door.redis.counts.trips == before


def _let_through(system: System, subject: str) -> list[tuple[bool, str | None]]:
    """Whether each consume that was let through is charged, and why it cannot be."""
    return [
        (bool(settled), refusal)
        for settled, refusal in system.sql(
            "SELECT settled_at IS NOT NULL, refusal FROM outage_charges WHERE subject = %s", subject
        )
    ]


def _lost(system: System, subject: str) -> int:
    """How many replies to requests of a subject are still to be looked for."""
    return len(system.sql("SELECT id FROM lost_replies WHERE document ->> 'subject' = %s", subject))


def test_a_metric_that_is_denied_in_an_outage_is_told_with_503_and_not_charged(
    door: Door, away: dict[str, float]
) -> None:
    with door.gateway.client() as client:
        assert consume(client, "denied_away").status_code == 200
        before = used(client, "denied_away")
    with without_redis(door, **away) as client:
        for _ in range(3):
            answer = consume(client, "denied_away")
            assert (answer.status_code, answer.json()["code"]) == (503, "COUNTERS_UNAVAILABLE")
            assert int(answer.headers["retry-after"]) >= 1
    with door.gateway.client() as client:
        assert used(client, "denied_away") == before


def test_nobody_makes_a_trip_to_a_redis_that_is_known_to_hang_and_it_is_used_again_when_it_is_back(
    door: Door,
) -> None:
    with without_redis(door, swallows=True) as client:
        before = door.redis.counts.trips
        assert {consume(client, "at_once").status_code for _ in range(100)} == {503}
        assert door.redis.counts.trips - before < 100, "there are those of the probe alone"
    with door.gateway.client() as client:  # `recover` has waited until requests are served
        assert consume(client, "at_once").json()["used"] == 1


def test_no_request_fails_on_a_connection_that_was_closed_while_nobody_used_it(faulty: System, door: Door) -> None:
    eventually(lambda: faulty.sql("SELECT count(*) FROM lost_replies") == [(0,)], "nobody uses one by himself")
    requests = [{"subject": f"again-{place % 40}", "metric": "units"} for place in range(400)]
    assert hammer([door.url], faulty.admin_key, requests).counts == {200: 400}
    door.redis.cut()
    with door.gateway.client() as client:
        eventually(lambda: door.redis.open_connections == 0, "its connections are closed")
        assert client.get("/health/live").status_code == 200  # so it has heard of that, too
    assert hammer([door.url], faulty.admin_key, requests).counts == {200: 400}


class TestWhatIsLetThrough:
    def test_it_is_kept_in_the_ledger_and_charged_once_even_above_the_limit(
        self, faulty: System, door: Door, reader: httpx.Client, away: dict[str, float], request: pytest.FixtureRequest
    ) -> None:
        subject = f"through-{request.node.callspec.id}"
        assert consume(reader, subject, "views", 9).json()["remaining"] == 1
        with without_redis(door, **away) as client:
            for _ in range(5):
                answer = consume(client, subject, "views", 2)
                assert (answer.status_code, answer.json()["degraded"], answer.json()["allowed"]) == (200, True, True)
            eventually(lambda: len(_let_through(faulty, subject)) == 5, "all of it is in the ledger")
        eventually(lambda: used(reader, subject, "views") == 19, "all of it is charged, above the limit of 10")
        eventually(lambda: _let_through(faulty, subject) == [(True, None)] * 5, "all of it is settled")
        assert consume(reader, subject, "views").status_code == 429
        assert_the_two_agree(faulty)
        assert kinds(faulty, subject)["consume"] == 6

    def test_one_key_is_charged_once_before_in_and_after_the_outage(
        self, faulty: System, door: Door, reader: httpx.Client
    ) -> None:
        keys = {"Idempotency-Key": "before"}
        assert consume(reader, "keyed", "likes", 3, **keys).status_code == 200
        with without_redis(door) as client:
            for key in ("before", "within", "within", "within"):
                answer = consume(client, "keyed", "likes", 3, **{"Idempotency-Key": key})
                assert (answer.status_code, answer.json()["degraded"]) == (200, True)
        eventually(lambda: _let_through(faulty, "keyed") == [(True, None)] * 4, "all of it is settled")
        after = consume(reader, "keyed", "likes", 3, **{"Idempotency-Key": "within"})
        assert (after.status_code, after.json()["replayed"]) == (200, True)
        assert used(reader, "keyed", "likes") == 6
        faulty.drained()
        assert kinds(faulty, "keyed") == {"consume": 2}

    def test_an_operation_is_let_through_only_if_all_of_its_metrics_are(
        self, faulty: System, door: Door, reader: httpx.Client
    ) -> None:
        with without_redis(door) as client:
            mixed = client.post("/v1/consume", json={"subject": "operating", "operation": "buy"})
            assert (mixed.status_code, mixed.json()["code"]) == (503, "COUNTERS_UNAVAILABLE")
            whole = client.post("/v1/consume", json={"subject": "operating", "operation": "look", "quantity": 2})
            assert (whole.status_code, whole.json()["degraded"]) == (200, True)
        eventually(lambda: _let_through(faulty, "operating") == [(True, None)], "it is settled")
        assert (used(reader, "operating", "views"), used(reader, "operating", "likes")) == (2, 4)
        assert used(reader, "operating", "units") == 0
        faulty.drained()
        assert faulty.sql("SELECT DISTINCT receipt_count FROM entries WHERE subject = 'operating'") == [(2,)]

    def test_a_request_whose_reply_was_lost_is_let_through_and_charged_once(
        self, faulty: System, door: Door, client: httpx.Client, reader: httpx.Client
    ) -> None:
        assert consume(client, "half_known", "likes").status_code == 200
        door.redis.faults.drop_next = 1
        assert consume(client, "half_known", "likes", 5).json()["degraded"] is True
        eventually(lambda: _let_through(faulty, "half_known") == [(True, None)], "it is settled")
        eventually(lambda: kinds(faulty, "half_known") == {"consume": 3, "refund": 1}, "the first charge is taken back")
        assert used(reader, "half_known", "likes") == 6

    def test_with_the_ledger_away_too_it_waits_on_the_disk_and_outlives_a_killed_gateway(
        self, faulty: System, door: Door, reader: httpx.Client
    ) -> None:
        assert consume(reader, "on_disk", "views").status_code == 200
        with door.gateway.client() as client:
            assert consume(client, "on_disk", "views").status_code == 200  # its key and its catalog are known now
        with without_redis(door) as client:
            door.database.faults.refuses = True
            door.database.cut()
            for place in range(4):
                answer = consume(client, "on_disk", "views", 3, **{"Idempotency-Key": f"disk-{place // 2}"})
                assert (answer.status_code, answer.json()["degraded"]) == (200, True)
            assert consume(client, "on_disk").status_code == 503
            assert _let_through(faulty, "on_disk") == []
            door.gateway.kill()
            door.redis.heal()
            door.database.heal()
            door.gateway.start()
        eventually(lambda: _let_through(faulty, "on_disk") == [(True, None)] * 4, "all of it is settled")
        assert used(reader, "on_disk", "views") == 8
        assert_the_two_agree(faulty)
        assert kinds(faulty, "on_disk")["consume"] == 4


def test_a_redis_that_is_stopped_and_goes_on_has_charged_only_what_was_answered(
    faulty: System, reader: httpx.Client
) -> None:
    """A real one, under the gateway that stands beside it: what lay in its sockets is done when it goes on."""
    assert consume(reader, "stopped").status_code == 200
    redis: psutil.Process = faulty.server("redis")
    redis.suspend()
    try:
        answers = [consume(reader, "stopped").status_code for _ in range(20)]
        let_through = consume(reader, "stopped", "likes", 2)
    finally:
        redis.resume()
    assert set(answers) == {503}
    assert (let_through.status_code, let_through.json()["degraded"]) == (200, True)
    eventually(lambda: consume(reader, "stopped").status_code == 200, "requests are served again")
    eventually(lambda: used(reader, "stopped", "likes") == 2, "what was let through is charged")
    served = len([1 for each in answers if each == 200]) + 2
    eventually(lambda: used(reader, "stopped") == served, "what was not answered is taken back")
    assert_the_two_agree(faulty)
    assert used(reader, "stopped") == served


def test_a_gateway_that_is_killed_while_redis_hangs_leaves_to_others_what_it_knew(
    faulty: System, door: Door, reader: httpx.Client
) -> None:
    """What it sent lies in Redis's sockets, and is charged when it goes on: nobody else has heard of that."""
    for metric in ("units", "likes"):
        assert consume(reader, "orphaned", metric).status_code == 200
    with door.gateway.client() as client:
        assert consume(client, "orphaned").status_code == 200  # its key and its catalog are known now
        redis, sent_at = faulty.server("redis"), time.monotonic()
        redis.suspend()
        try:
            refused, let_through = consume(client, "orphaned", amount=5), consume(client, "orphaned", "likes", 5)
            eventually(lambda: _lost(faulty, "orphaned") == 2, "both are written down")
            door.gateway.kill()
        finally:
            redis.resume()
            took_s = time.monotonic() - sent_at
    try:
        assert refused.status_code == 503
        assert (let_through.status_code, let_through.json()["degraded"]) == (200, True)
        # What meets a busy machine is tried again after two, four and eight seconds, and eight again.
        eventually(lambda: _let_through(faulty, "orphaned") == [(True, None)], "what was let through is settled", 40)
        eventually(lambda: _lost(faulty, "orphaned") == 0, "the other is looked for", 40)
        assert (used(reader, "orphaned"), used(reader, "orphaned", "likes")) == (2, 6)
        assert_the_two_agree(faulty)
        found = kinds(faulty, "orphaned")
        taken_back = found.get("refund", 0)
        assert found["consume"] - taken_back == 4
        # Past a second Redis charges nothing of what lay in its sockets, and there is nothing to take back.
        assert taken_back > 0 or took_s >= 1
    finally:
        door.gateway.start()
