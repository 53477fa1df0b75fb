"""Receipts, as the ledger knows them: what they took, where it was sealed, what went back."""

import pytest

from ledger import receipts
from ledger.receipts import Taken
from quota import keys
from quota.formats import CORRECTED, DOWN, UP
from quota.journal import Place
from quota.keys import AccountName
from quota.protocol import Mode
from quota.replies import Outcome
from tests.integration.one_account import ACCOUNT, do, give, open_with_grants, roll
from tests.integration.pipeline import Pipeline


class TestReceipts:
    def test_it_names_what_was_taken_with_buckets_and_windows(self, pipeline: Pipeline) -> None:
        grant_id = give(pipeline)
        today = open_with_grants(pipeline)
        pipeline.clocked.open("m2", limit=None)
        (reply,) = pipeline.clocked.consume(pipeline.clocked.step(5, 2))
        n = reply.first_n or 0
        pipeline.drained()
        other = AccountName("t", "u", "m2")
        assert pipeline.call(receipts.find, "t", 3, 1, n, 2) == [
            Taken(
                *(Place(1, n), ACCOUNT, "consume", 5, f"3,{grant_id}:0:-:2", f"day:{today.start_ms}"),
                late=None,
                sealed=None,
                refunded=0,
            ),
            Taken(Place(1, n + 1), other, "consume", 2, "-", "-", late=None, sealed=None, refunded=0),
        ]

    @pytest.mark.parametrize(
        "wanted",
        [
            ("x", 3, 1, 0, 2),
            ("t", 4, 1, 0, 2),
            ("t", 3, 2, 0, 2),
            ("t", 3, 1, 1, 2),
            ("t", 3, 1, 0, 1),
            ("t", 3, 1, 1, 1),
        ],
    )
    def test_one_that_is_not_whole_or_not_the_tenants_names_nothing(
        self, pipeline: Pipeline, wanted: tuple[str, int, int, int, int]
    ) -> None:
        pipeline.clocked.open("m", None).open("m2", None)
        pipeline.clocked.consume(pipeline.clocked.step(1, 2))
        pipeline.drained()
        assert len(pipeline.call(receipts.find, "t", 3, 1, 0, 2)) == 2
        assert pipeline.call(receipts.find, *wanted) == []

    def test_a_denial_a_hold_and_a_warning_are_no_receipts(self, pipeline: Pipeline) -> None:
        pipeline.clocked.open("m", 10)
        do(pipeline, Mode.HOLD, 1, "60000")
        pipeline.clocked.consume(pipeline.clocked.step(11), pipeline.clocked.step(9))
        pipeline.drained()
        found = [pipeline.call(receipts.find, "t", 3, 1, n, 1) for n in range(4)]
        assert [[each.kind for each in taken] for taken in found] == [[], [], ["consume"], []]

    def test_it_says_in_which_period_its_units_were_sealed_and_what_was_given_back(self, pipeline: Pipeline) -> None:
        pipeline.clocked.open("m", 10)
        n = do(pipeline, Mode.CONSUME, 9)
        sealed = roll(pipeline).period
        words = f"{sealed.start_ms} {sealed.end_ms} free month - -"
        pipeline.drained()
        for given in (2, 3):
            (taken,) = pipeline.call(receipts.find, "t", 3, 1, n, 1)
            assert taken.sealed == words
            detail = f"1-{n} 9 {taken.refunded} 1 - - {taken.sealed}"
            do(pipeline, Mode.REFUND, given, detail, refunds_key=keys.refunds(3, 1, n))
            pipeline.drained()
        roll(pipeline)
        pipeline.drained()
        (taken,) = pipeline.call(receipts.find, "t", 3, 1, n, 1)
        assert (taken.refunded, taken.sealed, taken.late) == (5, words, None)
        assert pipeline.rows("SELECT used_after, is_late FROM entries WHERE kind = 'refund' ORDER BY n") == [
            (7, True),
            (4, True),
        ]
        assert pipeline.rows("SELECT used FROM balances ORDER BY period_start") == [(4,), (0,)]
        assert pipeline.incidents() == []

    def test_one_that_was_booked_late_says_so(self, pipeline: Pipeline) -> None:
        pipeline.clocked.open("m", 10)
        do(pipeline, Mode.CONSUME, 4)
        sealed = roll(pipeline)
        late = [do(pipeline, Mode.CHARGE, n, f"{(sealed.period.end_ms or 0) - 1} {sealed}") for n in (2, 3)]
        pipeline.drained()
        words = f"{sealed.period.start_ms} {sealed.period.end_ms} free month - -"
        found = [taken for n in late for taken in pipeline.call(receipts.find, "t", 3, 1, n, 1)]
        assert [(taken.amount, taken.late, taken.sealed) for taken in found] == [(2, words, None), (3, words, None)]
        balances = pipeline.rows("SELECT n, used_after FROM entries WHERE kind = 'consume' ORDER BY n")
        assert balances == [(0, 4), (late[0], 6), (late[1], 9)]

    @pytest.mark.parametrize("is_drained", [False, True])
    def test_what_a_person_put_back_does_not_go_back_once_more_when_its_period_is_over(
        self, pipeline: Pipeline, is_drained: bool
    ) -> None:
        give(pipeline)
        open_with_grants(pipeline)
        shard = pipeline.clocked
        n = do(pipeline, Mode.CONSUME, 5)
        do(pipeline, Mode.ADJUST, 4, DOWN)
        entry = next(each for each in shard.entries() if each.kind == "consume")
        roll(pipeline)
        if is_drained:
            pipeline.drained()
        before = shard.everything()
        assert shard.refund(entry, 5).outcome is Outcome.UNDRAINED
        assert shard.everything() == before
        pipeline.drained()
        (taken,) = pipeline.call(receipts.find, "t", 3, 1, n, 1)
        assert taken.sealed == CORRECTED
        assert shard.refund(entry, 5, sealed=CORRECTED).outcome is Outcome.BELOW_ZERO
        assert shard.refund(entry, 5, known=5, sealed=CORRECTED).outcome is Outcome.ALREADY_REFUNDED
        following = do(pipeline, Mode.CONSUME, 1)
        roll(pipeline)
        pipeline.drained()
        assert [each.sealed == CORRECTED for each in pipeline.call(receipts.find, "t", 3, 1, following, 1)] == [False]
        assert (pipeline.incidents(), pipeline.reconcile().run_once().drifts) == ([], [])

    def test_what_the_ledger_restored_may_have_been_corrected(self, pipeline: Pipeline) -> None:
        pipeline.clocked.open("m", 10, used=4, entry="1-0")
        do(pipeline, Mode.CONSUME, 2)
        entry = next(each for each in pipeline.clocked.entries() if each.kind == "consume")
        roll(pipeline)
        assert pipeline.clocked.refund(entry, 2).outcome is Outcome.UNDRAINED

    def test_a_correction_is_taken_back_while_its_period_runs_alone(self, pipeline: Pipeline) -> None:
        shard = pipeline.clocked.open("m", 100)
        do(pipeline, Mode.CONSUME, 50)
        place = f"1-{do(pipeline, Mode.ADJUST, 40, DOWN)}"
        do(pipeline, Mode.ADJUST, 15, f"{UP} {place}")
        roll(pipeline)
        assert shard.do(Mode.ADJUST, (25, f"{UP} {place}")).outcome is Outcome.BELOW_ZERO
        assert shard.used() == 0
