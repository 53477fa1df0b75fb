"""Units set aside: hold, commit, release and expiry, on the real server and on fakeredis alike."""

from collections.abc import Iterator

import pytest

from quota import protocol
from quota.entitlement import Entitlement
from quota.formats import CapState, GrantState, Window, detail_of_charge
from quota.journal import Entry
from quota.periods import DAY_MS, Period, PeriodKind, period_at
from quota.protocol import Mode
from quota.replies import Outcome
from tests.integration.shard import SERVERS, SHARD, WARN_AT_PCT, ClockedShard, clocked_shard_on, moves


@pytest.fixture(params=SERVERS)
def shard(request: pytest.FixtureRequest) -> Iterator[ClockedShard]:
    with clocked_shard_on(request.param, request) as shard:
        yield shard


class TestHold:
    def test_what_is_held_is_there_for_nobody_else_and_is_not_used(self, shard: ClockedShard) -> None:
        place = shard.open(limit=10).hold(6)
        (denied,) = shard.consume(shard.step(5))
        state = denied.accounts[0]
        assert (denied.outcome, state.used, state.held) == (Outcome.DENIED, 0, 6)
        assert shard.consume(shard.step(4))[0].outcome is Outcome.ALLOWED
        (hold, *_) = shard.entries()
        assert (str(hold.place), *moves([hold])[0]) == (place, "hold", 6, 0, 0)

    def test_more_than_there_is_cannot_be_held(self, shard: ClockedShard) -> None:
        shard.open(limit=10)
        assert shard.do(Mode.HOLD, (11, "60000")).outcome is Outcome.DENIED
        assert (shard.kinds(), "held" in shard.account()) == (["denied"], False)

    def test_of_several_accounts_all_are_held_or_none(self, shard: ClockedShard) -> None:
        shard.open("m", limit=10).open("m2", limit=3)
        assert shard.do(Mode.HOLD, (2, "60000"), (4, "60000")).outcome is Outcome.DENIED
        assert [name for name in ("m", "m2") if "held" in shard.account(name)] == []
        reply = shard.do(Mode.HOLD, (2, "60000"), (3, "60000"))
        assert [state.held for state in reply.accounts] == [2, 3]

    def test_an_account_has_a_thousand_holds_and_then_it_is_crowded(self, shard: ClockedShard) -> None:
        shard.open(limit=None)
        one = shard.step(1)
        (each,) = one.charges
        hold = protocol.Step(
            SHARD, Mode.HOLD, one.catalog_field, 1, (protocol.Charge(each.account_key, 1, "60000"),), one.about
        )
        for _ in range(10):
            assert {reply.outcome for reply in shard.consume(*[hold] * 100)} == {Outcome.ALLOWED}
        before = shard.everything()
        assert shard.consume(hold)[0].outcome is Outcome.CROWDED
        assert shard.everything() == before
        assert shard.do(Mode.RELEASE, (None, "1-0")).outcome is Outcome.ALLOWED
        assert shard.consume(hold)[0].outcome is Outcome.ALLOWED

    def test_an_expired_hold_is_free_at_once_for_the_request_that_needs_it(self, shard: ClockedShard) -> None:
        place = shard.open(limit=10).hold(10, ttl_ms=1000)
        shard.step_clock(1000)
        (reply,) = shard.consume(shard.step(10))
        assert (reply.outcome, reply.accounts[0].used, reply.accounts[0].held) == (Outcome.ALLOWED, 10, 0)
        expired = shard.entries()[1]
        assert (*moves([expired])[0], expired.detail) == ("expire", 10, 0, 0, place)

    def test_a_check_sees_that_a_hold_has_expired_and_writes_nothing(self, shard: ClockedShard) -> None:
        shard.open(limit=10).hold(10, ttl_ms=1000)
        shard.step_clock(1000)
        before = shard.everything()
        assert shard.consume(shard.step(10, mode=Mode.CHECK))[0].outcome is Outcome.ALLOWED
        assert shard.everything() == before


class TestCommit:
    @pytest.mark.parametrize(("amount", "used"), [(2, 2), (6, 6), (None, 6), (9, 9), (0, 0)])
    def test_it_settles_less_all_or_more_and_gives_the_rest_back(
        self, shard: ClockedShard, amount: int | None, used: int
    ) -> None:
        place = shard.open(limit=10).hold(6)
        reply = shard.do(Mode.COMMIT, (amount, place))
        state = reply.accounts[0]
        assert (reply.outcome, state.used, state.held, state.amount) == (Outcome.ALLOWED, used, 0, used)
        commit = shard.entries()[1]
        assert (*moves([commit])[0], commit.detail) == ("commit", used, used, used, place)
        assert not any(name.startswith("h:") for name in shard.account())

    def test_more_that_does_not_fit_is_denied_and_the_hold_stays(self, shard: ClockedShard) -> None:
        place = shard.open(limit=10).hold(6)
        reply = shard.do(Mode.COMMIT, (11, place))
        assert (reply.outcome, reply.accounts[0].held, reply.accounts[0].used) == (Outcome.DENIED, 6, 0)
        assert shard.do(Mode.COMMIT, (None, place)).outcome is Outcome.ALLOWED

    def test_more_is_drawn_from_a_grant_when_the_plans_allowance_is_held(self, shard: ClockedShard) -> None:
        """Drawn after the hold was let go, it would have been the plan's a second time."""
        place = shard.open(limit=10, grants=(GrantState(1, 0, None, 5),)).hold(10)
        shard.do(Mode.COMMIT, (12, place))
        assert shard.account()["grants"] == "1 0 - 3 2 0"

    def test_it_is_refused_twice_and_after_a_release(self, shard: ClockedShard) -> None:
        shard.open(limit=10)
        for settle in (Mode.COMMIT, Mode.RELEASE):
            place = shard.hold(2)
            assert shard.do(settle, (None, place)).outcome is Outcome.ALLOWED
            before = shard.everything()
            assert shard.do(Mode.COMMIT, (None, place)).outcome is Outcome.NOT_HELD
            assert shard.do(Mode.RELEASE, (None, place)).outcome is Outcome.NOT_HELD
            assert shard.everything() == before

    def test_after_its_expiry_it_is_refused_and_nothing_is_charged(self, shard: ClockedShard) -> None:
        place = shard.open(limit=10).hold(6, ttl_ms=1000)
        shard.step_clock(1000)
        assert shard.do(Mode.COMMIT, (None, place)).outcome is Outcome.NOT_HELD
        assert (shard.used(), shard.kinds()) == (0, ["hold", "expire"])

    def test_a_hold_over_a_periods_end_settles_in_its_own_period(self, shard: ClockedShard) -> None:
        old = shard.window()
        shard.open(limit=10)
        place = shard.hold(6, ttl_ms=40 * DAY_MS)
        shard.roll(old)
        assert shard.consume(shard.step(10))[0].outcome is Outcome.ALLOWED
        reply = shard.do(Mode.COMMIT, (4, place))
        assert (reply.outcome, reply.accounts[0].used, reply.accounts[0].held) == (Outcome.ALLOWED, 10, 0)
        commit = shard.entries()[-1]
        assert (commit.kind, commit.change, commit.used_after, commit.window.period) == ("commit", 4, None, old)

    def test_more_than_was_held_does_not_fit_into_a_period_that_is_over(self, shard: ClockedShard) -> None:
        old = shard.window()
        shard.open(limit=10)
        place = shard.hold(2, ttl_ms=40 * DAY_MS)
        shard.roll(old)
        assert shard.do(Mode.COMMIT, (3, place)).outcome is Outcome.DENIED
        assert shard.do(Mode.COMMIT, (2, place)).outcome is Outcome.ALLOWED

    def test_an_unlimited_one_may_grow_in_a_period_that_is_over(self, shard: ClockedShard) -> None:
        old = shard.window()
        shard.open(limit=None)
        place = shard.hold(2, ttl_ms=40 * DAY_MS)
        shard.roll(old)
        assert shard.do(Mode.COMMIT, (30, place)).outcome is Outcome.ALLOWED
        assert (shard.used(), shard.entries()[-1].change) == (0, 30)


class TestRelease:
    def test_it_gives_the_hold_back_to_the_buckets_that_it_came_from(self, shard: ClockedShard) -> None:
        place = shard.open(limit=3, grants=(GrantState(1, 0, None, 5),)).hold(6)
        assert shard.account()["grants"] == "1 0 - 2 0 3"
        assert shard.do(Mode.RELEASE, (None, place)).accounts[0].held == 0
        assert shard.account()["grants"] == "1 0 - 5 0 0"
        assert moves(shard.entries())[-1] == ("release", 6, 0, 0)

    def test_an_idempotency_key_gives_the_first_answer_again(self, shard: ClockedShard) -> None:
        shard.open(limit=10)
        for mode, asked in ((Mode.HOLD, (6, "60000")), (Mode.COMMIT, (None, "1-0"))):
            key = f"qg:{{3}}:i:{mode}"
            first = shard.do(mode, asked, record_key=key, fingerprint="f")
            before = shard.everything()
            again = shard.do(mode, asked, record_key=key, fingerprint="f")
            assert (again.replayed, again.first_n, again.accounts) == (True, first.first_n, first.accounts)
            assert shard.do(mode, asked, record_key=key, fingerprint="g").outcome is Outcome.KEY_REUSED
            assert shard.everything() == before


def test_a_level_is_given_back_and_set_and_never_stands_below_zero(shard: ClockedShard) -> None:
    granted = Entitlement("free", 10, "hard", PeriodKind.LIFETIME, None, WARN_AT_PCT, "level")
    shard.open(entitlement=granted, period=Period(PeriodKind.LIFETIME, 0, None))
    shard.consume(shard.step(4))
    assert shard.do(Mode.GIVE, (5, "")).outcome is Outcome.BELOW_ZERO
    assert shard.do(Mode.GIVE, (1, "")).accounts[0].used == 3
    assert shard.do(Mode.SET, (12, "")).accounts[0].used == 12
    assert moves(shard.entries())[1:] == [("release", 1, -1, 3), ("set", 12, 9, 12), ("warned", 100, 0, 12)]


def test_what_cannot_be_counted_is_neither_set_nor_charged(shard: ClockedShard) -> None:
    shard.open(limit=None).hold(2)
    most = 2**53 - 1
    assert shard.do(Mode.SET, (most - 1, "")).outcome is Outcome.CROWDED
    assert shard.do(Mode.SET, (most - 2, "")).outcome is Outcome.ALLOWED
    assert shard.do(Mode.CHARGE, (1, detail_of_charge(shard.now_ms(), shard.words()))).outcome is Outcome.CROWDED
    assert shard.do(Mode.COMMIT, (None, "1-0")).accounts[0].used == most


class TestWhatWasLetThrough:
    """In an outage: charged later, in the windows of its instant."""

    def charge(self, shard: ClockedShard, at_ms: int, begins_in_days: int, ends_in_days: int) -> Entry:
        """One unit, whose window today's terms say to be that one; its entry."""
        detail = detail_of_charge(at_ms, shard.words(begins_in_days, ends_in_days))
        reply = shard.do(Mode.CHARGE, (1, detail))
        return next(each for each in shard.entries() if each.place.n == reply.first_n)

    def test_it_is_charged_above_the_limit_and_in_the_period_of_its_instant(self, shard: ClockedShard) -> None:
        shard.open(limit=10).consume(shard.step(8))
        old = Window(shard.window(-40, -10), shard.words().terms)
        now = shard.do(Mode.CHARGE, (5, detail_of_charge(shard.now_ms(), shard.words())))
        before = shard.do(Mode.CHARGE, (7, detail_of_charge(old.period.start_ms, old)))
        assert (now.outcome, before.outcome, shard.used()) == (Outcome.ALLOWED, Outcome.ALLOWED, 13)
        late = shard.entries()[-1]
        assert (late.change, late.used_after, late.window) == (7, None, old)

    def test_what_was_let_through_yesterday_does_not_spend_the_cap_of_today(self, shard: ClockedShard) -> None:
        day, week = (period_at(kind, shard.now_ms()) for kind in (PeriodKind.DAY, PeriodKind.WEEK))
        last_week = week.start_ms - 1
        shard.open(limit=100, caps=(CapState(day, 5), CapState(week, 5)))
        found = [self.charge(shard, at_ms, -10, 20).cap_windows for at_ms in (last_week, day.start_ms, shard.now_ms())]
        both = (("day", day.start_ms), ("week", week.start_ms))
        assert found == [(), both, both]
        assert (shard.used(), shard.account()["caps"]) == (3, f"{CapState(day, 5, 2)};{CapState(week, 5, 2)}")

    def test_it_is_booked_under_the_words_that_its_period_was_sealed_with(self, shard: ClockedShard) -> None:
        """Not under those that somebody works out from the terms of today."""
        old = shard.words(-40, -10)
        shard.open(period=old.period).roll(old.period)
        late = [
            self.charge(shard, at_ms, -35, -5).window for at_ms in (old.period.start_ms, shard.window().start_ms - 1)
        ]
        assert late == [old, old]
        assert self.charge(shard, old.period.start_ms - 1, -70, -40).window == shard.words(-70, -40)

    def test_it_counts_now_if_the_period_of_its_instant_was_cut_short(self, shard: ClockedShard) -> None:
        """The anchor moved, and what was used of the old period moved on: so does this."""
        sealed, cut, running = shard.window(-40, -10), shard.window(-10, 20), shard.window(-2, 28)
        shard.open(period=sealed).roll(sealed)
        shard.consume(shard.step(3))
        assert shard.provision(shard.opening(period=running)) == "provisioned"
        entry = self.charge(shard, cut.start_ms, -32, -2)
        assert (entry.used_after, entry.window.period, shard.used()) == (4, running, 4)
        assert self.charge(shard, cut.start_ms - 1, -32, -2).window.period == sealed

    def test_it_does_not_count_now_if_nobody_asked_in_the_period_of_its_instant(self, shard: ClockedShard) -> None:
        """The account was idle, so that what was sealed last is not what came before."""
        sealed, idle = shard.window(-70, -40), shard.words(-40, -10)
        shard.open(period=sealed)
        assert shard.run(protocol.roll(SHARD, shard.key(), sealed, shard.words())) == "rolled"
        entry = self.charge(shard, idle.period.start_ms, -40, -10)
        assert (entry.used_after, entry.window, shard.used()) == (None, idle, 0)

    def test_what_is_older_than_the_last_seal_does_not_count_now_whatever_ran_in_between(
        self, shard: ClockedShard
    ) -> None:
        """A lifetime began long before that seal, and still the units of then were sealed then."""
        sealed, older = shard.window(-40, -10), shard.words(-70, -40)
        shard.open(period=sealed).roll(sealed)
        lifetime = Entitlement("free", 10, "hard", PeriodKind.LIFETIME, None, WARN_AT_PCT)
        shard.provision(shard.opening(entitlement=lifetime, period=Period(PeriodKind.LIFETIME, 0, None)))
        shard.provision(shard.opening(period=shard.window(-2, 28)))
        assert self.charge(shard, sealed.start_ms - 1, -70, -40).window == older
        assert self.charge(shard, shard.window(-10).start_ms, -32, -2).used_after == 1
