"""Repeats of idempotency keys that Redis no longer knew: the ledger finds them, and says what must be taken back."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from sqlalchemy import text

from ledger import repeats
from ledger.repeats import TakeBack
from ledger.store import ALL_TENANTS, transaction
from quota import keys
from quota.journal import About, encode_about
from quota.protocol import Charge, Mode
from tests.conftest import Database
from tests.integration.ledger_rows import note_take_back
from tests.integration.pipeline import Pipeline
from workers import drain as drain_module

REASON = "repeated idempotency key"
RETENTION_S = 1_000
COLUMNS = "tenant, subject, route, key, shard, epoch, first_n, receipt_count, kind"


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        pipeline.clocked.open(limit=None).open("m2", limit=None)
        yield pipeline


def consume(pipeline: Pipeline, *amounts: int, key: str = "k", route: str = "consume", **changes: Any) -> int:
    """Without a record in Redis, as after its loss; the first entry's n."""
    about = encode_about(About(idempotency_key=key, route=route))
    (reply,) = pipeline.clocked.consume(pipeline.clocked.step(*amounts, about=about, **changes))
    assert reply.first_n is not None
    return reply.first_n


def later(pipeline: Pipeline, seconds: int) -> None:
    pipeline.clocked.set_clock(pipeline.clocked.now_ms() + seconds * 1000)


def to_take_back(pipeline: Pipeline) -> list[int]:
    found = pipeline.rows(
        "SELECT first_n, reason FROM take_backs WHERE done_at IS NULL ORDER BY created_at, shard, epoch, first_n"
    )
    assert {reason for _, reason in found} <= {REASON}
    return [first_n for first_n, _ in found]


class TestRepeats:
    def test_the_first_receipt_of_a_key_is_kept_and_a_later_one_is_to_be_taken_back(self, pipeline: Pipeline) -> None:
        assert consume(pipeline, 1, 2) == 0
        pipeline.drained()
        assert (consume(pipeline, 1, 2), pipeline.drained()) == (2, 2)
        assert pipeline.rows(f"SELECT {COLUMNS} FROM idempotency_keys") == [
            ("t", "u", "consume", "k", 3, 1, 0, 2, "consume")
        ]
        assert pipeline.call(repeats.claim, 100) == [TakeBack("t", 3, 1, 2, 2, "consume", REASON)]

    def test_copies_in_one_batch_are_found_too(self, pipeline: Pipeline) -> None:
        copies = [consume(pipeline, 1) for _ in range(4)]
        pipeline.drained()
        assert to_take_back(pipeline) == copies[1:]

    def test_another_subject_route_or_key_is_no_repeat(self, pipeline: Pipeline) -> None:
        consume(pipeline, 1)
        consume(pipeline, 1, key="K")
        consume(pipeline, 1, route="reservations")
        pipeline.put("consume {now} 1 1 1 1 1 - - - {account} {window}", encode_about(About(idempotency_key="k")))
        pipeline.drained()
        assert to_take_back(pipeline) == []
        assert pipeline.rows("SELECT count(*) FROM idempotency_keys") == [(4,)]

    def test_a_use_past_the_retention_is_a_first_one_again(self, pipeline: Pipeline) -> None:
        consume(pipeline, 1)
        pipeline.drained(key_retention_s=RETENTION_S)
        later(pipeline, RETENTION_S)
        still = consume(pipeline, 1)
        pipeline.drained(key_retention_s=RETENTION_S)
        assert to_take_back(pipeline) == [still]
        later(pipeline, 1)
        again = consume(pipeline, 1)
        pipeline.drained(key_retention_s=RETENTION_S)
        assert to_take_back(pipeline) == [still]
        assert pipeline.rows("SELECT first_n FROM idempotency_keys") == [(again,)]

    def test_a_batch_that_spans_several_retentions_is_told_apart(self, pipeline: Pipeline) -> None:
        known = consume(pipeline, 1)
        pipeline.drained(key_retention_s=RETENTION_S)
        gaps, uses = (900, 200, 900, 200, 900, 2_000), [known]
        for gap_s in gaps:
            later(pipeline, gap_s)
            uses.append(consume(pipeline, 1))
        pipeline.drained(key_retention_s=RETENTION_S)
        # At 900: repeat; 1100: first; 2000: repeat; 2200: first; 3100: repeat; 5100: first.
        assert to_take_back(pipeline) == [uses[1], uses[3], uses[5]]
        assert pipeline.rows("SELECT first_n FROM idempotency_keys") == [(uses[6],)]

    @pytest.mark.parametrize("mode", [Mode.HOLD, Mode.COMMIT, Mode.REFUND, Mode.GIVE])
    def test_every_route_that_changes_a_counter_is_looked_at(self, pipeline: Pipeline, mode: Mode) -> None:
        shard, first = pipeline.clocked, []
        for _ in range(2):
            (held,) = shard.consume(shard.step(0, mode=Mode.HOLD, charges=(Charge(shard.key(), 2, "60000"),)))
            (taken,) = shard.consume(shard.step(3))
            details = {
                Mode.HOLD: "60000",
                Mode.COMMIT: f"1-{held.first_n}",
                Mode.REFUND: f"1-{taken.first_n} 3 0 1 - - ",
                Mode.GIVE: "",
            }
            refunds_key = keys.refunds(3, 1, taken.first_n or 0) if mode is Mode.REFUND else None
            charge = Charge(shard.key(), 2, details[mode])
            first.append(consume(pipeline, 0, mode=mode, charges=(charge,), refunds_key=refunds_key, route="r"))
            pipeline.drained()
        assert to_take_back(pipeline) == first[1:]

    def test_a_denial_and_the_release_of_a_hold_use_no_key(self, pipeline: Pipeline) -> None:
        shard, about = pipeline.clocked.open("none", limit=0), encode_about(About(idempotency_key="k"))
        for _ in range(2):
            (held,) = shard.consume(shard.step(0, mode=Mode.HOLD, charges=(Charge(shard.key(), 2, "60000"),)))
            shard.consume(shard.step(1, metric="none", about=about))
            release = (Charge(shard.key(), None, f"1-{held.first_n}"),)
            shard.consume(shard.step(0, mode=Mode.RELEASE, charges=release, about=about))
        pipeline.drained()
        assert pipeline.rows("SELECT count(*) FROM entries WHERE idempotency_key = 'k'") == [(4,)]
        assert (to_take_back(pipeline), pipeline.rows("SELECT * FROM idempotency_keys")) == ([], [])

    def test_a_receipt_that_is_drained_a_second_time_is_no_repeat_of_itself(self, pipeline: Pipeline) -> None:
        consume(pipeline, 1, 2)
        again = pipeline.kept()
        pipeline.drained()
        again()
        assert (pipeline.drained(), to_take_back(pipeline)) == (0, [])

    def test_a_receipt_that_comes_in_two_batches_is_no_repeat_of_itself(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        consume(pipeline, 1, 2)
        monkeypatch.setattr(drain_module, "MAX_BATCH_ENTRIES", 1)
        drain = pipeline.drain()
        assert [drain.run_once().entries for _ in range(3)] == [1, 1, 0]
        assert to_take_back(pipeline) == []

    def test_what_was_taken_back_is_not_taken_back_again(self, pipeline: Pipeline) -> None:
        for _ in range(2):
            consume(pipeline, 1)
            pipeline.drained()
        pipeline.call(repeats.done, pipeline.call(repeats.claim, 10))
        assert to_take_back(pipeline) == []
        again = consume(pipeline, 1)
        pipeline.drained()
        assert to_take_back(pipeline) == [again]

    def test_old_keys_and_what_was_done_long_ago_are_forgotten_in_bounded_runs(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(repeats, "MAX_FORGOTTEN", 2)
        for number in range(4):
            consume(pipeline, 1, key=f"k{number}")
        pipeline.drained()
        noted = [TakeBack("t", 3, 1, number, 1, "consume", REASON) for number in range(2)]
        for each in noted:
            pipeline.call(note_take_back, each)
        pipeline.call(repeats.done, noted[:1])
        with transaction(pipeline.engine, ALL_TENANTS) as connection:
            old = "UPDATE idempotency_keys SET occurred_at = now() - interval '2 days' WHERE key <> 'k3'"
            connection.execute(text(old))
            connection.execute(text("UPDATE take_backs SET created_at = now() - interval '2 days'"))
            connection.execute(text("UPDATE take_backs SET done_at = created_at WHERE done_at IS NOT NULL"))
        assert [pipeline.call(repeats.forget, 86_400) for _ in range(3)] == [3, 1, 0]
        assert pipeline.rows("SELECT key FROM idempotency_keys") == [("k3",)]
        assert to_take_back(pipeline) == [1]
