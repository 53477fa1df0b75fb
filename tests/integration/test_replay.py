"""The ledger gone through again, from its entries alone: what is right is found right, what was changed is named."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from bench.ledger import fill
from ledger import replay, replay_balances, replay_buckets, replay_verification
from quota import protocol
from quota.protocol import Mode
from tests.conftest import Database
from tests.integration.pipeline import Pipeline
from tests.integration.replaying import as_owner, go_back, rich_history, through

FIGURES = {"accounts": 0, "entries": 0, "carried": 0, "balances": 0, "differing": 0, "told": 0, "differences": []}


# As the reset seals: what the entries add up to when the account has left its period.
SEAL = """
INSERT INTO sealed_periods (tenant, subject, metric, period_kind, period_start, period_end, used, entries, shard, epoch,
                            n, closed_at)
SELECT tenant, subject, metric, period_kind, period_start, max(period_end), sum(change), count(*), max(shard),
       max(epoch), max(n), max(occurred_at)
FROM entries e
WHERE NOT is_late AND period_end <= (SELECT max(occurred_at) FROM entries) GROUP BY 1, 2, 3, 4, 5
"""


def verified(pipeline: Pipeline, **arguments: Any) -> dict[str, Any]:
    """Without the chains: tests/integration/test_chain.py. Of the only tenant that there is the same is told."""
    result = through(pipeline, replay_verification.step, **arguments)[0]
    assert ("chain" in result) == ("tenant" not in arguments)
    result.pop("chain", None)
    if not arguments:
        assert verified(pipeline, tenant="t") == result
    return result


def differences(pipeline: Pipeline) -> list[tuple[str, str, int | None, int | None]]:
    found = verified(pipeline)["differences"]
    return [(each["what"], each["metric"], each["stated"], each["added_up"]) for each in found]


class TestVerification:
    def test_an_empty_ledger_has_nothing_that_differs(self, pipeline: Pipeline) -> None:
        assert verified(pipeline) == FIGURES

    def test_everything_that_moves_a_balance_is_found_right(self, pipeline: Pipeline) -> None:
        rich_history(pipeline)
        kinds = {kind for (kind,) in pipeline.rows("SELECT DISTINCT kind FROM entries")}
        assert kinds >= {"consume", "denied", "refund", "hold", "commit", "release", "close", "grant", "warned"}
        assert pipeline.rows("SELECT count(*) FROM entries WHERE is_late") == [(1,)]
        assert pipeline.rows("SELECT count(*) > 0 FROM cap_balances") == [(True,)]
        assert pipeline.rows("SELECT used FROM grant_balances") == [(2,)]
        ((entries,),) = pipeline.rows("SELECT count(*) FROM entries")
        ((balances,),) = pipeline.rows("SELECT count(*) FROM balances")
        figures = FIGURES | {"accounts": 2, "entries": entries, "balances": balances}
        assert verified(pipeline) == figures
        assert verified(pipeline, step_entries=1) == figures
        assert verified(pipeline, tenant="t", subject="u") == figures
        assert verified(pipeline, tenant="t", subject="v")["entries"] == 0

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            ("UPDATE entries SET used_after = used_after + 1 WHERE n = 1", [("line", "m", 3, 2)]),
            ("UPDATE entries SET change = change + 1 WHERE n = 3", [("line", "m", 8, 9), ("balance", "m", 8, 9)]),
            ("DELETE FROM entries WHERE n = 1", [("line", "m", 4, 3), ("balance", "m", 8, 7)]),
            ("DELETE FROM entries", [("balance", "m", 8, None)]),
            ("UPDATE balances SET used = 7", [("balance", "m", 7, 8)]),
            ("UPDATE balances SET n = 2", [("balance", "m", 8, 8)]),
            ("DELETE FROM balances", [("balance", "m", None, 8)]),
        ],
    )
    def test_what_an_owner_changes_is_named(
        self, pipeline: Pipeline, database: Database, change: str, found: list[Any]
    ) -> None:
        pipeline.shard.open(limit=None).consume(*(pipeline.shard.step(n) for n in (1, 1, 2, 4)))
        pipeline.drained()
        assert differences(pipeline) == []
        as_owner(database, change)
        assert differences(pipeline) == found

    def test_a_balance_of_a_cap_and_of_a_grant_are_compared(self, pipeline: Pipeline, database: Database) -> None:
        rich_history(pipeline)
        as_owner(database, "UPDATE cap_balances SET used = used + 1")
        as_owner(database, "UPDATE grant_balances SET used = used + 1")
        assert [each[:2] for each in differences(pipeline)] == [("cap", "m"), ("grant", "n")]
        (_, grant) = verified(pipeline)["differences"]
        assert (grant["grant"], grant["stated"], grant["added_up"]) == ("7", 3, 2)

    def test_holds_are_compared_with_the_entries_that_make_and_settle_them(
        self, pipeline: Pipeline, database: Database
    ) -> None:
        shard = pipeline.clocked.open("a", limit=None).open("z", limit=None)
        committed, released, kept = shard.hold(1, metric="a"), shard.hold(2, metric="a"), shard.hold(3, metric="a")
        unmade, missing = shard.hold(4, metric="z"), shard.hold(5, metric="z")
        shard.do(Mode.COMMIT, (None, committed), metric="a")
        shard.do(Mode.RELEASE, (None, released), metric="a")
        pipeline.drained()
        assert verified(pipeline)["differing"] == 0
        as_owner(
            database,
            f"UPDATE holds SET settled_by = NULL, settled_at = NULL WHERE concat(epoch, '-', n) = '{committed}'",
            f"UPDATE holds SET settled_by = 'expire' WHERE concat(epoch, '-', n) = '{released}'",
            f"UPDATE holds SET settled_by = 'commit' WHERE concat(epoch, '-', n) = '{kept}'",
            f"UPDATE entries SET kind = 'denied' WHERE concat(epoch, '-', n) = '{unmade}'",
            f"DELETE FROM holds WHERE concat(epoch, '-', n) = '{missing}'",
        )
        found = [each for each in verified(pipeline)["differences"] if each["what"] == "hold"]
        assert [(each["entry"], each["metric"], each["stated"], each["added_up"]) for each in found] == [
            (f"3.{committed}", "a", 1, 0),
            (f"3.{released}", "a", 0, 0),
            (f"3.{kept}", "a", 0, 3),
            (f"3.{unmade}", "z", 4, None),
            (f"3.{missing}", "z", None, 5),
        ]

    def test_a_sealed_period_is_compared_with_its_entries_up_to_its_place(
        self, pipeline: Pipeline, database: Database
    ) -> None:
        rich_history(pipeline)
        as_owner(database, SEAL)
        assert pipeline.rows("SELECT metric, used FROM sealed_periods ORDER BY 1") == [("m", 23), ("n", 5)]
        assert pipeline.rows("SELECT sum(change) FROM entries WHERE is_late") == [(1,)]
        assert verified(pipeline)["differing"] == 0
        as_owner(database, "UPDATE sealed_periods SET used = used + 1 WHERE metric = 'm'")
        (found,) = verified(pipeline)["differences"]
        assert (found["what"], found["metric"], found["stated"], found["added_up"]) == ("sealed", "m", 24, 23)

    def test_the_account_its_period_and_the_entry_are_told(self, pipeline: Pipeline, database: Database) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 3)
        pipeline.drained()
        as_owner(database, "UPDATE entries SET used_after = 9 WHERE n = 2")
        (found,) = verified(pipeline)["differences"]
        assert found.pop("period_start").endswith("T00:00:00Z")
        account = {"tenant": "t", "subject": "u", "metric": "m", "period_kind": "month"}
        account |= {"what": "line", "entry": "3.1-2", "stated": 9, "added_up": 3}
        assert found == account | {"told": False, "corrected": False}

    def test_a_line_that_an_incident_tells_of_says_so(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(pipeline.shard.step(1))
        pipeline.tamper(by=5)
        pipeline.shard.consume(pipeline.shard.step(1), pipeline.shard.step(1))
        pipeline.drained()
        assert [kind for _, kind, _ in pipeline.incidents()] == ["arithmetic"]
        (found,) = verified(pipeline)["differences"]
        assert (found["entry"], found["stated"], found["added_up"]) == ("3.1-1", 7, 2)
        assert (found["told"], found["corrected"], verified(pipeline)["differing"]) == (True, False, 1)

    def test_a_line_that_was_told_of_and_put_right_is_counted_apart(self, pipeline: Pipeline) -> None:
        shard = pipeline.shard.open(limit=None)
        shard.consume(shard.step(1))
        pipeline.drained()
        pipeline.tamper(by=5)
        shard.consume(shard.step(1))
        pipeline.drained()
        pipeline.reconcile().run_once()
        pipeline.drained()
        assert pipeline.rows("SELECT count(*) FROM entries WHERE kind = 'correct'") == [(1,)]
        result = verified(pipeline)
        (found,) = result["differences"]
        assert (found["entry"], found["told"], found["corrected"]) == ("3.1-1", True, True)
        assert (result["differing"], result["told"]) == (0, 1)

    def test_whoever_names_a_tenant_is_told_of_incidents_and_of_no_other_tenant(
        self, pipeline: Pipeline, database: Database
    ) -> None:
        self.test_a_line_that_was_told_of_and_put_right_is_counted_apart(pipeline)
        for tenant, subject in (("s", "u"), ("t", "v"), ("ta", "u")):
            line = "consume {now} 1 1 1 1 1 - - - {account} {window}"
            pipeline.put(line, subject=subject, tenant=tenant)
        pipeline.drained()
        as_owner(database, "UPDATE balances SET used = used + 1 WHERE (tenant, subject) <> ('t', 'u')")
        figures = [verified(pipeline, **asked) for asked in ({"tenant": "t", "subject": "u"}, {"tenant": "t"})]
        found = [(each["accounts"], each["balances"], each["differing"], each["told"]) for each in figures]
        assert found == [(1, 1, 0, 1), (2, 2, 1, 1)]

    @pytest.mark.parametrize(
        ("change", "differing"),
        [
            ("DELETE FROM incidents", 1),  # nobody was told
            ("UPDATE entries SET used_after = used_after + 1 WHERE kind = 'correct'", 2),  # it was not put right
            ("UPDATE balances SET used = used + 1", 1),
        ],
    )
    def test_whatever_else_differs_still_counts(
        self, pipeline: Pipeline, database: Database, change: str, differing: int
    ) -> None:
        self.test_a_line_that_was_told_of_and_put_right_is_counted_apart(pipeline)
        as_owner(database, change)
        assert verified(pipeline)["differing"] == differing

    @pytest.mark.parametrize(("corrected", "wrong"), [(2, ["3.1-1"]), (7, ["3.1-1", "3.1-2"])])
    def test_a_correction_states_the_sum_and_not_what_follows(
        self, pipeline: Pipeline, corrected: int, wrong: list[str]
    ) -> None:
        pipeline.shard.run(protocol.begin_epoch(3, 1, ""))
        for words in ("consume 1 1 1", "consume 1 1 7", f"correct 5 0 {corrected}", f"consume 1 1 {corrected + 1}"):
            kind, *figures = words.split(" ")
            detail = "was:9" if kind == "correct" else "-"
            pipeline.put(f"{kind} {{now}} {' '.join(figures)} 1 1 {detail} - - {{account}} {{window}}")
        pipeline.drained()
        assert [each["entry"] for each in verified(pipeline)["differences"]] == wrong

    def test_only_the_subjects_of_the_tenant_that_asked_are_named(self, pipeline: Pipeline, database: Database) -> None:
        pipeline.shard.open(limit=None).consume(pipeline.shard.step(1))
        pipeline.drained()
        as_owner(database, "UPDATE balances SET used = 7")
        assert (
            verified(pipeline, names_of="t")["differing"] == len(verified(pipeline, names_of="t")["differences"]) == 1
        )
        other = verified(pipeline, names_of="other")
        assert (other["differing"], other["differences"]) == (1, [])
        assert verified(pipeline, tenant="other")["differing"] == 0

    def test_each_step_begins_where_the_last_one_ended(self, pipeline: Pipeline, database: Database) -> None:
        shard = pipeline.shard
        for number in range(20):
            metric = f"m{number:02}"
            shard.open(metric, limit=None).consume(*[shard.step(1, metric=metric)] * 5)
        pipeline.drained()
        as_owner(database, "UPDATE balances SET used = 6 WHERE metric IN ('m03', 'm19')")
        result, _, steps = through(pipeline, replay_verification.step, step_entries=10)
        assert (result["entries"], result["accounts"], result["differing"], steps > 5) == (100, 20, 2, True)


class TestForksAndEpochs:
    def begin_again(self, pipeline: Pipeline, used: int) -> None:
        """The next epoch, provisioned with what the ledger knows."""
        pipeline.connection.flushall()
        shard = pipeline.shard
        pipeline.shard.run(protocol.begin_epoch(3, 2, ""))
        assert shard.provision(shard.opening(limit=None, used=used), epoch=2) == "provisioned"
        shard.consume(shard.step(1), shard.step(2))
        pipeline.drained()

    def test_the_lines_of_a_fork_are_no_differences_and_the_next_epoch_follows(self, pipeline: Pipeline) -> None:
        go_back(pipeline)
        self.begin_again(pipeline, used=103)
        assert pipeline.balances() == {("m", "month"): 106}
        assert [kind for _, kind, _ in pipeline.incidents() if kind != "arithmetic"] == ["fork"]
        result = verified(pipeline)
        assert (result["entries"], result["differing"]) == (9, 0)

    def test_a_wrong_line_before_a_fork_and_after_it_is_still_found(
        self, pipeline: Pipeline, database: Database
    ) -> None:
        go_back(pipeline)
        self.begin_again(pipeline, used=103)
        as_owner(database, "UPDATE entries SET used_after = used_after + 5 WHERE (epoch, n) IN ((1, 0), (2, 1))")
        places = [each["entry"] for each in verified(pipeline)["differences"] if each["what"] == "line"]
        assert places == ["3.1-0", "3.2-1"]

    def test_a_balance_that_leaves_a_fork_out_is_found(self, pipeline: Pipeline, database: Database) -> None:
        go_back(pipeline)
        as_owner(database, "UPDATE balances SET used = 3")
        assert differences(pipeline) == [("balance", "m", 3, 103)]

    def test_what_redis_has_lost_is_no_difference(self, pipeline: Pipeline) -> None:
        shard = pipeline.shard.open(limit=None)
        shard.consume(shard.step(5))
        pipeline.drained()
        shard.consume(shard.step(7))
        self.begin_again(pipeline, used=5)
        assert pipeline.balances() == {("m", "month"): 8}
        assert differences(pipeline) == []


def test_a_step_reads_its_own_accounts_and_not_the_whole_ledger(pipeline: Pipeline, database: Database) -> None:
    """Where one tenant has everything, the planner takes a stretch of accounts for a third of the table."""
    fill(database.owner_url.replace("+psycopg", "", 1), 20_000, 2_000)
    with replay.snapshot(pipeline.engine, None) as connection:
        span = replay.whole(connection, None, None)
        assert span is not None
        parameters = replay.first_part(connection, span, 100).parameters() | {"most": 10, "at": datetime.now(UTC)}
        parameters |= {"since": datetime.now(UTC), "since_ms": 0}
        bucket_statements = (replay_buckets.CAPS, replay_buckets.GRANTS, replay_buckets.HOLDS)
        for statement in (replay_verification._lines, *bucket_statements, replay_balances._balances):
            lines = [row[0] for row in connection.execute(text("EXPLAIN " + statement.text), parameters)]
            scans = [line for line in lines if "Scan" in line and " entries_" in line]
            assert scans
            assert [line for line in scans if "_tenant_subject_metric_epoch_n_" not in line] == []
