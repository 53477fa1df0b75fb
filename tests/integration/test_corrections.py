"""Reconciliation corrects what it finds, on real stores: the counter moves, and the ledger stays where it is."""

import threading
from typing import Any

import pytest

from ledger import reconciliations
from quota import keys
from quota.bulk import Bulk
from tests.integration.accounts_apart import Members
from tests.integration.pipeline import Consumers, Crashed, Pipeline, crash
from tests.integration.shard import outcomes
from workers.guard import Guard
from workers.reconcile import Corrections, Reconcile

DEADLINE_S = 60.0


def reconcile(pipeline: Pipeline, **guard: int) -> Reconcile:
    return Reconcile(pipeline.journal, pipeline.engine, pipeline.drain(), Guard(**guard))


def found(run: reconciliations.Reconciliation) -> list[tuple[str, str]]:
    return sorted((drift.subject, drift.what) for drift in run.drifts)


def assert_nothing_is_left(pipeline: Pipeline) -> None:
    run = pipeline.reconcile().run_once()
    assert (run.drifts, run.missing, run.corrected) == ([], 0, 0)
    sums = "SELECT subject, metric, sum(change)::bigint FROM entries GROUP BY subject, metric ORDER BY 1, 2"
    assert pipeline.rows(sums) == pipeline.rows("SELECT subject, metric, used FROM balances ORDER BY 1, 2")


class TestCounters:
    @pytest.mark.parametrize("by", [1, -1, 40])
    def test_the_counter_becomes_the_balance_and_the_ledger_does_not_move(self, pipeline: Pipeline, by: int) -> None:
        members = Members.opened(pipeline, 3)
        members.tamper(1, by)
        run = pipeline.reconcile().run_once()
        assert (run.accounts, run.drifted, run.corrected, found(run)) == (4, 1, 1, [("guild/1", "used")])
        assert ([members.used(number) for number in range(3)], members.balances()) == ([3, 3, 3], [3, 3, 3])
        assert members.corrections() == [("guild/1", abs(by), 0, 3, f"was:{3 + by}")]
        assert_nothing_is_left(pipeline)

    def test_its_reason_is_in_the_ledger(self, pipeline: Pipeline) -> None:
        Members.opened(pipeline, 1).tamper(0)
        pipeline.reconcile().run_once()
        rows = pipeline.rows("SELECT actor, reason FROM entries WHERE kind = 'correct'")
        assert rows == [("reconcile", "the counter said 4 at entry 3.1-0, and the ledger 3")]

    def test_what_follows_a_correction_follows_from_it(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 2)
        members.tamper(0)
        pipeline.reconcile().run_once()
        members.consume([0, 1, 0], 2)
        pipeline.drained()
        assert (members.balances(), pipeline.incidents()) == ([7, 5], [])
        assert_nothing_is_left(pipeline)

    def test_one_that_was_charged_since_is_corrected_by_the_same_difference(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 2)
        members.tamper(0, 5)
        members.consume([0, 0], 2)
        run = pipeline.reconcile().run_once()
        assert (run.drifted, run.corrected, members.used(0), members.balances()[0]) == (1, 1, 7, 7)
        assert [kind for _, kind, _ in pipeline.incidents()] == ["arithmetic"]
        members.consume([0])
        pipeline.drained()
        assert [kind for _, kind, _ in pipeline.incidents()] == ["arithmetic"]
        assert_nothing_is_left(pipeline)

    def test_one_that_was_put_back_lacks_what_the_ledger_has(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 2)
        members.put_back(0, 4)
        run = pipeline.reconcile().run_once()
        assert (found(run), run.corrected, members.used(0)) == ([("guild/0", "used")], 1, 7)
        assert_nothing_is_left(pipeline)

    def test_one_whose_last_entry_is_nowhere_is_found_without_waiting_for_it(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 2)
        members.consume([0], 4)
        pipeline.connection.xdel(keys.journal(3), "1-2")
        run = pipeline.reconcile().run_once()
        assert (found(run), members.used(0)) == ([("guild/0", "used")], 3)
        assert [kind for _, kind, _ in pipeline.incidents()] == ["gap"]  # the correction comes after what is missing

    def test_a_busy_one_is_told_of_and_corrected_when_it_stands_still(self, pipeline: Pipeline) -> None:
        pipeline.shard.open("busy0", limit=None).open("busy1", limit=None)
        reconciling = pipeline.reconcile()
        with Consumers(pipeline):
            pipeline.tamper("busy1")
            assert [drift.metric for drift in reconciling.run_once().drifts] == ["busy1"]
        reconciling.run_once()
        assert_nothing_is_left(pipeline)

    def test_a_shard_that_has_lost_its_head_is_left_to_the_gateways(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 3)
        members.tamper(0)
        pipeline.connection.delete(keys.head(3), members.key(1))
        run = pipeline.reconcile().run_once()
        assert (run.drifts, run.missing, run.corrected, members.used(0)) == ([], 0, 0, 4)

    def test_told_to_correct_nothing_it_tells_and_changes_nothing(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 3)
        members.tamper(0)
        members.put(1, "warned", "nonsense")
        pipeline.connection.delete(members.key(2))
        before = pipeline.shard.everything()
        run = pipeline.reconcile().run_once(corrections=Corrections.NONE)
        assert found(run) == [("guild/0", "used"), ("guild/1", "damaged"), ("guild/2", "missing")]
        assert (run.drifted, run.missing, run.corrected) == (2, 1, 0)
        assert pipeline.shard.everything() == before


class TestWholeAccounts:
    def test_one_that_is_missing_is_told_and_brought_in_again(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 3)
        pipeline.connection.delete(members.key(1))
        run = pipeline.reconcile().run_once()
        assert (run.drifted, run.missing, run.corrected, found(run)) == (0, 1, 1, [("guild/1", "missing")])
        assert members.used(1) == 3
        assert_nothing_is_left(pipeline)

    def test_one_that_held_units_is_missed_too(self, pipeline: Pipeline) -> None:
        Members.opened(pipeline, 0)
        pipeline.shard.open(limit=None).hold(5)
        pipeline.drained()
        pipeline.connection.delete(pipeline.shard.key())
        run = pipeline.reconcile().run_once()
        assert (run.missing, pipeline.shard.account()["held"].split(" ")[:2]) == (1, ["5", "1"])

    def test_one_that_no_request_has_needed_since_its_epoch_began_is_not_missed(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 3)
        pipeline.connection.flushall()
        pipeline.rows("UPDATE shards SET epoch = 2 WHERE shard = 3 RETURNING epoch")
        pipeline.connection.hset(keys.head(3), mapping={"epoch": 2, "store": ""})
        assert (pipeline.reconcile().run_once().missing, members.count) == (0, 3)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("state", "nonsense"),
            ("state", "9007199254740993 1-1"),
            ("rule", "1 1 nan"),
            ("window", "now"),
            ("held", "1 1 1"),
            ("caps", "day 0 1"),
            ("grants", "1 2 3"),
            ("denials", "é\x00"),
            ("warned", "-1"),
            ("seal", "1-1"),
        ],
    )
    def test_a_damaged_one_is_told_with_its_name_and_written_anew(
        self, pipeline: Pipeline, name: str, text: str
    ) -> None:
        members = Members.opened(pipeline, 3)
        members.put(1, name, text)
        run = pipeline.reconcile().run_once()
        assert (run.drifted, run.corrected, found(run)) == (1, 1, [("guild/1", "damaged")])
        assert name in (run.drifts[0].reason or "")
        assert members.used(1) == 3
        assert_nothing_is_left(pipeline)

    def test_one_at_an_entry_of_a_later_epoch_is_told_until_it_is_charged_again(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 2)
        members.put(0, "state", "3 7-1")
        runs = [pipeline.reconcile().run_once() for _ in range(2)]
        assert [(found(run), run.corrected) for run in runs] == [([("guild/0", "damaged")], 0)] * 2
        members.consume([0])
        assert_nothing_is_left(pipeline)

    def test_what_is_no_hash_at_all_is_written_anew(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 2)
        pipeline.connection.delete(members.key(0))
        pipeline.connection.set(members.key(0), "a string")
        run = pipeline.reconcile().run_once()
        assert (found(run), run.corrected, members.used(0)) == ([("guild/0", "damaged")], 1, 3)

    def test_a_key_that_names_no_account_is_told(self, pipeline: Pipeline) -> None:
        Members.opened(pipeline, 1)
        pipeline.connection.hset("qg:{3}:a:half", "state", "1 -")
        run = pipeline.reconcile().run_once()
        assert (found(run), run.corrected) == ([("qg:{3}:a:half", "damaged")], 0)


class TestAtOnce:
    def test_two_at_once_correct_each_drift_once(self, pipeline: Pipeline) -> None:
        members = Members.opened(pipeline, 100)
        for number in range(0, 100, 2):
            members.tamper(number, 1 if number % 4 else -1)
        both = [reconcile(pipeline, most=1_000, most_pct=100) for _ in range(2)]
        together, corrected, failures = threading.Barrier(2), [0, 0], []

        def run(place: int) -> None:
            try:
                together.wait(DEADLINE_S)
                corrected[place] = both[place].run_once().corrected
            except Exception as error:
                failures.append(error)

        running = [threading.Thread(target=run, args=(place,)) for place in range(2)]
        for each in running:
            each.start()
        for each in running:
            each.join(DEADLINE_S)
        assert (failures, sum(corrected), len(members.corrections())) == ([], 50, 50)
        assert [members.used(number) for number in range(100)] == members.balances() == [3] * 100

    @pytest.mark.parametrize("is_done", [False, True])
    def test_one_that_dies_beside_the_script_has_corrected_or_not_and_the_next_sees_which(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, is_done: bool
    ) -> None:
        members = Members.opened(pipeline, 3)
        members.tamper(0)
        run_all = Bulk.run_all

        def run_and_die(self: Bulk, calls: Any) -> Any:
            if is_done:
                run_all(self, calls)
            return crash()

        with monkeypatch.context() as patched:
            patched.setattr(Bulk, "run_all", run_and_die)
            with pytest.raises(Crashed):
                pipeline.reconcile().run_once()
        assert members.used(0) == (3 if is_done else 4)
        assert pipeline.reconcile().run_once().corrected == (0 if is_done else 1)
        assert (len(members.corrections()), members.used(0)) == (1, 3)
        assert_nothing_is_left(pipeline)

    def test_a_limit_holds_beside_a_correction(self, pipeline: Pipeline) -> None:
        shard = pipeline.shard.open(limit=10)
        shard.consume(shard.step(10))
        pipeline.tamper(by=-4)
        pipeline.reconcile().run_once()
        assert outcomes(shard.consume(shard.step(1))) == ["denied"]
