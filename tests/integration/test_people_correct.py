"""A person's correction moves the counter and the ledger alike, and the buckets that the units came from."""

import pytest

from ledger import replay_verification
from ledger.grants import Granted
from quota.formats import DOWN, UP
from quota.journal import About, encode_about
from quota.protocol import Mode
from tests.integration.one_account import do, give, granted_now, open_with_grants
from tests.integration.pipeline import Pipeline
from tests.integration.replaying import through
from tests.integration.shard import moves

LINE = "{} {{now}} {} 1 1 {} - - {{account}} {{window}}"
ABOUT = encode_about(About(request_id="req-1", reason="counted twice", actor="key_1", origin="192.0.2.7"))


def assert_the_two_agree(pipeline: Pipeline) -> None:
    run = pipeline.reconcile().run_once()
    assert (run.drifts, pipeline.incidents()) == ([], [])
    result, found, _ = through(pipeline, replay_verification.step)
    assert (result["differing"], found) == (0, [])


def test_up_goes_above_the_limit_and_down_gives_back_what_was_drawn_last(pipeline: Pipeline) -> None:
    """Three units are the plan's, five the grant's; the rest is above the limit, and so the plan's."""
    grant_id = give(pipeline)
    open_with_grants(pipeline)
    window = ("month", pipeline.clocked.window().start_ms)
    do(pipeline, Mode.CONSUME, 2)
    do(pipeline, Mode.ADJUST, 8, UP)
    pipeline.drained()
    assert granted_now(pipeline) == [Granted(grant_id, 0, None, 0, {window: 5}, journalled=True)]
    do(pipeline, Mode.ADJUST, 4, DOWN)
    pipeline.drained()
    assert granted_now(pipeline) == [Granted(grant_id, 0, None, 4, {window: 1}, journalled=True)]
    do(pipeline, Mode.ADJUST, 6, DOWN)
    pipeline.drained()
    assert granted_now(pipeline) == [Granted(grant_id, 0, None, 5, {}, journalled=True)]
    entries = [("consume", 2, 2, 2), ("correct", 8, 8, 10), ("correct", 4, -4, 6), ("correct", 6, -6, 0)]
    rows = pipeline.rows("SELECT kind, amount, change, used_after FROM entries WHERE amount > 0 AND kind <> 'grant' "
                         "AND kind <> 'warned' ORDER BY n")  # fmt: skip
    assert rows == entries
    assert pipeline.rows("SELECT used FROM cap_balances") == [(2,)]
    assert_the_two_agree(pipeline)


def test_below_zero_nothing_is_changed(pipeline: Pipeline) -> None:
    shard = pipeline.shard.open()
    shard.consume(shard.step(2))
    before = shard.everything()
    assert shard.do(Mode.ADJUST, (3, DOWN)).outcome.value == "below_zero"
    assert shard.everything() == before


def test_what_a_correction_put_back_into_a_grant_cannot_be_refunded_into_it_again(pipeline: Pipeline) -> None:
    """Two of the five units were the grant's. What is used now is the plan's alone: the grant is held."""
    give(pipeline)
    open_with_grants(pipeline)
    do(pipeline, Mode.CONSUME, 5)
    do(pipeline, Mode.ADJUST, 2, DOWN)
    do(pipeline, Mode.HOLD, 5, "60000")
    do(pipeline, Mode.ADJUST, 2, UP)
    shard = pipeline.clocked
    taken = next(each for each in shard.entries() if each.kind == "consume")
    before = shard.account()
    assert shard.refund(taken, 5).outcome.value == "below_zero"
    assert shard.account() == before
    pipeline.drained()
    assert_the_two_agree(pipeline)


class TestLines:
    """Of the account that `pipeline.put` writes entries of."""

    def test_a_persons_correction_is_held_to_the_arithmetic_of_every_line(self, pipeline: Pipeline) -> None:
        pipeline.shard.open()
        pipeline.put(LINE.format("consume", "2 2 2", "-"))
        pipeline.put(LINE.format("correct", "5 5 7", "-"))
        pipeline.put(LINE.format("correct", "3 -3 4", "-"))
        pipeline.drained()
        assert (pipeline.incidents(), pipeline.balances()) == ([], {("m", "month"): 4})
        pipeline.put(LINE.format("correct", "1 1 9", "-"))
        pipeline.drained()
        assert [(kind, detail["n"]) for _, kind, detail in pipeline.incidents()] == [("arithmetic", 3)]

    @pytest.mark.parametrize(("kind", "act"), [("correct", "counter.corrected"), ("set", "level.set")])
    def test_the_act_is_kept_once_with_the_entry(self, pipeline: Pipeline, kind: str, act: str) -> None:
        pipeline.shard.open()
        pipeline.put(LINE.format("consume", "7 7 7", "-"))
        pipeline.put(LINE.format(kind, "5 -5 2", "-"), ABOUT)
        again = pipeline.kept()
        pipeline.drained()
        again()
        pipeline.drained()
        rows = pipeline.rows(
            "SELECT act, a.actor, origin, a.request_id, a.reason, a.subject, object, before, after, at = occurred_at "
            "FROM acts a JOIN entries e ON e.kind = :kind",
            kind=kind,
        )
        said = ("key_1", "192.0.2.7", "req-1", "counted twice", "v", "m")
        assert rows == [(act, *said, {"used": 7}, {"used": 2}, True)]

    def test_what_a_reconciliation_corrects_is_nobodys_act(self, pipeline: Pipeline) -> None:
        shard = pipeline.shard.open()
        shard.consume(shard.step(1))
        pipeline.tamper(by=5)
        pipeline.reconcile().run_once()
        pipeline.drained()
        assert [kind for kind, *_ in moves(shard.entries())] == []
        assert pipeline.rows("SELECT kind FROM entries ORDER BY n") == [("consume",), ("correct",)]
        assert pipeline.rows("SELECT count(*) FROM acts") == [(0,)]
