"""What else is compared than what was used, and how the ledger reads a correction."""

from collections.abc import Sequence
from typing import Any

import pytest

from ledger import comparison
from quota.account_reading import Counter
from quota.formats import CapState
from quota.periods import PeriodKind, period_at
from tests.integration.accounts_apart import Members
from tests.integration.pipeline import Pipeline
from tests.integration.test_corrections import assert_nothing_is_left, found
from workers.comparing import Comparing
from workers.correcting import Correcting

LINE = "{} {{now}} {} 1 1 {} - - {{account}} {{window}}"


class TestBuckets:
    def test_a_capped_window_is_corrected_too(self, pipeline: Pipeline) -> None:
        today = period_at(PeriodKind.DAY, pipeline.shard.now_ms())
        members = Members.opened(pipeline, 2, caps=(CapState(today, 50),))
        caps = members.field(0, "caps")
        members.put(0, "caps", caps.removesuffix(" 3") + " 9")
        run = pipeline.reconcile().run_once()
        assert (found(run), run.corrected) == ([("guild/0", f"cap day {today.start_ms}")], 1)
        assert (members.field(0, "caps"), members.corrections()) == (caps, [("guild/0", 0, 0, 3, "was:3,day:9")])
        assert_nothing_is_left(pipeline)

    def test_one_that_is_used_again_while_it_is_looked_at_after_its_correction_is_right(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The ledger has the unit by then, and the counter was read before."""
        today = period_at(PeriodKind.DAY, pipeline.shard.now_ms())
        members = Members.opened(pipeline, 2, caps=(CapState(today, 50),))
        members.put(0, "caps", members.field(0, "caps").removesuffix(" 3") + " 9")
        settled, still_right = Comparing._settled, Correcting._still_right

        def used_again(self: Comparing, counters: Sequence[Counter]) -> Sequence[Counter]:
            found = settled(self, counters)
            members.consume([0])
            pipeline.drained()
            return found

        def looked_at(self: Correcting, names: Sequence[str]) -> int:
            monkeypatch.setattr(Comparing, "_settled", used_again)
            return still_right(self, names)

        monkeypatch.setattr(Correcting, "_still_right", looked_at)
        assert pipeline.reconcile().run_once().corrected == 1

    def test_holds_that_come_while_the_ledger_is_read_raise_no_alarm(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shard = pipeline.shard.open(limit=None)
        shard.hold(2)
        known = comparison.known

        def known_before_more_is_held(*arguments: Any) -> list[comparison.Known]:
            found = known(*arguments)
            shard.hold(2)
            pipeline.drained()
            return found

        monkeypatch.setattr(comparison, "known", known_before_more_is_held)
        assert pipeline.reconcile().run_once().drifts == []

    def test_a_hold_that_was_lost_is_brought_in_again(self, pipeline: Pipeline) -> None:
        Members.opened(pipeline, 0)
        place = pipeline.shard.open().hold(2)
        pipeline.connection.hdel(pipeline.shard.key(), f"h:{place}")
        run = pipeline.reconcile().run_once()
        assert (found(run), run.corrected) == ([("u", "damaged")], 1)
        assert f"h:{place}" in pipeline.shard.account()


class TestArithmetic:
    """Of the account that `pipeline.put` writes entries of."""

    def test_a_correction_follows_from_the_ledger_whatever_the_line_above_it_stated(self, pipeline: Pipeline) -> None:
        pipeline.shard.open()
        pipeline.put(LINE.format("consume", "2 2 2", "-"))
        pipeline.put(LINE.format("consume", "1 1 8", "-"))  # states what the counter said
        pipeline.put(LINE.format("correct", "5 0 3", "was:8"))
        pipeline.put(LINE.format("consume", "1 1 4", "-"))
        pipeline.drained()
        assert [(kind, detail["n"]) for _, kind, detail in pipeline.incidents()] == [("arithmetic", 1)]
        assert pipeline.balances() == {("m", "month"): 4}

    @pytest.mark.parametrize("numbers", ["5 0 7", "5 5 7", "5 5 12"])
    def test_one_that_does_not_state_the_ledgers_balance_or_changes_it_is_an_incident(
        self, pipeline: Pipeline, numbers: str
    ) -> None:
        pipeline.shard.open()
        pipeline.put(LINE.format("consume", "2 2 2", "-"))
        pipeline.put(LINE.format("correct", numbers, "was:8"))
        pipeline.drained()
        assert [(kind, detail["n"]) for _, kind, detail in pipeline.incidents()] == [("arithmetic", 1)]
