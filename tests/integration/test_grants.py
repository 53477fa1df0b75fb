"""Grants, caps, warnings and denials, on the real server and on fakeredis alike."""

from collections.abc import Iterator, Sequence

import pytest

from quota.entitlement import Entitlement
from quota.formats import CapState, GrantState, detail_of_charge
from quota.identifiers import MAX_AMOUNT
from quota.periods import Period, PeriodKind
from quota.protocol import Mode, Step, consume, roll
from quota.replies import Outcome, Reply
from tests.integration.shard import SERVERS, WARN_AT_PCT, ClockedShard, clocked_shard_on, moves, outcomes


@pytest.fixture(params=SERVERS)
def shard(request: pytest.FixtureRequest) -> Iterator[ClockedShard]:
    with clocked_shard_on(request.param, request) as shard:
        yield shard


def with_grants(shard: ClockedShard, *grants: GrantState, limit: int | None = 2) -> ClockedShard:
    """Given one after the other to an account that lives."""
    shard.open(limit=limit)
    for count in range(1, len(grants) + 1):
        assert shard.provision(shard.opening(limit=limit, grants=grants[:count])) == "provisioned"
    return shard


class TestGrants:
    def test_they_are_drawn_after_the_allowance_in_their_order(self, shard: ClockedShard) -> None:
        late_ms, soon_ms = shard.now_ms() + 9000, shard.now_ms() + 5000
        grants = [GrantState(1, 1, None, 5), GrantState(2, 0, None, 5), GrantState(3, 0, late_ms, 5)]
        with_grants(shard, *grants, GrantState(4, 0, soon_ms, 5), GrantState(5, -1, None, 5))
        (reply,) = shard.consume(shard.step(18))
        assert (reply.outcome, reply.accounts[0].limit, reply.accounts[0].used) == (Outcome.ALLOWED, 27, 18)
        assert [(each.id, each.left) for each in reply.accounts[0].grants] == [(5, 0), (4, 0), (3, 0), (2, 4), (1, 5)]
        assert [(part.grant, part.units) for part in shard.entries()[-1].parts] == [
            *((None, 2), (5, 5), (4, 5), (3, 5), (2, 1)),
        ]

    def test_each_is_journalled_once(self, shard: ClockedShard) -> None:
        with_grants(shard, GrantState(1, 0, None, 5), GrantState(2, 0, None, 3))
        shard.provision(shard.opening(limit=2, grants=(GrantState(1, 0, None, 5),)))
        granted = [(each.kind, each.amount, each.detail) for each in shard.entries()]
        assert granted == [("grant", 5, "grant:1"), ("grant", 3, "grant:2")]

    def test_one_counts_for_nothing_from_the_instant_of_its_expiry_on(self, shard: ClockedShard) -> None:
        with_grants(shard, GrantState(1, 0, shard.now_ms() + 1000, 5)).consume(shard.step(3))
        shard.step_clock(999)
        assert shard.consume(shard.step(1))[0].accounts[0].limit == 7
        shard.step_clock(1)
        (reply,) = shard.consume(shard.step(1))
        state = reply.accounts[0]
        assert (reply.outcome, state.limit, state.used, state.grants) == (Outcome.DENIED, 2, 2, ())
        expired = next(each for each in shard.entries() if each.kind == "expire")
        assert (*moves([expired])[0], expired.detail) == ("expire", 3, -2, 2, "grant:1")

    def test_one_that_has_expired_stays_so_when_the_clock_steps_back(self, shard: ClockedShard) -> None:
        old = shard.window()
        (first,) = with_grants(shard, GrantState(1, 0, (old.end_ms or 0) + 1000, 5)).consume(shard.step(4))
        consume = next(each for each in shard.entries() if each.place.n == first.first_n)
        shard.roll(old)
        held = shard.hold(4)
        shard.step_clock(1000)
        assert shard.consume(shard.step(0))[0].accounts[0].held == 2
        shard.step_clock(-500)
        shard.refund(consume, 4)
        assert "grants" not in shard.account()
        reply = shard.do(Mode.RELEASE, (None, held))
        assert (reply.accounts[0].held, reply.accounts[0].used) == (0, 0)

    def test_the_next_period_keeps_what_is_left_of_one(self, shard: ClockedShard) -> None:
        with_grants(shard, GrantState(1, 0, None, 5)).consume(shard.step(4))
        shard.roll(shard.window())
        (reply,) = shard.consume(shard.step(5))
        assert (reply.outcome, reply.accounts[0].limit, reply.accounts[0].used) == (Outcome.ALLOWED, 5, 5)

    def test_they_widen_a_level_and_are_not_used_up(self, shard: ClockedShard) -> None:
        granted = Entitlement("free", 2, "hard", PeriodKind.LIFETIME, None, WARN_AT_PCT, "level")
        shard.open(
            entitlement=granted, period=Period(PeriodKind.LIFETIME, 0, None), grants=(GrantState(1, 0, None, 5),)
        )
        assert outcomes(shard.consume(shard.step(7), shard.step(1))) == ["allowed", "denied"]
        assert shard.account()["grants"] == "1 0 - 5 0 0"


class TestCaps:
    def opened(self, shard: ClockedShard, day: int, week: int, limit: int | None = 100) -> tuple[Period, Period]:
        today = Period(PeriodKind.DAY, shard.now_ms() - 1000, shard.now_ms() + 1000)
        this_week = Period(PeriodKind.WEEK, shard.now_ms() - 9000, shard.now_ms() + 9000)
        shard.open(limit=limit, caps=(CapState(today, day), CapState(this_week, week)))
        return today, this_week

    def test_several_windows_are_charged_all_or_none(self, shard: ClockedShard) -> None:
        today, this_week = self.opened(shard, 5, 8)
        (allowed, denied) = shard.consume(shard.step(5), shard.step(1))
        assert (allowed.outcome, denied.outcome, shard.used()) == (Outcome.ALLOWED, Outcome.DENIED, 5)
        assert shard.account()["caps"] == f"{CapState(today, 5, 5)};{CapState(this_week, 8, 5)}"
        assert (shard.entries()[-1].kind, shard.entries()[-1].detail) == ("denied", "day")

    def test_one_binds_an_account_without_a_limit_too(self, shard: ClockedShard) -> None:
        self.opened(shard, 5, 8, limit=None)
        assert outcomes(shard.consume(shard.step(6), shard.step(5))) == ["denied", "allowed"]

    def test_a_window_that_is_over_waits_for_the_next_one_and_the_others_go_on(self, shard: ClockedShard) -> None:
        today, this_week = self.opened(shard, 5, 8)
        shard.consume(shard.step(5))
        shard.step_clock(1000)
        assert outcomes(shard.consume(shard.step(3))) == ["unready"]
        tomorrow = Period(PeriodKind.DAY, today.end_ms or 0, (today.end_ms or 0) + 2000)
        caps = [CapState(tomorrow, 0), CapState(this_week, 0)]
        assert shard.run(roll(3, shard.key(), shard.window(), shard.words(), caps)) == "rolled"
        assert outcomes(shard.consume(shard.step(3), shard.step(1))) == ["allowed", "denied"]
        assert shard.account()["caps"] == f"{CapState(tomorrow, 5, 3)};{CapState(this_week, 8, 8)}"
        assert shard.run(roll(3, shard.key(), shard.window(), shard.words(), caps)) == "not_over"

    def test_one_that_the_clock_left_behind_is_not_forgotten(self, shard: ClockedShard) -> None:
        today, this_week = self.opened(shard, 5, 8)
        shard.consume(shard.step(5))
        yesterday = Period(PeriodKind.DAY, today.start_ms - 2000, today.start_ms)
        shard.provision(shard.opening(limit=100, caps=(CapState(yesterday, 6), CapState(this_week, 8))))
        assert shard.account()["caps"] == f"{CapState(today, 6, 5)};{CapState(this_week, 8, 5)}"


class TestWarnings:
    def test_each_level_is_told_once_a_period(self, shard: ClockedShard) -> None:
        shard.open(limit=10)
        for amount in (7, 1, 1, 1):
            shard.consume(shard.step(amount))
        warned = [each for each in shard.entries() if each.kind == "warned"]
        assert moves(warned) == [("warned", 80, 0, 8), ("warned", 100, 0, 10)]
        shard.roll(shard.window())
        shard.consume(shard.step(8))
        assert shard.kinds()[-2:] == ["consume", "warned"]

    def test_a_level_is_armed_again_when_the_limit_rises(self, shard: ClockedShard) -> None:
        shard.open(limit=10).consume(shard.step(9))
        shard.provision(shard.opening(limit=20))
        assert outcomes(shard.consume(shard.step(6), shard.step(1), shard.step(1))) == ["allowed"] * 3
        assert shard.kinds() == ["consume", "warned", "consume", "consume", "warned", "consume"]

    def test_one_that_a_lowered_limit_has_reached_is_told_with_the_next_charge(self, shard: ClockedShard) -> None:
        """The plain path once went past it: its ceiling was that of the level after."""
        shard.open(limit=100).consume(shard.step(50))
        shard.provision(shard.opening(limit=60))
        assert shard.kinds() == ["consume"]
        shard.consume(shard.step(0))
        assert moves(shard.entries())[-1] == ("warned", 80, 0, 50)

    @pytest.mark.parametrize("limit", [1, 7, 99, 101, MAX_AMOUNT, MAX_AMOUNT - 1])
    def test_the_threshold_is_exact_up_to_the_largest_number(self, shard: ClockedShard, limit: int) -> None:
        at = -(-limit * 80 // 100)
        shard.open(limit=limit, used=at - 1, entry="1-0")
        shard.consume(shard.step(0), shard.step(1))
        assert [each.amount for each in shard.entries() if each.kind == "warned"] == [100 if at == limit else 80]


def details(shard: ClockedShard, kind: str = "consume") -> list[str | None]:
    return [each.detail for each in shard.entries() if each.kind == kind]


class TestOverage:
    def test_each_consume_that_leaves_a_soft_limit_exceeded_says_by_how_much(self, shard: ClockedShard) -> None:
        """The plain path, which tells nothing, once had no ceiling for a soft limit that had given its warnings."""
        shard.open(limit=10, enforcement="soft")
        replies = shard.consume(*(shard.step(amount) for amount in (9, 1, 5, 2, 0)))
        assert details(shard) == [None, None, "over:5", "over:7", "over:7"]
        assert [reply.accounts[0].used for reply in replies] == [9, 10, 15, 17, 17]

    def test_in_one_request_each_account_tells_its_own(self, shard: ClockedShard) -> None:
        shard.open("m", limit=3, enforcement="soft").open("m2", limit=9).open("m3", limit=1, enforcement="soft")
        shard.consume(shard.step(4, 4, 4))
        assert details(shard) == ["over:1", None, "over:3"]

    def test_live_grants_are_within_the_limit_and_one_that_has_expired_is_not(self, shard: ClockedShard) -> None:
        shard.open(limit=2, enforcement="soft", grants=(GrantState(1, 0, shard.now_ms() + 1000, 5),))
        shard.consume(shard.step(4), shard.step(3), shard.step(2))
        assert details(shard) == [None, None, "over:2"]
        shard.step_clock(1000)
        (reply,) = shard.consume(shard.step(1))
        assert (reply.accounts[0].used, reply.accounts[0].limit, details(shard)[-1]) == (5, 2, "over:3")

    def test_a_commit_goes_on_naming_its_hold(self, shard: ClockedShard) -> None:
        shard.open(limit=2, enforcement="soft")
        place = shard.hold(5)
        shard.do(Mode.COMMIT, (None, place))
        assert (shard.used(), details(shard, "commit")) == (5, [place])

    def test_units_that_are_only_held_are_none(self, shard: ClockedShard) -> None:
        shard.open(limit=2, enforcement="soft").hold(5)
        shard.consume(shard.step(2))
        assert details(shard) == [None]

    def test_without_a_limit_there_is_none(self, shard: ClockedShard) -> None:
        shard.open(limit=None, enforcement="soft").consume(shard.step(MAX_AMOUNT))
        assert details(shard) == [None]

    def test_what_was_let_through_tells_it_of_the_running_period_and_not_of_one_that_is_over(
        self, shard: ClockedShard
    ) -> None:
        old = shard.words()
        shard.open(limit=3)
        shard.roll(old.period)
        now_ms = shard.now_ms()
        for amount, each in ((2, now_ms), (5, now_ms), (9, old.period.start_ms)):
            shard.do(Mode.CHARGE, (amount, detail_of_charge(each, old)))
        assert [(each.used_after, each.detail) for each in shard.entries() if each.kind == "consume"] == [
            (2, None),
            (7, "over:4"),
            (None, None),
        ]


class TestDenials:
    def test_ten_a_minute_are_told_and_the_others_as_one_sum(self, shard: ClockedShard) -> None:
        shard.open(limit=10).consume(*[shard.step(11)] * 25)
        assert shard.kinds() == ["denied"] * 10
        shard.step_clock(60_000)
        shard.consume(shard.step(12))
        told = [(each.amount, each.change, each.detail) for each in shard.entries()[10:]]
        assert told == [(11 * 15, 0, "sum:15"), (12, 0, "limit")]

    def test_a_period_that_ends_tells_what_was_not_told(self, shard: ClockedShard) -> None:
        shard.open(limit=10).consume(*[shard.step(11)] * 12)
        shard.roll(shard.window())
        assert [(each.kind, each.detail) for each in shard.entries()[10:]] == [("denied", "sum:2"), ("close", None)]

    @pytest.mark.parametrize("grants", [(), (GrantState(1, 0, None, 5),)], ids=["plain", "by the rules"])
    def test_the_sum_of_those_that_are_not_told_stops_at_the_largest_number(
        self, shard: ClockedShard, grants: tuple[GrantState, ...]
    ) -> None:
        shard.open(limit=10, grants=grants).consume(*[shard.step(16)] * 10, *[shard.step(MAX_AMOUNT)] * 3)
        assert shard.account()["denials"].split(" ")[1:] == ["10", "3", "9007199254740991"]
        shard.step_clock(60_000)
        shard.consume(shard.step(16))
        told = [(each.amount, each.detail) for each in shard.entries()[-2:]]
        assert told == [(MAX_AMOUNT, "sum:3"), (16, "limit")]

    def test_a_soft_limit_that_took_the_place_of_a_hard_one_denies_nothing(self, shard: ClockedShard) -> None:
        shard.open(limit=10).consume(*[shard.step(11)] * 12)
        shard.provision(shard.opening(limit=10, enforcement="soft"))
        check = shard.step(11, mode=Mode.CHECK)
        assert outcomes(shard.consume(check, shard.step(11), check, shard.step(11))) == ["allowed"] * 4
        assert shard.used() == 22

    def test_they_move_no_counter(self, shard: ClockedShard) -> None:
        shard.open(limit=10).consume(shard.step(4))
        shard.consume(*[shard.step(7)] * 30)
        assert (shard.used(), {each.used_after for each in shard.entries()}) == (4, {4})


class TestOneCall:
    def test_whatever_shares_an_account_with_a_request_that_waits_waits_behind_it(self, shard: ClockedShard) -> None:
        shard.open("m", limit=100).open("n", limit=100)
        replies = shard.consume(shard.step(1), shard.step(2, 3), shard.step(4), shard.step(5, metric="n"))
        assert outcomes(replies) == ["allowed", "unready", "unready", "allowed"]
        assert (shard.used("m"), shard.used("n")) == (1, 5)

    def test_requests_behind_denials_get_what_each_would_get_alone(self, shard: ClockedShard) -> None:
        """A denial is not remembered under its key, and leaves those behind it the keys that are theirs."""

        def replies(*calls: Sequence[Step]) -> list[Reply]:
            now_ms = shard.now_ms()
            shard.connection.flushall()
            shard.set_clock(now_ms)
            shard.open(limit=10).consume(*denied)
            shard.provision(shard.opening(limit=20))
            return [reply for steps in calls for reply in shard.consume(*steps)]

        denied = [shard.step(11, key=f"k{n}") for n in range(11)]
        again = [shard.step(21, key=f"again-{n}") for n in range(11)]
        steps = [
            *again,
            shard.step(3, key="fits"),
            denied[10],
            shard.step(6, key="again-10"),
            shard.step(3, key="fits"),
        ]
        together, kept = replies(steps), shard.everything()
        assert outcomes(together) == ["denied"] * 11 + ["allowed"] * 4
        assert [reply.accounts[0].used for reply in together[11:]] == [3, 14, 20, 3]
        assert [reply.replayed for reply in together[11:]] == [False, False, False, True]
        assert (replies(*([step] for step in steps)), shard.everything()) == (together, kept)

    def test_past_its_latest_instant_nothing_is_charged(self, shard: ClockedShard) -> None:
        before = shard.open().everything()
        (text,) = shard.run(consume([shard.step(1)], 1000, shard.now_ms() - 1))
        assert text.decode() == f"late {shard.now_ms()}"
        assert shard.everything() == before
        (text,) = shard.run(consume([shard.step(1)], 1000, shard.now_ms()))
        assert text.startswith(b"allowed")
