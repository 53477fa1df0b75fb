"""A store is killed or emptied while everything else runs on: it comes back by itself, and the two agree."""

from itertools import count, takewhile

import httpx

from quota import keys
from quota.handles import Receipt
from tests.faults.conftest import SCANS, assert_exactly_once, assert_the_two_agree
from tests.faults.losing import FLUSHED, flush_under_load
from tests.faults.postgres_away import hung_postgres, postgres_away
from tests.load import Log, hammer
from tests.system import Gateway, System, eventually


def _status(client: httpx.Client, subject: str) -> int:
    return client.post("/v1/consume", json={"subject": subject, "metric": "units"}).status_code


def _served_again(client: httpx.Client, subject: str) -> None:
    eventually(lambda: _status(client, subject) == 200, "requests are served again", 10)


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


def test_a_shard_whose_head_or_journal_is_damaged_begins_anew_and_keeps_no_other_from_the_ledger(
    faulty: System,
) -> None:
    with faulty.client() as client:
        shards = []
        for subject in ("damaged_head", "damaged_journal", "well"):
            answer = client.post("/v1/consume", json={"subject": subject, "metric": "units"})
            shards.append(Receipt.parsed(answer.json()["receipt"]).shard)
        faulty.drained()
        faulty.redis().hset(keys.head(shards[0]), "epoch", "q")
        faulty.redis().set(keys.journal(shards[1]), "no stream")
        for subject in ("damaged_head", "damaged_journal", "well"):
            _served_again(client, subject)
    faulty.drained()
    assert_the_two_agree(faulty)


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
    with faulty.client() as client:
        assert _status(client, "before_and_after") == 200
        faulty.drained()
        before = faulty.sql("SELECT count(*) FROM incidents WHERE kind = 'lost'")[0][0]
        faulty.redis().flushall()
        assert _status(client, "before_and_after") == 200
    assert faulty.sql("SELECT count(*) FROM incidents WHERE kind = 'lost'")[0][0] > before


def test_while_postgres_is_away_the_journal_holds_on_up_to_its_budget(faulty: System) -> None:
    subjects = [f"kept_{each}" for each in range(20)]
    log, away = Log(), Gateway(faulty, "bounded", journal_entries=1_000, deadline_ms=200).start()
    try:
        with away.client() as client, faulty.client() as other:
            for subject in subjects:
                assert _status(client, subject) == _status(other, subject) == 200
            faulty.drained()
            with hung_postgres(faulty):
                bodies = ({"subject": subjects[each % 20], "metric": "units"} for each in count())
                requests = takewhile(lambda _: log.counts[503] == 0, bodies)
                log = hammer([away.url], faulty.admin_key, requests, into=log)
                refused = client.post("/v1/consume", json={"subject": subjects[0], "metric": "units"})
                assert (refused.status_code, refused.json()["code"]) == (503, "COUNTERS_UNAVAILABLE")
                assert "journal is full" in refused.json()["detail"]
                assert client.post("/v1/check", json={"subject": subjects[0], "metric": "units"}).status_code == 200
                assert _status(other, subjects[0]) == 200, "its own budget is larger"
            assert len(log.acknowledged()) >= 1_000
            faulty.drained(60)
            eventually(lambda: _status(client, subjects[0]) == 200, "requests are served again", 5)
    finally:
        away.stop()
    in_ledger = {row[0] for row in faulty.sql("SELECT request_id FROM entries WHERE subject LIKE 'kept\\_%%'")}
    assert log.acknowledged() <= in_ledger
    assert_the_two_agree(faulty)


def test_a_hung_postgres_delays_nobody_and_is_caught_up_with(faulty: System) -> None:
    # `make soak` has ten minutes of it, at full rate: tests/soak/away.py.
    seen = postgres_away(faulty, [faulty.urls["gateway"]], "away", away_s=20, around_s=1, clients=8, pause_s=0.01)
    assert set(seen.log.counts) == {200}
    assert len(seen.meanwhile) > 500 and seen.waited > 500
    assert seen.meanwhile[-1] < 1_000, "nobody has waited for Postgres, which takes a deadline of five seconds"
    assert seen.meanwhile[len(seen.meanwhile) // 2] < 3 * seen.before[len(seen.before) // 2] + 20
    assert_exactly_once(faulty, seen.log, "units", "away-%")


def test_a_hung_postgres_is_told_within_a_deadline_and_lets_go(faulty: System) -> None:
    with faulty.client() as client:
        assert _status(client, "known") == 200
        with hung_postgres(faulty):
            answer = client.post("/v1/consume", json={"subject": "not_known_at_all", "metric": "units"})
            assert (answer.status_code, answer.json()["code"]) == (503, "LEDGER_UNAVAILABLE")
            assert _status(client, "known") == 200
        eventually(lambda: _status(client, "not_known_at_all") == 200, "Postgres answers again", 30)
    faulty.drained(30)


def test_four_gateways_at_work_on_a_redis_that_is_emptied_let_through_no_more_than_was_lost(faulty: System) -> None:
    """Eight pods that reseed a cold key, eight times the spend (BerriAI/litellm#28247)."""
    more = [Gateway(faulty, f"flushed-{each}", deadline_ms=200).start() for each in range(3)]
    try:
        urls = [faulty.urls["gateway"], *(each.url for each in more)]
        acknowledged, lost = flush_under_load(faulty, urls, "emptied", 1_200)
    finally:
        for each in more:
            each.stop()
    assert acknowledged <= FLUSHED * SCANS + lost
