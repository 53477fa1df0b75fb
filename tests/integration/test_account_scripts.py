"""What provision and roll promise, on the real server and on fakeredis alike."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from quota import keys, protocol
from quota.entitlement import Entitlement
from quota.formats import Terms, Window
from quota.identifiers import MAX_AMOUNT
from quota.periods import Period, PeriodKind
from tests.integration.shard import SERVERS, SHARD, TERMS, WARN_AT_PCT, Shard, moves, outcomes, shard_on

NOTHING = Period(PeriodKind.LIFETIME, 0, None)


@pytest.fixture(params=SERVERS)
def shard(request: pytest.FixtureRequest) -> Iterator[Shard]:
    with shard_on(request.param, request) as shard:
        yield shard


def on_plan(plan: str | None, limit: int | None, kind: PeriodKind = PeriodKind.MONTH) -> Entitlement:
    return Entitlement(plan, limit, "hard", kind, None, WARN_AT_PCT)


def window_of(shard: Shard, metric: str = "m") -> Window:
    return Window.parsed(shard.account(metric)["window"])


def assert_statement(shard: Shard, metric: str = "m") -> None:
    """Each line follows from the one before in its period, the last is the counter, and its id the counter's entry."""
    used: dict[tuple[str, int], int] = {}
    entries = [each for each in shard.entries() if each.account.metric == metric]
    for each in entries:
        window = (each.window.period.kind.value, each.window.period.start_ms)
        assert each.used_after is not None
        assert used.get(window, 0) + each.change == each.used_after, each
        used[window] = each.used_after
    assert shard.entry(metric) == str(entries[-1].place)
    period = window_of(shard, metric).period
    assert used[period.kind.value, period.start_ms] == shard.used(metric)


class TestProvision:
    def test_a_missing_account_is_written_whole(self, shard: Shard) -> None:
        window = shard.window()
        shard.open(limit=10, used=7, entry="1-41")
        assert shard.account() == {
            "state": "7 1-41",
            "window": f"{window.start_ms} {window.end_ms} {TERMS}",
            "rule": f"1 1 7 {window.end_ms} - 10 hard counter",
            "corrected": "1 0",
        }
        assert (shard.entries(), shard.connection.ttl(shard.key())) == ([], -1)

    def test_numbers_arrive_exactly(self, shard: Shard) -> None:
        shard.open(limit=MAX_AMOUNT, used=MAX_AMOUNT - 1)
        assert shard.used() == MAX_AMOUNT - 1
        assert outcomes(shard.consume(shard.step(2), shard.step(1))) == ["denied", "allowed"]

    def test_many_gateways_that_race_here_set_and_never_add(self, shard: Shard) -> None:
        shard.open(used=5)
        shard.consume(shard.step(1))
        for _ in range(10):
            assert shard.provision(shard.opening(used=5)) == "provisioned"
        assert (shard.used(), shard.entry()) == (6, "1-0")

    def test_a_living_account_takes_the_new_terms_and_keeps_what_it_used(self, shard: Shard) -> None:
        shard.open(limit=10).consume(shard.step(4))
        raised = shard.opening(entitlement=on_plan("pro", 200), used=0, entry="-", catalog_version=2)
        assert shard.provision(raised) == "provisioned"
        assert (shard.used(), shard.entry(), window_of(shard).terms.plan) == (4, "1-0", "pro")
        assert shard.account()["rule"].split(" ")[1:6:4] == ["2", "200"]
        assert len(shard.entries()) == 1

    def test_a_living_account_keeps_the_units_that_are_held(self, shard: Shard) -> None:
        shard.open().hold(3)
        shard.provision(shard.opening(limit=20))
        assert shard.consume(shard.step(1))[0].accounts[0].held == 3

    @pytest.mark.parametrize(("epoch", "fence"), [(2, "0"), (1, "1")])
    def test_a_shard_that_moved_meanwhile_takes_nothing(self, shard: Shard, epoch: int, fence: str) -> None:
        before = shard.open("m2").everything()
        assert shard.provision(shard.opening(), epoch=epoch, fence=fence) == "moved"
        assert shard.everything() == before

    def test_a_shard_without_a_head_takes_nothing(self, shard: Shard) -> None:
        assert shard.provision(shard.opening()) == "moved"
        assert shard.everything() == {}

    def test_what_was_read_before_a_publish_is_turned_back_at_the_fence(self, shard: Shard) -> None:
        shard.open("m2").run(protocol.publish(SHARD, "someone else", 1))
        assert shard.provision(shard.opening()) == "moved"
        assert shard.provision(shard.opening(), fence="1") == "provisioned"

    def test_what_was_made_with_an_older_catalog_is_turned_back(self, shard: Shard) -> None:
        shard.open("m2", catalog_version=10)
        before = shard.everything()
        assert shard.provision(shard.opening(catalog_version=9)) == "moved"
        assert shard.everything() == before

    def test_a_newer_catalog_is_told_to_the_head_and_an_equal_one_is_taken(self, shard: Shard) -> None:
        shard.open("m2", catalog_version=9)
        for version in (10, 10):
            assert shard.provision(shard.opening(catalog_version=version)) == "provisioned"
            assert shard.connection.hget(keys.head(SHARD), keys.catalog_field("t")) == b"10"

    def test_an_account_of_an_older_epoch_is_written_anew_once_its_entries_are_drained(self, shard: Shard) -> None:
        shard.open().consume(shard.step(4))
        shard.hold(3)
        shard.run(protocol.begin_epoch(SHARD, 2, ""))
        before = shard.everything()
        assert shard.provision(shard.opening(used=4), epoch=2) == "undrained"
        assert shard.everything() == before
        shard.connection.xtrim(keys.journal(SHARD), maxlen=0, approximate=False)
        assert shard.provision(shard.opening(used=4, entry="1-0"), epoch=2) == "provisioned"
        assert (shard.used(), shard.entry(), "held" in shard.account()) == (4, "1-0", False)
        (reply,) = shard.consume(shard.step(1))
        assert (reply.epoch, reply.first_n, reply.accounts[0].used) == (2, 0, 5)

    def test_entries_of_its_own_epoch_do_not_keep_an_account_waiting(self, shard: Shard) -> None:
        shard.open("m2").consume(shard.step(1, metric="m2"))
        assert shard.provision(shard.opening()) == "provisioned"

    @pytest.mark.parametrize("change", ["start", "kind"])
    def test_a_window_that_is_cut_short_hands_its_units_on(self, shard: Shard, change: str) -> None:
        old = shard.window()
        shard.open(limit=None).consume(shard.step(MAX_AMOUNT - 1))
        new = shard.window(-3, 27) if change == "start" else replace(old, kind=PeriodKind.YEAR)
        granted = on_plan("pro", None, new.kind)
        assert shard.provision(shard.opening(entitlement=granted, period=new)) == "provisioned"
        used = MAX_AMOUNT - 1
        assert moves(shard.entries())[1:] == [("close", 0, -used, 0), ("open", 0, used, used)]
        close, opened = shard.entries()[1:]
        assert str(close.window) == f"{old.start_ms} {old.end_ms} {TERMS}"
        assert opened.window == Window(new, Terms.of(granted))
        assert {each.account.metric for each in (close, opened)} == {"m"}
        assert_statement(shard)

    def test_a_window_without_units_is_cut_short_without_a_word(self, shard: Shard) -> None:
        shard.open()
        shard.provision(shard.opening(period=shard.window(-3, 27)))
        assert (shard.entries(), window_of(shard).period) == ([], shard.window(-3, 27))

    def test_only_another_end_of_the_same_window_hands_nothing_on(self, shard: Shard) -> None:
        shard.open().consume(shard.step(4))
        shard.provision(shard.opening(period=shard.window(-10, 5)))
        assert (len(shard.entries()), shard.used()) == (1, 4)

    def test_a_missing_account_hands_on_what_the_ledger_counted_in_the_window_that_was_cut(self, shard: Shard) -> None:
        old, new = shard.window(), shard.window(-3, 27)
        shard.open("m2")
        cut = Window(old, Terms("free", PeriodKind.MONTH, None, ()))
        assert shard.provision(shard.opening(period=new, used=6, entry="1-40", cut=cut)) == "provisioned"
        assert moves(shard.entries()) == [("close", 0, -6, 0), ("open", 0, 6, 6)]
        assert [each.window.period for each in shard.entries()] == [old, new]
        assert (shard.used(), shard.entry()) == (6, "1-1")

    def test_a_lifetime_hands_on_to_a_month_and_back(self, shard: Shard) -> None:
        lifetime = on_plan("free", 100, PeriodKind.LIFETIME)
        shard.open(entitlement=lifetime, period=NOTHING).consume(shard.step(4))
        shard.provision(shard.opening(limit=100))
        shard.consume(shard.step(1))
        shard.provision(shard.opening(entitlement=lifetime, period=NOTHING))
        assert (shard.used(), window_of(shard).period) == (5, NOTHING)
        assert shard.entries()[-1].window.period == NOTHING
        assert_statement(shard)

    def test_a_window_that_is_over_keeps_its_units_and_the_next_starts_at_zero(self, shard: Shard) -> None:
        old = shard.window(-40, -10)
        shard.open(period=old, used=7, entry="1-40")
        assert (shard.used(), shard.entries()) == (7, [])
        assert shard.provision(shard.opening(used=7)) == "provisioned"
        assert moves(shard.entries()) == [("close", 0, 0, 7)]
        (close,) = shard.entries()
        assert close.window.period == old
        assert (shard.used(), window_of(shard).period, shard.entry()) == (0, shard.window(), "1-0")

    def test_a_window_that_is_over_is_not_closed_for_another_that_is_over(self, shard: Shard) -> None:
        """Whoever saw the period just before its end would have it closed twice, the second time with nothing in it."""
        shard.open("m2")
        old = shard.window(-40, -10)
        for _ in range(2):
            assert shard.provision(shard.opening(period=old, used=7, entry="1-40")) == "provisioned"
        assert (shard.entries(), shard.used(), window_of(shard).period) == ([], 7, old)

    def test_a_window_that_was_sealed_is_not_opened_again(self, shard: Shard) -> None:
        """The clock stepped back over a period's end, and a plan changed."""
        shard.open().consume(shard.step(4))
        assert shard.provision(shard.opening(limit=20, period=shard.window(-40, -10))) == "provisioned"
        assert (shard.kinds(), shard.used(), window_of(shard).period) == (["consume"], 4, shard.window())

    def test_a_sealed_window_is_not_opened_again_by_way_of_a_lifetime_either(self, shard: Shard) -> None:
        sealed = shard.window(-40, -10)
        shard.open(period=sealed, used=7, entry="1-40")
        assert shard.run(protocol.roll(SHARD, shard.key(), sealed, shard.words())) == "rolled"
        shard.consume(shard.step(2))
        shard.provision(shard.opening(entitlement=on_plan("free", 9, PeriodKind.LIFETIME), period=NOTHING))
        before = len(shard.entries())
        assert shard.provision(shard.opening(period=sealed)) == "provisioned"
        assert (len(shard.entries()), shard.used(), window_of(shard).period) == (before, 2, NOTHING)

    def test_units_that_were_used_are_not_forgotten_with_the_plan(self, shard: Shard) -> None:
        """A subscription is cancelled and bought again: the note in between must not take the units along."""
        shard.open(limit=10).consume(shard.step(4))
        nobody = on_plan(None, 0, PeriodKind.LIFETIME)
        shard.provision(shard.opening(entitlement=nobody, period=NOTHING, ttl_ms=60_000))
        shard.provision(shard.opening(limit=10))
        assert shard.used() == 4
        assert_statement(shard)

    def test_a_lost_plan_leaves_the_window_to_its_own_end_and_the_counter_in_place(self, shard: Shard) -> None:
        """Units in a window that never ends would count again in a month that was bought much later."""
        shard.open(limit=10).consume(shard.step(4))
        before = shard.account()["state"], window_of(shard)
        nobody = on_plan(None, 0, PeriodKind.LIFETIME)
        shard.provision(shard.opening(entitlement=nobody, period=NOTHING, ttl_ms=60_000, keeps_window=True))
        unplanned = replace(before[1], terms=replace(before[1].terms, plan=None))
        assert (shard.account()["state"], window_of(shard)) == (before[0], unplanned)
        assert shard.connection.pttl(shard.key()) == -1
        assert_statement(shard)

    def test_a_lost_plan_whose_window_is_over_is_closed_once_and_by_the_roll(self, shard: Shard) -> None:
        old, new = shard.window(-40, -10), shard.window()
        shard.open(period=old, used=5, entry="1-40")
        nobody = on_plan(None, 0, PeriodKind.LIFETIME)
        shard.provision(shard.opening(entitlement=nobody, period=NOTHING, ttl_ms=60_000, keeps_window=True))
        assert shard.entries() == []
        assert shard.run(protocol.roll(SHARD, shard.key(), old, Window(new, window_of(shard).terms))) == "rolled"
        assert moves(shard.entries()) == [("close", 0, 0, 5)]
        assert shard.used() == 0


class TestRoll:
    def roll(self, shard: Shard, seen: Period, to: Period) -> str:
        words = Window(to, Terms("free", PeriodKind.MONTH, None, WARN_AT_PCT))
        return str(shard.run(protocol.roll(SHARD, shard.key(), seen, words)))

    def test_a_period_that_has_ended_is_closed_and_the_next_opened_at_zero(self, shard: Shard) -> None:
        old, new = shard.window(-40, -10), shard.window()
        shard.open(period=old, used=7, entry="1-40")
        assert self.roll(shard, old, new) == "rolled"
        assert (shard.used(), window_of(shard).period) == (0, new)
        (close,) = shard.entries()
        assert moves([close]) == [("close", 0, 0, 7)]
        assert str(close.window) == f"{old.start_ms} {old.end_ms} {TERMS}"
        assert (shard.entry(), close.receipt_first_n, close.receipt_count) == ("1-0", 0, 1)
        assert outcomes(shard.consume(shard.step(10), shard.step(1))) == ["allowed", "denied"]

    def test_of_many_that_see_the_end_one_rolls(self, shard: Shard) -> None:
        old = shard.window(-40, -10)
        shard.open(period=old, used=7)
        assert [self.roll(shard, old, shard.window()) for _ in range(5)] == ["rolled", *["moved"] * 4]
        assert len(shard.entries()) == 1

    def test_a_roll_that_comes_late_does_not_reset_the_new_period(self, shard: Shard) -> None:
        old = shard.window(-40, -10)
        shard.open(period=old)
        self.roll(shard, old, shard.window())
        shard.consume(shard.step(3))
        before = shard.everything()
        assert self.roll(shard, old, shard.window(-5, 25)) == "moved"
        assert shard.everything() == before

    def test_a_period_that_the_servers_clock_has_not_ended_is_left_alone(self, shard: Shard) -> None:
        before = shard.open(used=7).everything()
        assert self.roll(shard, shard.window(), shard.window(20, 50)) == "not_over"
        assert shard.everything() == before

    def test_an_account_that_is_missing_or_of_an_older_epoch_is_left_alone(self, shard: Shard) -> None:
        old = shard.window(-40, -10)
        assert self.roll(shard, old, shard.window()) == "moved"
        assert shard.everything() == {}
        shard.open(period=old).run(protocol.begin_epoch(SHARD, 2, ""))
        before = shard.everything()
        assert self.roll(shard, old, shard.window()) == "moved"
        assert shard.everything() == before
