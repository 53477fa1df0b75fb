"""Replies that are lost, of requests without an idempotency key: who was told 503 is not charged in the end."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest

from tests.faults.conftest import Door, assert_only_what_was_answered_counts, assert_the_two_agree, consume, kinds, used
from tests.load import Request, hammer
from tests.system import System, eventually

SUBJECTS = 40
REQUESTS = 400


@contextmanager
def undrained(system: System) -> Iterator[None]:
    """Nothing leaves the journal meanwhile."""
    workers = system.parts("worker", "drain")
    assert workers
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.resume()


@pytest.mark.parametrize("request_ids", ["of their own", "that are all the same"])
def test_under_load_only_what_was_answered_is_charged_in_the_end(
    faulty: System, doors: tuple[Door, Door], reader: httpx.Client, request_ids: str
) -> None:
    shared = None if request_ids == "of their own" else "the-same"
    name = "shared" if shared else "own"
    subjects = [f"lost-{name}-{place}" for place in range(SUBJECTS)]
    requests = [
        Request({"subject": subjects[place % SUBJECTS], "metric": "units", "amount": 2}, request_id=shared)
        for place in range(REQUESTS)
    ]
    first, second = doors
    with first.broken(drop_chance=0.2), second.broken(drop_chance=0.2):
        log = hammer([first.url, second.url], faulty.admin_key, requests)
    assert set(log.counts) == {200, 503}
    assert_only_what_was_answered_counts(faulty, reader, log, subjects, 2)
    found = kinds(faulty, f"lost-{name}-%")
    assert found["refund"] > 0
    assert found["consume"] - found["refund"] == len(log.acknowledged())


@pytest.mark.parametrize("where", ["journal", "ledger"])
def test_it_is_found_in_the_journal_and_in_the_ledger(
    faulty: System, door: Door, client: httpx.Client, where: str
) -> None:
    subject = f"found_in_the_{where}"
    assert consume(client, subject).status_code == 200
    faulty.drained()
    with undrained(faulty):
        door.redis.faults.drop_next = 1
        lost = consume(client, subject, amount=5)
        assert (lost.status_code, lost.json()["code"]) == (503, "COUNTERS_UNAVAILABLE")
        assert "retry-after" in lost.headers
        assert used(client, subject) == 6
        if where == "journal":
            eventually(lambda: used(client, subject) == 1, "it was taken back out of the journal")
    eventually(lambda: used(client, subject) == 1, "it was taken back")
    faulty.drained()
    assert kinds(faulty, subject) == {"consume": 2, "refund": 1}
    assert faulty.sql("SELECT reason FROM entries WHERE subject = %s AND kind = 'refund'", subject) == [
        ("no caller was told",)
    ]


def test_an_operation_is_taken_back_whole(faulty: System, door: Door, client: httpx.Client) -> None:
    assert client.put("/v1/subjects/whole/subscription", json={"plan": "tokens_first"}).status_code == 200
    body = {"subject": "whole", "operation": "render", "quantity": 2}
    assert client.post("/v1/consume", json=body).status_code == 200
    door.redis.faults.drop_next = 1
    assert client.post("/v1/consume", json=body).status_code == 503
    eventually(lambda: kinds(faulty, "whole") == {"consume": 6, "refund": 3}, "all three charges are taken back")
    costs = {"tokens": 10, "frames": 4, "minutes": 2}
    assert {metric: used(client, "whole", metric) for metric in costs} == costs


def test_the_items_of_a_batch_that_were_answered_stay_charged(faulty: System, door: Door, client: httpx.Client) -> None:
    """257 items are three calls: the first is answered, the reply to the second is lost, and the third is not made."""
    items = [{"subject": "items", "metric": "units", "amount": 1}] * 257
    assert consume(client, "items").status_code == 200
    door.redis.faults.pass_next, door.redis.faults.drop_next = 1, 1
    results = client.post("/v1/consume/batch", json={"items": items}).json()["results"]
    assert [each["status"] for each in results] == [200] * 128 + [503] * 129
    eventually(lambda: used(client, "items") == 129, "what was not answered is taken back")
    assert_the_two_agree(faulty)


def test_a_hold_of_which_nobody_was_told_is_released(faulty: System, door: Door, client: httpx.Client) -> None:
    assert consume(client, "held_unheard").status_code == 200
    door.redis.faults.drop_next = 1
    body = {"subject": "held_unheard", "metric": "units", "amount": 5, "ttl_s": 3600}
    assert client.post("/v1/reservations", json=body).status_code == 503
    eventually(lambda: kinds(faulty, "held_unheard") == {"consume": 1, "hold": 1, "release": 1}, "it is released")
    assert_the_two_agree(faulty)


def test_a_level_of_whose_release_nobody_was_told_is_taken_again(
    faulty: System, door: Door, client: httpx.Client
) -> None:
    assert consume(client, "given_unheard", "projects", 9).status_code == 200
    body = {"subject": "given_unheard", "metric": "projects", "amount": 2}
    door.redis.faults.drop_next = 1
    assert client.post("/v1/release", json=body).status_code == 503
    eventually(lambda: used(client, "given_unheard", "projects") == 7, "it was given back")
    eventually(lambda: used(client, "given_unheard", "projects") == 9, "it is taken again")
    assert_the_two_agree(faulty)
