"""Grants in the ledger: given out there, heard of in Redis, used up by what the drain brings."""

import threading
import time

import pytest
from sqlalchemy import text

from ledger import grants
from ledger.acts import By
from ledger.grants import MAX_LIVE_GRANTS, Granted
from ledger.store import connect, transaction
from quota.errors import TooMany
from quota.periods import DAY_MS
from quota.protocol import Mode
from tests.conftest import Database
from tests.integration.one_account import ACCOUNT, do, give, granted_now, next_day, open_with_grants, roll
from tests.integration.pipeline import Pipeline


class TestGrants:
    def test_one_that_was_given_is_known_and_announced(self, pipeline: Pipeline) -> None:
        later, first, never = give(pipeline, days=9), give(pipeline, priority=-1), give(pipeline, 2)
        expires_ms = pipeline.clocked.now_ms() + 9 * DAY_MS
        assert granted_now(pipeline) == [
            Granted(first, -1, None, 5),
            Granted(later, 0, expires_ms, 5),
            Granted(never, 0, None, 2),
        ]
        assert pipeline.rows("SELECT count(*) FROM announcements WHERE subject = 'u'") == [(3,)]

    def test_units_that_were_used_are_taken_in_their_period_and_not_left(self, pipeline: Pipeline) -> None:
        grant_id = give(pipeline)
        open_with_grants(pipeline)
        window = ("month", pipeline.clocked.window().start_ms)
        do(pipeline, Mode.CONSUME, 5)
        place = do(pipeline, Mode.HOLD, 2, "60000")
        pipeline.drained()
        assert granted_now(pipeline) == [Granted(grant_id, 0, None, 3, {window: 2}, journalled=True)]
        do(pipeline, Mode.COMMIT, 1, f"1-{place}")
        pipeline.drained()
        assert granted_now(pipeline) == [Granted(grant_id, 0, None, 2, {window: 3}, journalled=True)]

    def test_what_was_used_in_a_period_that_is_over_is_used_up_and_not_taken(self, pipeline: Pipeline) -> None:
        grant_id = give(pipeline)
        open_with_grants(pipeline)
        do(pipeline, Mode.CONSUME, 5)
        roll(pipeline)
        pipeline.drained()
        assert granted_now(pipeline) == [Granted(grant_id, 0, None, 3, {}, journalled=True)]
        do(pipeline, Mode.CONSUME, 6)
        roll(pipeline)
        pipeline.drained()
        assert granted_now(pipeline) == []

    def test_an_expired_one_counts_until_the_ledger_has_heard_of_its_end(self, pipeline: Pipeline) -> None:
        grant_id, _ = give(pipeline, days=1), give(pipeline, days=1, metric="n")
        open_with_grants(pipeline)
        do(pipeline, Mode.CONSUME, 5)
        pipeline.drained()
        next_day(pipeline)
        (known,) = granted_now(pipeline)
        assert (known.id, known.left, list(known.taken.values())) == (grant_id, 3, [2])
        pipeline.drained()
        assert (granted_now(pipeline), pipeline.balances()) == ([], {("m", "month"): 3})

    def test_one_that_expired_before_redis_heard_of_it_is_nothing(self, pipeline: Pipeline) -> None:
        give(pipeline, days=1)
        assert len(granted_now(pipeline)) == 1
        pipeline.clocked.set_clock(pipeline.clocked.now_ms() + DAY_MS)
        assert granted_now(pipeline) == []

    def test_an_account_has_at_most_64_live_ones(self, pipeline: Pipeline) -> None:
        for _ in range(MAX_LIVE_GRANTS):
            give(pipeline, 1)
        with pytest.raises(TooMany, match="64 grants"):
            give(pipeline, 1)
        give(pipeline, 1, metric="n")
        open_with_grants(pipeline)
        do(pipeline, Mode.CONSUME, 4)
        pipeline.drained()
        give(pipeline, 1)
        with pytest.raises(TooMany):
            give(pipeline, 1)

    def test_the_ids_of_an_account_are_in_the_order_of_the_commits(self, database: Database) -> None:
        engine = connect(database.application_url, pool_size=3)
        words = {"amount": 1, "priority": 0, "expires_ms": None, "by": By("k")}
        ended: list[str] = []

        def give_too(metric: str) -> None:
            with transaction(engine, "t") as connection:
                grants.add(connection, "t", "u", metric, **words)  # type: ignore[arg-type]
            ended.append(metric)

        others = {metric: threading.Thread(target=give_too, args=(metric,)) for metric in ("m", "n")}
        with transaction(engine, "t") as connection:
            first, _ = grants.add(connection, "t", "u", "m", **words)  # type: ignore[arg-type]
            for each in others.values():
                each.start()
            others["n"].join(10)
            deadline = time.monotonic() + 10
            waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            while not ended[1:] and not connection.execute(waiting).scalar_one() and time.monotonic() < deadline:
                pass
            assert ended == ["n"]
        others["m"].join(10)
        with transaction(engine, "t") as connection:
            ids = [each.id for each in grants.of_accounts(connection, [ACCOUNT], 0)[ACCOUNT]]
        engine.dispose()
        assert (ended, ids[0], len(ids)) == (["n", "m"], first, 2)
