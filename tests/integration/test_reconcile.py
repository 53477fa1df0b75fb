"""Reconciliation on real stores, with the traffic going on."""

from dataclasses import replace

import pytest

from ledger import reconciliations
from ledger.reconciliations import Drift
from ledger.store import ALL_TENANTS, transaction
from quota import protocol
from quota.keys import AccountName
from quota.periods import to_rfc3339
from quota.protocol import Bringing, Opening
from tests.integration.pipeline import Consumers, Pipeline


class TestReconcile:
    def test_nothing_drifts_while_others_go_on_consuming(self, pipeline: Pipeline) -> None:
        pipeline.shard.open("busy0", limit=None).open("busy1", limit=None).open("idle").open("never")
        pipeline.shard.consume(pipeline.shard.step(3, metric="idle"))
        reconcile = pipeline.reconcile()
        with Consumers(pipeline) as consumers:
            before = sum(consumers.consumed)
            runs = [reconcile.run_once() for _ in range(5)]
            during = sum(consumers.consumed) - before
        assert [(run.drifted, run.accounts) for run in runs] == [(0, 4)] * 5
        assert during > 0
        assert (runs[-1].incidents, [run.run_id for run in runs]) == (0, list(range(1, 6)))
        last = reconcile.run_once()
        assert (last.drifted, last.undrained_entries, last.lag_ms) == (0, 0, 0)
        assert [
            used for (used,) in pipeline.rows("SELECT used FROM balances WHERE metric LIKE 'busy%' ORDER BY metric")
        ] == (consumers.consumed)

    @pytest.mark.parametrize("by", [1, -1])
    def test_a_counter_that_was_tampered_with_is_named(self, pipeline: Pipeline, by: int) -> None:
        pipeline.shard.open("m").open("n").consume(pipeline.shard.step(3), pipeline.shard.step(2, metric="n"))
        pipeline.tamper("n", by)
        run = pipeline.reconcile().run_once()
        drift = Drift("t", "u", "n", "3.1-1", counter=2 + by, ledger=2)
        assert (run.accounts, run.drifted, run.drifts) == (2, 1, [drift])

    def test_a_counter_that_was_tampered_with_is_found_while_it_is_consumed(self, pipeline: Pipeline) -> None:
        pipeline.shard.open("busy0", limit=None).open("busy1", limit=None)
        with Consumers(pipeline):
            pipeline.tamper("busy1")
            run = pipeline.reconcile().run_once()
        assert [(drift.metric, drift.counter - drift.ledger) for drift in run.drifts] == [("busy1", 1)]

    def test_a_counter_that_was_provisioned_and_never_moved_is_compared_too(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(used=5)
        (drift,) = pipeline.reconcile().run_once().drifts
        assert (drift.entry, drift.counter, drift.ledger) == (None, 5, 0)

    def test_an_account_of_an_older_epoch_is_no_drift(self, pipeline: Pipeline) -> None:
        pipeline.shard.open("m").open("n").consume(pipeline.shard.step(3), pipeline.shard.step(2, metric="n"))
        pipeline.drained()
        pipeline.shard.run(protocol.begin_epoch(3, 2, ""))
        pipeline.shard.provision(pipeline.shard.opening(used=3, entry="1-0"), epoch=2)
        pipeline.shard.consume(pipeline.shard.step(1))
        assert pipeline.reconcile().run_once().drifted == 0

    def test_it_drains_by_itself_what_it_waits_for(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 50)
        run = pipeline.reconcile().run_once()
        assert (run.accounts, run.drifted, run.undrained_entries, pipeline.waiting()) == (1, 0, 0, 0)

    def test_the_report_is_kept_as_it_was_given(self, pipeline: Pipeline) -> None:
        pipeline.shard.open().consume(pipeline.shard.step(3))
        pipeline.tamper()
        run = pipeline.reconcile().run_once()
        with transaction(pipeline.engine, ALL_TENANTS) as connection:
            assert reconciliations.last(connection) == run
        document = run.to_document()
        assert (document["started_at"], document["corrected"]) == (to_rfc3339(run.started_at_ms), 1)

    def test_more_accounts_than_a_batch_are_compared_once_each(self, pipeline: Pipeline) -> None:
        opening = pipeline.shard.open().opening()
        wanted = [Bringing(3, 1, "0", member(opening, number)) for number in range(2_500)]
        for some in protocol.together(wanted):
            pipeline.shard.run(protocol.provision(some))
        heard: list[int] = []
        run = pipeline.reconcile().run_once(heard.append)
        assert (run.accounts, run.drifted, heard[-1], heard == sorted(heard)) == (2_501, 0, 2_501, True)


def member(opening: Opening, number: int) -> Opening:
    return replace(opening, account=AccountName("t", f"org/{number}", "m"))
