"""Holds, capped windows and seals in the ledger, as the drain fills them and as callers read them."""

import pytest

from ledger import accounts, holds
from quota import keys
from quota.journal import Place
from quota.keys import AccountName
from quota.periods import DAY_MS
from quota.protocol import Mode
from tests.integration.one_account import ACCOUNT, do, give, next_day, open_with_grants, roll
from tests.integration.pipeline import Pipeline

MOVED = {
    "balances": "SELECT metric, period_kind, period_start, used, epoch, n FROM balances ORDER BY 1, 2, 3",
    "cap_balances": "SELECT metric, period_kind, period_start, used FROM cap_balances ORDER BY 1, 2, 3",
    "grant_balances": "SELECT grant_id, period_kind, period_start, used FROM grant_balances ORDER BY 1, 2, 3",
    "grants": "SELECT id, journalled, expiry_journalled FROM grants ORDER BY 1",
    "holds": "SELECT epoch, n, settled_by, settled_at, sealed FROM holds ORDER BY 1, 2",
    "idempotency_keys": "SELECT key, epoch, first_n FROM idempotency_keys ORDER BY 1",
}


class TestHolds:
    @pytest.mark.parametrize("limit", [3, 9, None])
    def test_an_open_one_reads_as_in_the_accounts_hash(self, pipeline: Pipeline, limit: int) -> None:
        give(pipeline)
        open_with_grants(pipeline, limit)
        for amount in (4, 0):
            do(pipeline, Mode.HOLD, amount, str(90 * DAY_MS))
        pipeline.drained()
        for _ in range(2):
            fields = pipeline.clocked.account()
            in_redis = {name[2:]: text for name, text in fields.items() if name.startswith("h:")}
            assert pipeline.call(holds.open_of, [ACCOUNT]) == {ACCOUNT: in_redis}
            assert len(in_redis) == 2
            roll(pipeline)
            pipeline.drained()

    def test_it_is_open_until_something_settles_it(self, pipeline: Pipeline) -> None:
        open_with_grants(pipeline, 100)
        committed, released, expired, left = (
            do(pipeline, Mode.HOLD, 2, ttl) for ttl in ("90000",) * 2 + ("9", "90000")
        )
        pipeline.drained()

        def told(n: int, tenant: str = "t") -> str | None:
            return pipeline.call(holds.settled_by, AccountName(tenant, "u", "m"), 3, f"1-{n}")

        assert [told(n) for n in (committed, released, expired, left)] == ["open"] * 4
        do(pipeline, Mode.COMMIT, 1, f"1-{committed}")
        do(pipeline, Mode.RELEASE, None, f"1-{released}")
        pipeline.clocked.set_clock(pipeline.clocked.now_ms() + 10)
        do(pipeline, Mode.CONSUME, 1)
        pipeline.drained()
        assert [told(n) for n in (committed, released, expired, left)] == ["commit", "release", "expire", "open"]
        assert (told(left, "another"), told(99)) == (None, None)
        assert list(pipeline.call(holds.open_of, [ACCOUNT])[ACCOUNT]) == [f"1-{left}"]

    def test_a_levels_release_and_a_grants_expiry_settle_none(self, pipeline: Pipeline) -> None:
        give(pipeline, days=1)
        open_with_grants(pipeline, 100)
        place = do(pipeline, Mode.HOLD, 2, str(9 * DAY_MS))
        do(pipeline, Mode.CONSUME, 2)
        do(pipeline, Mode.GIVE, 1)
        next_day(pipeline)
        pipeline.drained()
        kinds = [kind for (kind,) in pipeline.rows("SELECT kind FROM entries ORDER BY n")]
        assert kinds == ["grant", "hold", "consume", "release", "expire"]
        assert pipeline.call(holds.settled_by, ACCOUNT, 3, f"1-{place}") == "open"


class TestAmounts:
    def test_what_was_held_is_known_by_account_place_and_period(self, pipeline: Pipeline) -> None:
        pipeline.clocked.open("m", 100)
        place = f"1-{do(pipeline, Mode.HOLD, 5, '60000')}"
        start_ms = pipeline.clocked.window().start_ms
        pipeline.drained()
        other = AccountName("t", "u", "m2")
        wanted = [(ACCOUNT, 3, place, start_ms), (other, 3, place, start_ms), (ACCOUNT, 4, place, start_ms)]
        wanted += [(ACCOUNT, 3, "1-9", start_ms), (ACCOUNT, 3, place, start_ms + 1)]
        assert [pipeline.call(holds.amount_of, *each) for each in wanted] == [5, 0, 0, 0, 0]


class TestCapsAndSeals:
    def test_a_capped_window_has_used_what_was_consumed_and_committed_less_what_was_refunded(
        self, pipeline: Pipeline
    ) -> None:
        today = open_with_grants(pipeline, 100)
        taken = do(pipeline, Mode.CONSUME, 9)
        place = do(pipeline, Mode.HOLD, 5, "60000")
        do(pipeline, Mode.COMMIT, 3, f"1-{place}")
        do(pipeline, Mode.HOLD, 7, "60000")
        detail = f"1-{taken} 9 0 1 - day:{today.start_ms} "
        do(pipeline, Mode.REFUND, 4, detail, refunds_key=keys.refunds(3, 1, taken))
        pipeline.drained()
        now_ms, wanted = pipeline.clocked.now_ms(), [ACCOUNT, AccountName("t", "u", "none")]
        spent = pipeline.call(accounts.cap_spent, wanted, now_ms)
        assert spent == {ACCOUNT: {("day", today.start_ms): 9 + 3 - 4}}
        assert pipeline.clocked.account()["caps"].endswith(" 15")
        assert pipeline.call(accounts.cap_spent, wanted, now_ms + 401 * DAY_MS) == {}

    def test_the_last_seal_is_that_of_the_hash(self, pipeline: Pipeline) -> None:
        open_with_grants(pipeline, 100)
        do(pipeline, Mode.CONSUME, 1)
        pipeline.drained()
        assert pipeline.call(accounts.seals, [ACCOUNT]) == {}
        for _ in range(2):
            roll(pipeline)
            pipeline.drained()
            seal = Place.parsed(pipeline.clocked.account()["seal"].split(" ")[0])
            assert pipeline.call(accounts.seals, [ACCOUNT, AccountName("t", "u", "none")]) == {ACCOUNT: seal}

    def test_a_window_that_was_cut_short_is_not_sealed(self, pipeline: Pipeline) -> None:
        open_with_grants(pipeline, 100)
        do(pipeline, Mode.CONSUME, 1)
        pipeline.clocked.provision(pipeline.clocked.opening(limit=100, period=pipeline.clocked.window(-3, 27)))
        pipeline.drained()
        assert pipeline.rows("SELECT change FROM entries WHERE kind = 'close'") == [(-1,)]
        assert pipeline.call(accounts.seals, [ACCOUNT]) == {}


def test_everything_that_is_drained_a_second_time_moves_nothing(pipeline: Pipeline) -> None:
    give(pipeline, days=1)
    open_with_grants(pipeline)
    do(pipeline, Mode.CONSUME, 5)
    holding = [do(pipeline, Mode.HOLD, 1, str(90 * DAY_MS)) for _ in range(2)]
    do(pipeline, Mode.COMMIT, 1, f"1-{holding[0]}")
    roll(pipeline)
    do(pipeline, Mode.COMMIT, 1, f"1-{holding[1]}")
    do(pipeline, Mode.CONSUME, 1)
    again = pipeline.kept()
    moved = pipeline.drained()
    before = {name: pipeline.rows(statement) for name, statement in MOVED.items()}
    again()
    new = do(pipeline, Mode.CONSUME, 1)
    assert (moved, pipeline.drained()) == (9, 1)
    after = {name: pipeline.rows(statement) for name, statement in MOVED.items()}
    assert pipeline.incidents() == []
    assert {name for name in MOVED if before[name] != after[name]} == {"balances", "cap_balances"}
    assert (after["balances"][-1][3:], before["balances"][-1][3]) == ((2, 1, new), 1)
