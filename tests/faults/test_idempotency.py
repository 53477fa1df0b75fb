"""One idempotency key, one charge: with copies in flight, replies that are lost, and a Redis that has forgotten."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.faults.conftest import Door, assert_the_two_agree, consume, kinds, status, used
from tests.faults.proxy import Counts
from tests.load import Request, hammer
from tests.system import System, eventually

COPIES = 1_000


def test_a_thousand_copies_of_one_request_are_charged_once_though_replies_are_lost_and_late(
    faulty: System, doors: tuple[Door, Door]
) -> None:
    copies = [Request({"subject": "copied", "metric": "calls", "amount": 3}, key="one")] * COPIES
    first, second = doors
    faults = {"drop_chance": 0.3, "delay_chance": 0.3, "delay_s": 0.25}
    for door in doors:
        door.redis.counts = Counts()
    with first.broken(**faults), second.broken(**faults):
        log = hammer(
            [first.url, second.url],
            faulty.admin_key,
            copies,
            clients=COPIES,
            keep_bodies=True,
            until_answered=True,
        )
    assert log.counts == {200: COPIES}
    assert len({body["receipt"] for body in log.bodies.values()}) == 1
    assert {body["used"] for body in log.bodies.values()} == {3}
    assert sum(door.redis.counts.dropped for door in doors) > 0
    assert sum(door.redis.counts.delayed for door in doors) > 0
    assert_the_two_agree(faulty)
    assert faulty.sql("SELECT kind, change, used_after FROM entries WHERE subject = 'copied'") == [("consume", 3, 3)]


def _forget_the_records(system: System) -> None:
    connection = system.redis()
    names = connection.keys("qg:{*}:i:*")
    assert names, "there is something to forget"
    connection.delete(*names)


def _flush(system: System) -> None:
    system.redis().flushall()


@dataclass
class Repeats:
    """Every route was asked under one and the same key, Redis forgot, and every route was asked again."""

    client: httpx.Client
    ident: str
    receipt: str = ""
    first: dict[str, httpx.Response] = field(default_factory=dict)
    again: dict[str, httpx.Response] = field(default_factory=dict)

    def subject(self, name: str) -> str:
        return f"{self.ident}/{name}"

    def ask(self, answers: dict[str, httpx.Response], other: httpx.Client) -> None:
        def post(name: str, path: str, body: dict[str, Any], client: httpx.Client = self.client) -> None:
            def answer() -> httpx.Response | None:
                found = client.post(path, json=body, headers={"Idempotency-Key": "the-key"})
                return found if found.status_code != 503 else None  # as there may be for a moment after a loss

            found = eventually(answer, f"{path} is answered")
            assert found is not None
            answers[name] = found

        items = [{"subject": self.subject("item"), "metric": "units", "amount": amount} for amount in (4, 5)]
        held = {"subject": self.subject("held"), "metric": "units", "amount": 6, "ttl_s": 3600}
        released = {"subject": self.subject("level"), "metric": "projects", "amount": 2}
        post("consume", "/v1/consume", {"subject": self.subject("consume"), "metric": "units", "amount": 7})
        post("other", "/v1/consume", {"subject": self.subject("consume"), "metric": "units", "amount": 8}, other)
        post("batch", "/v1/consume/batch", {"items": items})
        post(
            "atomic",
            "/v1/consume/batch",
            {"items": [{**each, "subject": self.subject("atomic")} for each in items], "atomic": True},
        )
        post("hold", "/v1/reservations", held)
        post("settled", "/v1/reservations", {**held, "subject": self.subject("settled")})
        post("lapsed", "/v1/reservations", {**held, "subject": self.subject("lapsed"), "ttl_s": 2})
        post("refund", "/v1/refunds", {"receipt": self.receipt, "amount": 3})
        post("release", "/v1/release", released)


@pytest.fixture(scope="module", params=[_forget_the_records, _flush], ids=["records", "everything"])
def repeats(faulty: System, doors: tuple[Door, Door], request: pytest.FixtureRequest) -> Iterator[Repeats]:
    other_key = faulty.make_key(f"other-{request.param.__name__.strip('_')}")
    with doors[0].gateway.client() as client, faulty.client(other_key) as other:
        document = client.get("/v1/catalog").json()
        assert other.put("/v1/catalog", json=document).status_code == 200
        made = Repeats(client, request.param.__name__.strip("_"))
        made.receipt = consume(client, made.subject("refund"), amount=10).json()["receipt"]
        assert consume(client, made.subject("level"), "projects", 9).status_code == 200
        made.ask(made.first, other)
        assert client.post(f"/v1/reservations/{made.first['settled'].json()['id']}/commit").status_code == 200
        lapsed = made.subject("lapsed")
        eventually(lambda: status(client, lapsed)["held"] == 0, "the hold has expired")
        faulty.drained()
        request.param(faulty)
        made.ask(made.again, other)
        yield made
        assert used(other, made.subject("consume")) == 8
    assert_the_two_agree(faulty)


class TestAfterRedisForgot:
    """The first answers are gone. A repeat is done again, and that is taken back as soon as the ledger knows of it.
    The same key on another route, or of another tenant, is another key."""

    def test_a_consume_ends_with_one_charge(self, faulty: System, repeats: Repeats) -> None:
        first, again = repeats.first["consume"].json(), repeats.again["consume"].json()
        assert (again["replayed"], first["used"], again["used"]) == (False, 7, 14)
        subject = repeats.subject("consume")
        eventually(lambda: used(repeats.client, subject) == 7, "the repeat is taken back")
        eventually(lambda: kinds(faulty, subject) == {"consume": 4, "refund": 2}, "both tenants' repeats went back")

    def test_each_item_of_a_batch_ends_with_one_charge(self, repeats: Repeats) -> None:
        assert [each["used"] for each in repeats.first["batch"].json()["results"]] == [4, 9]
        assert [each["used"] for each in repeats.again["batch"].json()["results"]] == [13, 18]
        eventually(lambda: used(repeats.client, repeats.subject("item")) == 9, "the repeats are taken back")

    def test_an_atomic_batch_ends_with_one_charge(self, repeats: Repeats) -> None:
        assert repeats.again["atomic"].json()["results"][0]["used"] == 18
        eventually(lambda: used(repeats.client, repeats.subject("atomic")) == 9, "the repeat is taken back")

    def commit(self, repeats: Repeats, answers: dict[str, httpx.Response], name: str) -> httpx.Response:
        return repeats.client.post(f"/v1/reservations/{answers[name].json()['id']}/commit")

    def test_of_two_reservations_the_one_that_the_caller_was_told_of_last_stays(self, repeats: Repeats) -> None:
        assert repeats.first["hold"].json()["id"] != repeats.again["hold"].json()["id"]
        assert repeats.again["hold"].json()["held"] == 12
        subject = repeats.subject("held")
        eventually(lambda: status(repeats.client, subject)["held"] == 6, "the first hold is released")
        assert self.commit(repeats, repeats.first, "hold").json()["code"] == "RESERVATION_SETTLED"
        settled = self.commit(repeats, repeats.again, "hold")
        assert (settled.status_code, settled.json()["used"], settled.json()["held"]) == (200, 6, 0)

    def test_a_reservation_is_released_whose_first_one_was_committed(self, repeats: Repeats) -> None:
        assert (repeats.again["settled"].json()["used"], repeats.again["settled"].json()["held"]) == (6, 6)
        subject = repeats.subject("settled")
        eventually(lambda: status(repeats.client, subject)["held"] == 0, "the second hold is released")
        assert self.commit(repeats, repeats.again, "settled").status_code == 409
        assert used(repeats.client, subject) == 6

    def test_a_reservation_whose_first_one_has_expired_is_the_only_one(
        self, faulty: System, repeats: Repeats, client: httpx.Client
    ) -> None:
        """It expires too: nobody has released it."""
        subject = repeats.subject("lapsed")
        assert repeats.again["lapsed"].json()["held"] == 6
        eventually(lambda: status(client, subject)["held"] == 0, "the second hold has ended")
        consume(client, subject)  # a look writes nothing down
        faulty.drained()
        assert kinds(faulty, subject) == {"hold": 2, "expire": 2, "consume": 1}

    def test_a_partial_refund_is_answered_again_and_not_done_again(self, faulty: System, repeats: Repeats) -> None:
        first, again = repeats.first["refund"].json(), repeats.again["refund"]
        assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
        assert again.json() == first | {"replayed": True}
        assert used(repeats.client, repeats.subject("refund")) == 7
        rest = repeats.client.post("/v1/refunds", json={"receipt": repeats.receipt})
        assert (rest.json()["refunded"], rest.json()["refunded_total"]) == (7, 10)
        faulty.drained()
        assert kinds(faulty, repeats.subject("refund")) == {"consume": 1, "refund": 2}

    def test_the_key_of_a_refund_is_still_that_of_one_receipt(self, repeats: Repeats) -> None:
        other = consume(repeats.client, repeats.subject("refund"), amount=2).json()["receipt"]
        key = {"Idempotency-Key": "the-key"}
        for body in ({"receipt": other}, {"receipt": repeats.receipt, "amount": 2}):
            refused = repeats.client.post("/v1/refunds", json=body, headers=key)
            assert (refused.status_code, refused.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")

    def test_a_release_of_a_level_ends_with_one(self, repeats: Repeats) -> None:
        assert [each["release"].json()["used"] for each in (repeats.first, repeats.again)] == [7, 5]
        eventually(lambda: used(repeats.client, repeats.subject("level"), "projects") == 7, "it is taken again")


def test_a_refund_that_was_done_twice_after_all_is_charged_again(faulty: System, client: httpx.Client) -> None:
    """As where both stores had failed: the drain has noted the second one."""
    receipt = consume(client, "refunded_twice", amount=10).json()["receipt"]
    for _ in range(2):
        assert client.post("/v1/refunds", json={"receipt": receipt, "amount": 3}).status_code == 200
    faulty.drained()
    faulty.sql(
        "INSERT INTO take_backs (tenant, shard, epoch, first_n, receipt_count, kind, reason) "
        "SELECT tenant, shard, epoch, max(n), 1, kind, 'tried out' FROM entries "
        "WHERE subject = 'refunded_twice' AND kind = 'refund' GROUP BY tenant, shard, epoch, kind"
    )
    eventually(lambda: used(client, "refunded_twice") == 7, "the second refund is charged again")
    assert_the_two_agree(faulty)
    assert kinds(faulty, "refunded_twice") == {"consume": 2, "refund": 2}


def test_a_refund_is_served_though_it_is_the_first_request_that_a_lost_shard_sees(
    faulty: System, client: httpx.Client
) -> None:
    receipt = consume(client, "refunded_first", amount=5).json()["receipt"]
    faulty.drained()
    faulty.redis().flushall()
    served = client.post("/v1/refunds", json={"receipt": receipt})
    assert (served.status_code, served.json()["charges"][0]["used"]) == (200, 0)
    assert_the_two_agree(faulty)
