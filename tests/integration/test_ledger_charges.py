"""What receipts charged, and those of steps whose callers were never told, in a real ledger."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis

from ledger import charges
from ledger.outages import LostReply
from ledger.repeats import NO_CALLER_WAS_TOLD, TakeBack
from quota import keys
from quota.formats import detail_of_refund
from quota.journal import About, encode_about
from quota.keys import AccountName
from quota.protocol import Charge, Mode
from tests.conftest import Database
from tests.integration.pipeline import Pipeline
from tests.unit.outage_scene import lost_reply as noted

ACCOUNT, OTHER = AccountName("t", "u", "m"), AccountName("t", "u", "m2")


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        pipeline.clocked.open("m", limit=None).open("m2", limit=None)
        yield pipeline


def consume(
    pipeline: Pipeline, *amounts: int, request_id: str = "r", attempt: str | None = None, **changes: Any
) -> int:
    """The first entry's n."""
    about = encode_about(About(request_id=request_id, attempt=attempt))
    (reply,) = pipeline.clocked.consume(pipeline.clocked.step(*amounts, about=about, **changes))
    assert reply.first_n is not None, reply
    return reply.first_n


def do(pipeline: Pipeline, mode: Mode, amount: int | None, detail: str, **changes: Any) -> int:
    charge = Charge(pipeline.clocked.key(), amount, detail)
    return consume(pipeline, 0, mode=mode, charges=(charge,), **changes)


def lost_reply(name: str, **changes: Any) -> LostReply:
    return noted(name, **({"request_id": "r"} | changes))


def receipt(first_n: int, count: int = 1, kind: str = "consume", **changes: Any) -> TakeBack:
    named: dict[str, Any] = {"tenant": "t", "shard": 3, "epoch": 1} | changes
    return TakeBack(named["tenant"], named["shard"], named["epoch"], first_n, count, kind, NO_CALLER_WAS_TOLD)


def found(
    pipeline: Pipeline, *lost: LostReply, shard: int = 3, from_ms: int | None = None, till_ms: int | None = None
) -> list[TakeBack]:
    now_ms = pipeline.clocked.now_ms()
    bounds = (now_ms if from_ms is None else from_ms, now_ms if till_ms is None else till_ms)
    wanted: Sequence[LostReply] = lost or [lost_reply("1")]
    return sorted(pipeline.call(charges.of_lost, shard, wanted, *bounds), key=lambda each: each.first_n)


class TestOfReceipts:
    def test_each_has_its_accounts_and_amounts_in_the_order_that_was_asked(self, pipeline: Pipeline) -> None:
        one, two, three = consume(pipeline, 1, 2), consume(pipeline, 3), consume(pipeline, 4, 5)
        pipeline.drained()
        wanted = [receipt(three, 2), receipt(one, 2), receipt(two)]
        assert pipeline.call(charges.of_receipts, wanted) == [
            [(ACCOUNT, 4), (OTHER, 5)],
            [(ACCOUNT, 1), (OTHER, 2)],
            [(ACCOUNT, 3)],
        ]

    def test_one_that_the_ledger_has_not_got_has_none(self, pipeline: Pipeline) -> None:
        n = consume(pipeline, 1, 2)
        pipeline.drained()
        missing = [
            receipt(n + 2, 2),
            receipt(n, 1),
            receipt(n + 1, 1),
            receipt(n, 2, "hold"),
            receipt(n, 2, tenant="x"),
            receipt(n, 2, shard=4),
            receipt(n, 2, epoch=2),
        ]
        wanted = [missing[0], receipt(n, 2), *missing[1:]]
        both = [(ACCOUNT, 1), (OTHER, 2)]
        assert pipeline.call(charges.of_receipts, wanted) == [[], both, *[[]] * 6]

    def test_none_at_all_may_be_asked_for(self, pipeline: Pipeline) -> None:
        assert pipeline.call(charges.of_receipts, []) == []


class TestOfLost:
    def test_a_receipt_of_several_accounts_is_found_once_by_any_of_them(self, pipeline: Pipeline) -> None:
        n = consume(pipeline, 1, 2)
        consume(pipeline, 1, request_id="told")
        pipeline.drained()
        assert found(pipeline, lost_reply("1")) == [receipt(n, 2)]
        assert found(pipeline, lost_reply("1"), lost_reply("2", metric="m2")) == [receipt(n, 2)]

    def test_another_try_of_the_same_request_is_not_meant(self, pipeline: Pipeline) -> None:
        plain, first, second = (consume(pipeline, 1, attempt=attempt) for attempt in (None, "p.1", "p.2"))
        pipeline.drained()
        assert found(pipeline, lost_reply("1")) == [receipt(plain)]
        assert found(pipeline, lost_reply("1", attempt="p.2")) == [receipt(second)]
        assert found(pipeline, lost_reply("1", attempt="p.1"), lost_reply("2")) == [receipt(plain), receipt(first)]

    def test_only_what_happened_between_the_two_instants_is_meant_both_included(self, pipeline: Pipeline) -> None:
        """The id is the caller's, who may send it again another day."""
        n, at_ms = consume(pipeline, 1), pipeline.clocked.now_ms()
        pipeline.drained()
        assert found(pipeline, from_ms=at_ms, till_ms=at_ms) == [receipt(n)]
        assert found(pipeline, from_ms=at_ms + 1, till_ms=at_ms + 9) == []
        assert found(pipeline, from_ms=at_ms - 9, till_ms=at_ms - 1) == []

    @pytest.mark.parametrize("changes", [{"tenant": "x"}, {"subject": "x"}, {"metric": "x"}, {"request_id": "x"}])
    def test_nobody_elses_charge_is_meant(self, pipeline: Pipeline, changes: dict[str, str]) -> None:
        consume(pipeline, 1)
        pipeline.drained()
        assert found(pipeline, lost_reply("1", **changes)) == []

    def test_a_charge_of_another_shard_is_not_meant(self, pipeline: Pipeline) -> None:
        consume(pipeline, 1)
        pipeline.drained()
        assert (len(found(pipeline)), found(pipeline, shard=4)) == (1, [])

    def test_consumes_holds_and_levels_given_back_are_meant_and_nothing_else(self, pipeline: Pipeline) -> None:
        pipeline.clocked.open("none", limit=0)
        consumed = consume(pipeline, 3)
        held = do(pipeline, Mode.HOLD, 2, "60000")
        committed = do(pipeline, Mode.HOLD, 2, "60000")
        given = do(pipeline, Mode.GIVE, 1, "")
        do(pipeline, Mode.COMMIT, None, f"1-{committed}")
        do(pipeline, Mode.RELEASE, None, f"1-{held}")
        words: dict[str, Any] = {"refunded": 0, "epoch": 1, "parts": "-", "caps": "-", "sealed": None}
        detail = detail_of_refund(f"1-{consumed}", 3, **words)
        do(pipeline, Mode.REFUND, 1, detail, refunds_key=keys.refunds(3, 1, consumed))
        about = encode_about(About(request_id="r"))
        pipeline.clocked.consume(pipeline.clocked.step(1, metric="none", about=about))
        pipeline.drained()
        kinds = {kind for (kind,) in pipeline.rows("SELECT kind FROM entries WHERE request_id = 'r'")}
        assert kinds == {"consume", "hold", "release", "commit", "refund", "denied"}
        assert found(pipeline) == [
            receipt(consumed),
            receipt(held, kind="hold"),
            receipt(committed, kind="hold"),
            receipt(given, kind="release"),
        ]
