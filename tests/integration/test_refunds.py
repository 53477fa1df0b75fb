"""What is given back goes to where it came from, on the real server and on fakeredis alike."""

from collections.abc import Iterator

import pytest

from quota import keys, protocol
from quota.formats import CapState, GrantState
from quota.journal import Entry
from quota.periods import DAY_MS, Period, PeriodKind
from quota.protocol import Mode
from quota.replies import Outcome
from tests.integration.shard import SERVERS, SHARD, ClockedShard, clocked_shard_on


@pytest.fixture(params=SERVERS)
def shard(request: pytest.FixtureRequest) -> Iterator[ClockedShard]:
    with clocked_shard_on(request.param, request) as shard:
        yield shard


def taken(shard: ClockedShard, amount: int) -> Entry:
    (reply,) = shard.consume(shard.step(amount))
    return next(each for each in shard.entries() if each.place.n == reply.first_n)


class TestHowMuch:
    def test_parts_add_up_to_what_was_taken_and_never_to_more(self, shard: ClockedShard) -> None:
        consume = taken(shard.open(limit=10), 7)
        replies = [shard.refund(consume, 3) for _ in range(4)]
        assert [reply.outcome.value for reply in replies] == ["allowed"] * 3 + ["already_refunded"]
        assert [reply.accounts[0].refunded for reply in replies[:3]] == [3, 6, 7]
        assert [reply.accounts[0].amount for reply in replies[:3]] == [3, 3, 1]
        given = [each for each in shard.entries() if each.kind == "refund"]
        assert [(each.change, each.detail) for each in given] == [(-n, str(consume.place)) for n in (3, 3, 1)]
        assert shard.used() == 0

    def test_what_the_ledger_knows_counts_when_redis_has_forgotten(self, shard: ClockedShard) -> None:
        consume = taken(shard.open(limit=10), 7)
        assert shard.refund(consume, 7, known=5).accounts[0].refunded == 7
        assert shard.used() == 5

    def test_what_redis_knows_counts_before_the_ledger_has_heard_of_it(self, shard: ClockedShard) -> None:
        consume = taken(shard.open(limit=10), 7)
        shard.refund(consume, 7)
        assert shard.refund(consume, 7, known=0).outcome is Outcome.ALREADY_REFUNDED
        assert shard.connection.pttl(keys.refunds(SHARD, 1, consume.place.n)) > DAY_MS

    def test_what_an_older_epoch_gave_back_is_the_ledgers_to_tell(self, shard: ClockedShard) -> None:
        consume = taken(shard.open(limit=10), 7)
        shard.refund(consume, 3)
        shard.run(protocol.begin_epoch(SHARD, 2, ""))
        shard.connection.xtrim(keys.journal(SHARD), maxlen=0, approximate=False)
        assert shard.provision(shard.opening(used=4, entry="1-1"), epoch=2) == "provisioned"
        assert shard.refund(consume, 7, known=3, epoch=1).outcome is Outcome.UNDRAINED
        assert shard.refund(consume, 7, known=5, epoch=2).accounts[0].amount == 2

    def test_it_waits_until_the_entries_of_an_older_epoch_are_drained(self, shard: ClockedShard) -> None:
        consume = taken(shard.open(limit=10), 7)
        items = shard.connection.xrange(keys.journal(SHARD))
        shard.run(protocol.begin_epoch(SHARD, 2, ""))
        shard.connection.xtrim(keys.journal(SHARD), maxlen=0, approximate=False)
        shard.provision(shard.opening(used=7, entry="1-0"), epoch=2)
        shard.connection.xadd(keys.journal(SHARD), items[0][1], id="1-7")
        assert shard.refund(consume, 7, epoch=2).outcome is Outcome.UNDRAINED

    def test_a_damaged_memory_of_what_was_given_back_fails_and_gives_nothing(self, shard: ClockedShard) -> None:
        consume = taken(shard.open(limit=10), 7)
        name = keys.refunds(SHARD, 1, consume.place.n)
        shard.connection.hset(name, str(consume.place), "3")
        for _ in range(2):
            before = shard.everything()
            assert shard.refund(consume, 7).outcome is Outcome.FAILED
            assert shard.everything() == before
            shard.connection.delete(name)
            shard.connection.set(name, "of a wrong type")

    def test_of_a_level_that_was_given_back_already_it_would_go_below_zero(self, shard: ClockedShard) -> None:
        consume = taken(shard.open(limit=10), 7)
        shard.do(Mode.GIVE, (5, ""))
        before = shard.everything()
        assert shard.refund(consume, 7).outcome is Outcome.BELOW_ZERO
        assert shard.everything() == before
        assert shard.refund(consume, 2).accounts[0].used == 0

    def test_the_charges_of_one_receipt_are_neighbours_again(self, shard: ClockedShard) -> None:
        shard.open("m", limit=100).open("m2", limit=100).consume(shard.step(3, 4))
        details = [f"1-{n} {amount} 0 1 - - " for n, amount in ((0, 3), (1, 4))]
        name = keys.refunds(SHARD, 1, 0)
        reply = shard.do(Mode.REFUND, (9, details[0]), (9, details[1]), refunds_key=name)
        assert (reply.first_n, [state.amount for state in reply.accounts]) == (2, [3, 4])
        assert [(each.receipt_first_n, each.receipt_count) for each in shard.entries()[2:]] == [(2, 2), (2, 2)]


class TestWhereTo:
    def test_grants_get_their_units_back_first_and_the_plan_the_rest(self, shard: ClockedShard) -> None:
        consume = taken(shard.open(limit=5, grants=(GrantState(1, 0, None, 3),)), 7)
        assert shard.account()["grants"] == "1 0 - 1 2 0"
        shard.refund(consume, 1)
        assert shard.account()["grants"] == "1 0 - 2 1 0"
        shard.refund(consume, 6)
        assert (shard.account()["grants"], shard.used()) == ("1 0 - 3 0 0", 0)

    def test_a_grant_that_has_expired_gets_nothing_back_and_the_counter_neither(self, shard: ClockedShard) -> None:
        grant = GrantState(1, 0, shard.now_ms() + 1000, 5)
        consume = taken(shard.open(limit=2, grants=(grant,)), 6)
        shard.step_clock(1000)
        reply = shard.refund(consume, 6)
        assert (reply.accounts[0].used, reply.accounts[0].limit) == (0, 2)
        assert [each.change for each in shard.entries() if each.kind in {"expire", "refund"}] == [-4, -2]

    def test_a_capped_window_gets_its_units_back_while_it_runs(self, shard: ClockedShard) -> None:
        today = Period(PeriodKind.DAY, shard.now_ms() - 1000, shard.now_ms() + 1000)
        consume = taken(shard.open(limit=100, caps=(CapState(today, 5),)), 5)
        shard.refund(consume, 2)
        assert shard.account()["caps"] == f"{CapState(today, 5, 3)}"
        tomorrow = Period(PeriodKind.DAY, today.end_ms or 0, (today.end_ms or 0) + DAY_MS)
        shard.set_clock(today.end_ms or 0)
        assert shard.run(protocol.roll(SHARD, shard.key(), shard.window(), shard.words(), [CapState(tomorrow, 5)])) == (
            "rolled"
        )
        shard.consume(shard.step(1))
        shard.refund(consume, 3)
        assert (shard.account()["caps"], shard.used()) == (f"{CapState(tomorrow, 5, 1)}", 1)

    def test_after_a_reset_it_goes_to_the_sealed_period_and_not_to_the_new_counter(self, shard: ClockedShard) -> None:
        old = shard.window()
        consume = taken(shard.open(limit=10), 7)
        shard.roll(old)
        shard.consume(shard.step(2))
        assert (shard.refund(consume, 7).outcome, shard.used()) == (Outcome.ALLOWED, 2)
        refund = shard.entries()[-1]
        assert (refund.change, refund.used_after, refund.window.period) == (-7, None, old)
        assert shard.refund(consume, 7).outcome is Outcome.ALREADY_REFUNDED

    def test_a_period_long_over_is_the_ledgers_to_tell(self, shard: ClockedShard) -> None:
        old, words = shard.window(), shard.words()
        consume = taken(shard.open(limit=10), 7)
        shard.roll(old)
        shard.roll(shard.consume(shard.step(1))[0].accounts[0].period)
        assert shard.refund(consume, 7).outcome is Outcome.UNDRAINED
        assert shard.refund(consume, 7, sealed=str(words)).outcome is Outcome.ALLOWED
        assert (shard.entries()[-1].window, shard.used()) == (words, 0)

    def test_a_grant_that_was_used_up_and_put_away_comes_back(self, shard: ClockedShard) -> None:
        old = shard.window()
        consume = taken(shard.open(limit=2, grants=(GrantState(1, 0, None, 5),)), 7)
        shard.roll(old)
        assert "grants" not in shard.account()
        shard.refund(consume, 7)
        assert shard.account()["grants"] == "1 0 - 5 0 0"
        assert shard.entries()[-1].change == -7
