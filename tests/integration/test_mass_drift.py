"""A mass drift is told and not "corrected"; and what runs found is kept for a while."""

import json
from pathlib import Path

from click.testing import CliRunner

from ledger import reconciliations
from quotagate.cli import main
from tests.conftest import Database, Stores
from tests.integration.accounts_apart import Members
from tests.integration.pipeline import Pipeline
from workers.guard import Guard
from workers.reconcile import WHAT_TO_DO, Corrections, Reconcile


def reconcile(pipeline: Pipeline, most: int = 100, most_pct: int = 10) -> Reconcile:
    return Reconcile(pipeline.journal, pipeline.engine, pipeline.drain(), Guard(most, most_pct))


def mass_drifts(pipeline: Pipeline) -> list[dict[str, object]]:
    return [detail for _, kind, detail in pipeline.incidents() if kind == "mass_drift"]


def tampered(pipeline: Pipeline, count: int, drifting: int) -> Members:
    members = Members.opened(pipeline, count)
    for number in range(drifting):
        members.tamper(number, 1 if number % 2 else -1)
    return members


def test_as_many_as_the_guard_lets_through_are_corrected(pipeline: Pipeline) -> None:
    members = tampered(pipeline, 60, 5)
    run = reconcile(pipeline, most=5).run_once()
    assert (run.drifted, run.corrected, run.refusal, mass_drifts(pipeline)) == (5, 5, None, [])
    assert [members.used(number) for number in range(60)] == [3] * 60


def test_one_more_and_nothing_is_corrected_but_told(pipeline: Pipeline) -> None:
    members = tampered(pipeline, 60, 6)
    run = reconcile(pipeline, most=5).run_once()
    reason = "6 accounts drifted, and at most 5 are corrected"
    assert (run.drifted, run.corrected, run.refusal, len(run.drifts)) == (6, 0, reason, 6)
    (told,) = mass_drifts(pipeline)
    assert told == {"reason": reason, "what_to_do": WHAT_TO_DO, "drifted": 6, "compared": 61}
    assert sorted(members.used(number) for number in range(6)) == [2, 2, 2, 4, 4, 4]
    assert members.corrections() == []


def test_what_was_refused_is_seen_over_http_and_in_the_history(
    pipeline: Pipeline, stores: Stores, database: Database, tmp_path: Path
) -> None:
    tampered(pipeline, 60, 6)
    run, _ = reconcile(pipeline, most=5).run_once(), reconcile(pipeline).run_once()
    reason = "6 accounts drifted, and at most 5 are corrected"
    shown = run.to_document()
    assert (shown["missing"], shown["refusal"]) == (0, reason)
    environment = {"QUOTAGATE_REDIS_URL": stores.redis_url, "QUOTAGATE_DATABASE_URL": database.application_url}

    def history(*options: str) -> list[str]:
        told = CliRunner().invoke(main, ["reconcile", "--data", str(tmp_path), "--history", *options], env=environment)
        assert told.exit_code == 0, told.output
        return told.stdout.splitlines()

    one, why, other = history("5")
    assert "61 accounts compared, 6 drifted, 0 missing, 0 corrected" in one
    assert why == f"  {reason}"
    assert "6 drifted, 0 missing, 6 corrected" in other
    assert len(history("1")) == 1
    assert [json.loads(line)["refusal"] for line in history("5", "--json")] == [reason, None]
    assert pipeline.rows("SELECT count(*) FROM reconciliations") == [(2,)]


def test_a_large_share_is_not_corrected_either(pipeline: Pipeline) -> None:
    tampered(pipeline, 60, 12)
    run = reconcile(pipeline).run_once()
    assert (run.corrected, run.refusal) == (0, "12 of 61 accounts drifted, and at most 10 % of them are corrected")


def test_a_shard_that_is_wrong_in_one_direction_is_not_corrected(pipeline: Pipeline) -> None:
    members = Members.opened(pipeline, 19)
    for number in range(10):
        members.tamper(number, -1)
    run = reconcile(pipeline, most_pct=100).run_once()
    reason = "10 of 20 accounts of shard 3 are too low, and none the other way"
    assert (run.corrected, run.refusal, len(mass_drifts(pipeline))) == (0, reason, 1)
    members.tamper(10, 1)
    assert reconcile(pipeline, most_pct=100).run_once().corrected == 11


def test_while_it_lasts_it_is_an_incident_once_and_again_when_it_comes_again(pipeline: Pipeline) -> None:
    members = tampered(pipeline, 60, 6)
    for _ in range(3):
        assert reconcile(pipeline, most=5).run_once().refusal is not None
    assert len(mass_drifts(pipeline)) == 1
    assert reconcile(pipeline, most=6).run_once().corrected == 6
    for number in range(6):
        members.tamper(number)
    assert reconcile(pipeline, most=5).run_once().refusal is not None
    assert len(mass_drifts(pipeline)) == 2


def test_told_to_correct_all_it_does(pipeline: Pipeline) -> None:
    members = tampered(pipeline, 60, 40)
    pipeline.connection.delete(members.key(59))
    members.put(58, "warned", "nonsense")
    run = reconcile(pipeline, most=5).run_once(corrections=Corrections.ALL)
    assert (run.drifted, run.missing, run.corrected, run.refusal) == (41, 1, 42, None)
    assert [members.used(number) for number in range(60)] == members.balances() == [3] * 60
    assert mass_drifts(pipeline) == []


def test_a_guard_of_none_only_ever_tells(pipeline: Pipeline) -> None:
    members = tampered(pipeline, 5, 1)
    run = reconcile(pipeline, most=0).run_once()
    assert (run.drifted, run.corrected, members.used(0)) == (1, 0, 2)


def test_runs_of_long_ago_are_forgotten_and_never_the_last(pipeline: Pipeline) -> None:
    for _ in range(4):
        reconcile(pipeline).run_once()
    assert pipeline.call(reconciliations.forget) == 0
    insert = (
        "INSERT INTO reconciliations (started_at, finished_at, accounts, drifted, corrected, undrained_entries, "
        "lag_ms, incidents, drifts) SELECT at, at, 1, 0, 0, 0, 0, 0, '[]' FROM (VALUES (now() - interval '91 days'), "
        "(now() - interval '89 days'), (now() - interval '91 days')) AS past (at) RETURNING run_id"
    )
    pipeline.rows(insert)
    assert pipeline.call(reconciliations.forget) == 1
    last = pipeline.call(reconciliations.last)
    assert last is not None and last.run_id == 7
    assert [run for (run,) in pipeline.rows("SELECT run_id FROM reconciliations ORDER BY 1")] == [1, 2, 3, 4, 6, 7]


def test_what_a_run_found_is_kept_with_it(pipeline: Pipeline) -> None:
    members = tampered(pipeline, 20, 1)
    pipeline.connection.delete(members.key(7))
    run = reconcile(pipeline).run_once()
    assert pipeline.call(reconciliations.last) == run
    assert (run.missing, [drift.what for drift in run.drifts]) == (1, ["used", "missing"])
