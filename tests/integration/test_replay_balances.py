"""Balances added up again from entries alone, at any instant that was."""

from ledger import replay_balances
from quota.periods import DAY_MS
from quota.protocol import Mode
from tests.integration.pipeline import Pipeline
from tests.integration.replaying import rich_history, through


class TestBalances:
    def test_they_are_those_that_the_ledger_has(self, pipeline: Pipeline) -> None:
        rich_history(pipeline)
        at_ms = pipeline.clocked.now_ms() + DAY_MS
        result, found, steps = through(pipeline, replay_balances.step, at_ms=at_ms, step_entries=1)
        known = pipeline.rows(
            "SELECT metric, used, shard || '.' || epoch || '-' || n FROM balances ORDER BY 1, period_start"
        )
        assert [(each["metric"], each["used"], each["last_entry"]) for each in found] == known
        assert (result["balances"], result["used"], steps) == (len(known), sum(used for _, used, _ in known), 2)

    def test_at_an_instant_what_came_later_is_left_out(self, pipeline: Pipeline) -> None:
        shard = pipeline.clocked.open(limit=100)
        shard.consume(shard.step(5))
        held_at_ms = shard.now_ms()
        hold = shard.hold(8, ttl_ms=10_000)
        shard.step_clock(1_000)
        shard.do(Mode.COMMIT, (6, hold))
        shard.hold(3, ttl_ms=2_000)
        pipeline.drained()

        def at(ms: int) -> list[tuple[int, int]]:
            found = pipeline.call(replay_balances.at_instant, "t", "u", "m", held_at_ms + ms)
            return [(each["used"], each["held"]) for each in found]

        assert [at(ms) for ms in (-1, 0, 999, 1_000, 2_999, 3_000)] == [
            *([], [(5, 8)], [(5, 8)]),
            *([(11, 3)], [(11, 3)], [(11, 0)]),
        ]

    def test_each_period_has_its_own(self, pipeline: Pipeline) -> None:
        rich_history(pipeline)
        end_ms = pipeline.clocked.now_ms()
        (before,) = pipeline.call(replay_balances.at_instant, "t", "u", "m", end_ms - 1)
        (after,) = pipeline.call(replay_balances.at_instant, "t", "u", "m", end_ms)
        assert (before["used"], after["used"]) == (23, 1)
