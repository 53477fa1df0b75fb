"""Jobs that people ask for: one worker has each at a time, and what one leaves another goes on with."""

import threading
from typing import Any

import pytest
import redis
from sqlalchemy import text

from ledger import jobs
from ledger.acts import By
from ledger.jobs import Job
from ledger.replay import Step
from ledger.store import ALL_TENANTS, transaction
from quota.errors import Conflict, InvalidRequest, LedgerUnavailable, NotFound, TooMany
from tests.integration.pipeline import Crashed, Pipeline
from workers import asked_jobs
from workers.rebuild import Rebuild
from workers.reset import Reset
from workers.taking_up import TakingUp

DEADLINE_S = 30.0


def ask(pipeline: Pipeline, job: str = "count", tenant: str = "t", **arguments: Any) -> Job:
    return pipeline.call(jobs.add, tenant, job, arguments, By("test"))


def read(pipeline: Pipeline, job: Job) -> Job:
    found = pipeline.call(jobs.read, job.id)
    assert found is not None
    return found


def let_claims_end(pipeline: Pipeline) -> None:
    """As if so much time had passed."""
    pipeline.call(lambda connection: connection.execute(text("UPDATE jobs SET next_try_at = now() - interval '1 s'")))


class Counting:
    """A job of so many steps; `seen` is what each step began with."""

    def __init__(self, steps: int) -> None:
        self.steps, self.seen = steps, []  # type: ignore[var-annotated]

    def __call__(self, arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
        done = (cursor or {"done": 0})["done"] + 1
        self.seen.append(done)
        return Step({"done": done}, done / self.steps, [], {"steps": done} if done == self.steps else None)


def worker(pipeline: Pipeline, steps: int = 5) -> tuple[TakingUp, Counting]:
    taking_up, counting = TakingUp(pipeline.engine), Counting(steps)
    taking_up.stepping["count"] = counting
    return taking_up, counting


class TestRows:
    def test_a_job_is_queued_then_running_then_done(self, pipeline: Pipeline) -> None:
        job = ask(pipeline)
        assert (job.state, job.progress, job.result) == ("queued", 0, None)
        claimed = pipeline.call(jobs.claim)
        assert claimed is not None and claimed.id == job.id
        assert pipeline.call(jobs.advance, claimed, 0.5, {"at": 1})
        assert (read(pipeline, job).state, read(pipeline, job).progress) == ("running", 0.5)
        assert pipeline.call(jobs.finish, claimed, {"found": 3})
        document = {"id": job.id, "job": "count", "state": "done", "progress": 1, "result": {"found": 3}, "error": None}
        assert read(pipeline, job).to_document() == document

    def test_nobody_claims_what_is_claimed_until_the_claim_has_ended(self, pipeline: Pipeline) -> None:
        ask(pipeline)
        first = pipeline.call(jobs.claim)
        assert first is not None
        assert pipeline.call(jobs.claim) is None
        let_claims_end(pipeline)
        second = pipeline.call(jobs.claim)
        assert second is not None and second.claim == 2
        written = [pipeline.call(jobs.advance, each, 0.5, {}) for each in (first, second)]
        assert written == [False, True]
        assert [pipeline.call(jobs.finish, each, {}) for each in (first, second)] == [False, True]
        assert not pipeline.call(jobs.fail, first, "too late")

    def test_many_who_claim_at_once_have_a_job_each(self, pipeline: Pipeline) -> None:
        asked = {ask(pipeline).id for _ in range(4)}
        found: list[str | None] = []
        together = threading.Barrier(4)

        def claim() -> None:
            together.wait(DEADLINE_S)
            with transaction(pipeline.engine, ALL_TENANTS) as connection:
                job = jobs.claim(connection)
                together.wait(DEADLINE_S)  # all of them have claimed, and nobody has committed
            found.append(job.id if job else None)

        claiming = [threading.Thread(target=claim) for _ in range(4)]
        for each in claiming:
            each.start()
        for each in claiming:
            each.join(DEADLINE_S)
        assert sorted(found, key=str) == sorted(asked)

    def test_there_is_a_limit_of_unfinished_jobs_a_tenant(self, pipeline: Pipeline) -> None:
        for _ in range(jobs.MAX_UNFINISHED_JOBS):
            last = ask(pipeline)
        with pytest.raises(TooMany):
            ask(pipeline)
        ask(pipeline, tenant="other")
        claimed = pipeline.call(jobs.claim)
        assert claimed is not None and claimed.id != last.id
        pipeline.call(jobs.finish, claimed, {})
        ask(pipeline)

    def test_what_was_finished_long_ago_is_forgotten_and_nothing_else(self, pipeline: Pipeline) -> None:
        old, left, young, waiting = (ask(pipeline) for _ in range(4))
        for each in (old, left, young):
            pipeline.call(jobs.take, each.id)
        age = text("UPDATE jobs SET finished_at = now() - make_interval(days => :d) WHERE id = CAST(:id AS uuid)")
        for job, days in ((old, 31), (young, 29)):
            pipeline.call(lambda connection, job=job, days=days: connection.execute(age, {"id": job.id, "d": days}))
        begun = text("UPDATE jobs SET started_at = now() - interval '31 d' WHERE id = CAST(:id AS uuid)")
        pipeline.call(lambda connection: connection.execute(begun, {"id": left.id}))
        assert pipeline.call(jobs.forget) == 2
        assert {row[0] for row in pipeline.rows("SELECT id::text FROM jobs")} == {young.id, waiting.id}

    def test_a_tenant_sees_its_own_jobs_alone(self, pipeline: Pipeline) -> None:
        job = ask(pipeline, tenant="t")
        for tenant, is_seen in (("t", True), ("other", False)):
            with transaction(pipeline.engine, tenant) as connection:
                assert (jobs.read(connection, job.id) is not None) == is_seen
        assert pipeline.call(jobs.read, "no uuid") is None


class TestOperators:
    def test_what_an_operator_has_taken_no_worker_claims(self, pipeline: Pipeline) -> None:
        job = ask(pipeline)
        taken = pipeline.call(jobs.take, job.id)
        pipeline.call(jobs.advance, taken, 0.5, {"done": 2})
        assert pipeline.call(jobs.claim) is None
        again = pipeline.call(jobs.take, job.id)
        assert (again.cursor, pipeline.call(jobs.advance, taken, 0.6, {})) == ({"done": 2}, False)

    def test_what_a_worker_does_no_operator_takes(self, pipeline: Pipeline) -> None:
        job = ask(pipeline)
        pipeline.call(jobs.claim)
        with pytest.raises(Conflict):
            pipeline.call(jobs.take, job.id)
        with pytest.raises(NotFound):
            pipeline.call(jobs.take, "00000000-0000-4000-8000-000000000000")


class TestTakingUp:
    def test_a_job_is_done_step_by_step_and_its_result_is_kept(self, pipeline: Pipeline) -> None:
        job, (taking_up, counting) = ask(pipeline), worker(pipeline)
        assert (taking_up.run_once(), counting.seen) == (5, [1, 2, 3, 4, 5])
        assert (read(pipeline, job).state, read(pipeline, job).result) == ("done", {"steps": 5})
        assert taking_up.run_once() == 0

    def test_jobs_take_turns(self, pipeline: Pipeline) -> None:
        first, second = ask(pipeline), ask(pipeline)
        taking_up, _ = worker(pipeline, steps=2)
        states = []
        for _ in range(4):
            taking_up.run_once(hold_s=0)
            states.append((read(pipeline, first).progress, read(pipeline, second).progress))
        assert states == [(0.5, 0), (0.5, 0.5), (1, 0.5), (1, 1)]

    def test_another_worker_goes_on_where_one_was_killed(self, pipeline: Pipeline) -> None:
        job, (killed, counting) = ask(pipeline), worker(pipeline)

        def die_at_the_third(arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
            if len(counting.seen) == 2:
                raise SystemExit  # nothing of ours runs after it, as after a kill
            return counting(arguments, cursor)

        killed.stepping["count"] = die_at_the_third
        with pytest.raises(SystemExit):
            killed.run_once()
        assert (read(pipeline, job).state, read(pipeline, job).progress) == ("running", 0.4)
        taking_up, rest = worker(pipeline)
        assert taking_up.run_once() == 0
        let_claims_end(pipeline)
        taking_up.run_once()
        assert (rest.seen, read(pipeline, job).result) == ([3, 4, 5], {"steps": 5})

    def test_whoever_has_lost_the_claim_lets_go(self, pipeline: Pipeline) -> None:
        job, (slow, counting) = ask(pipeline), worker(pipeline)
        fast, rest = worker(pipeline)

        def overtaken(arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
            let_claims_end(pipeline)
            fast.run_once()
            return counting(arguments, cursor)

        slow.stepping["count"] = overtaken
        slow.run_once()
        assert (counting.seen, rest.seen) == ([1], [1, 2, 3, 4, 5])
        assert read(pipeline, job).result == {"steps": 5}

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (InvalidRequest("from must lie before to"), "from must lie before to"),
            (Crashed(), "log"),
            (redis.ResponseError("WRONGTYPE Operation against a key"), "log"),
        ],
    )
    def test_a_job_that_fails_says_why(self, pipeline: Pipeline, error: Exception, told: str) -> None:
        job, (taking_up, _) = ask(pipeline), worker(pipeline)

        def fail(*_: object) -> Step:
            raise error

        taking_up.stepping["count"] = fail
        taking_up.run_once()
        found = read(pipeline, job)
        assert found.state == "failed" and told in str(found.error)

    @pytest.mark.parametrize("error", [LedgerUnavailable("the ledger is away"), redis.ConnectionError("refused")])
    def test_a_store_that_is_away_fails_no_job(self, pipeline: Pipeline, error: Exception) -> None:
        job, (taking_up, counting) = ask(pipeline), worker(pipeline)

        def away(*_: object) -> Step:
            raise error

        taking_up.stepping["count"] = away
        taking_up.run_once()
        assert read(pipeline, job).state == "running"
        taking_up.stepping["count"] = counting
        let_claims_end(pipeline)
        taking_up.run_once()
        assert read(pipeline, job).state == "done"

    def test_a_job_that_nobody_knows_fails(self, pipeline: Pipeline) -> None:
        job = ask(pipeline, "polish")
        TakingUp(pipeline.engine).run_once()
        assert (read(pipeline, job).state, "polish" in str(read(pipeline, job).error)) == ("failed", True)

    def test_a_claim_is_renewed_while_a_step_takes_long(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ask(pipeline)
        monkeypatch.setattr(jobs, "CLAIM_LASTS_S", 0.06)
        taking_up, counting = worker(pipeline, steps=1)
        renewed = threading.Event()
        real = jobs.renew

        def renew(*arguments: Any) -> bool:
            is_ours = real(*arguments)
            renewed.set()
            return is_ours

        def wait(arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
            assert renewed.wait(DEADLINE_S)
            return counting(arguments, cursor)

        monkeypatch.setattr(jobs, "renew", renew)
        taking_up.stepping["count"] = wait
        assert taking_up.run_once() == 1

    def test_the_ledger_is_verified_and_replayed(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(2)] * 3)
        pipeline.drained()
        verify, replay = ask(pipeline, "verify"), ask(pipeline, "replay", at_ms=pipeline.shard.now_ms())
        taking_up = TakingUp(pipeline.engine)
        taking_up.run_once()
        taking_up.run_once()
        found = read(pipeline, verify).result or {}
        assert (found["entries"], found["differing"]) == (3, 0)
        assert (read(pipeline, replay).result or {})["used"] == 6

    def test_what_runs_by_itself_runs_when_asked(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(2)] * 3)
        names = ("drain", "reconcile", "rebuild", "reset")
        drain, reconcile, rebuild, reset = (ask(pipeline, name) for name in names)
        taking_up = TakingUp(pipeline.engine)
        rebuilding, resetting = (kind(pipeline.connection, pipeline.engine) for kind in (Rebuild, Reset))
        taking_up.stepping |= asked_jobs.stepping(pipeline.drain(), pipeline.reconcile(), rebuilding, resetting)
        for _ in range(4):
            taking_up.run_once()
        assert read(pipeline, drain).result == {"entries": 3}
        assert (read(pipeline, reconcile).result or {})["drifted"] == 0
        assert (read(pipeline, rebuild).result or {})["accounts"] == 1
        assert (read(pipeline, reset).result or {})["waiting"] == 0
