"""Balances as they stood, and periods that are sealed: on real stores, as the scripts journal them."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ledger import balances_at, reports, sealing
from ledger.instants import from_timestamp
from ledger.reports import Wanted
from ledger.sealed_reports import SealPlace, place_of_seal, sealed_periods_after
from ledger.store import ALL_TENANTS, transaction
from quota import keys
from quota.formats import Window
from quota.periods import DAY_MS, Period
from quota.protocol import Mode
from tests.conftest import Database
from tests.integration.one_account import do, roll
from tests.integration.pipeline import Pipeline

HOLD_MS = "60000"


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        # Some days ago, so that there is time ahead in which the partitions are still there.
        pipeline.clocked.set_clock(pipeline.shard.now_ms() - 5 * DAY_MS)
        yield pipeline


def stood(pipeline: Pipeline, at_ms: int, tenant: str = "t", subject: str = "u") -> dict[str, tuple[int, int, int]]:
    """Metric -> used, held, and the start of its period."""
    rows = pipeline.call(reports.reading, balances_at.at_instant, tenant, subject, at_ms)
    return {row.metric: (int(row.used), int(row.held), from_timestamp(row.period_start)) for row in rows}


def tick(pipeline: Pipeline, ms: int = 10) -> int:
    return pipeline.clocked.set_clock(pipeline.clocked.now_ms() + ms)


def now_in_redis(pipeline: Pipeline) -> tuple[int, int, int]:
    account = pipeline.clocked.account()
    used = int(account["state"].split(" ")[0])
    held = int(account["held"].split(" ")[0]) if "held" in account else 0
    return used, held, Window.parsed(account["window"]).period.start_ms


class TestBalancesAtAnInstant:
    @pytest.mark.parametrize("seed", range(4))
    def test_they_are_what_the_counters_said_then(self, pipeline: Pipeline, seed: int) -> None:
        dice = random.Random(seed)
        pipeline.clocked.open("m", None)
        said: list[tuple[int, tuple[int, int, int]]] = []
        holds: list[int] = []
        for _ in range(40):
            tick(pipeline)
            what = dice.choice(["consume", "consume", "hold", "commit", "release", "refund", "denied"])
            if what == "hold":
                holds.append(do(pipeline, Mode.HOLD, dice.randint(1, 5), HOLD_MS))
            elif what in {"commit", "release"} and holds:
                mode = Mode.COMMIT if what == "commit" else Mode.RELEASE
                do(pipeline, mode, None, f"1-{holds.pop(dice.randrange(len(holds)))}")
            elif what == "refund":
                n = do(pipeline, Mode.CONSUME, 4)
                do(pipeline, Mode.REFUND, 3, f"1-{n} 4 0 1 - - ", refunds_key=keys.refunds(3, 1, n))
            else:
                do(pipeline, Mode.CONSUME, dice.randint(1, 9))
            said.append((pipeline.clocked.now_ms(), now_in_redis(pipeline)))
        before_ms = said[0][0] - 5
        pipeline.drained()
        assert [(at_ms, stood(pipeline, at_ms)["m"]) for at_ms, _ in said] == said
        assert [stood(pipeline, at_ms + 5)["m"] for at_ms, _ in said] == [each for _, each in said]
        assert stood(pipeline, before_ms) == {}

    def test_of_a_period_that_is_over_they_stay_and_what_was_booked_late_is_not_in_them(
        self, pipeline: Pipeline
    ) -> None:
        pipeline.clocked.open("m", 10, period=_ends_in(pipeline, 1))
        n = do(pipeline, Mode.CONSUME, 7)
        in_it_ms = pipeline.clocked.now_ms()
        sealed = roll(pipeline)
        after_ms = tick(pipeline)
        pipeline.drained()
        assert stood(pipeline, after_ms) == {}
        detail = f"1-{n} 7 0 1 - - {sealed}"
        do(pipeline, Mode.CONSUME, 1)
        do(pipeline, Mode.REFUND, 2, detail, refunds_key=keys.refunds(3, 1, n))
        then_ms = pipeline.clocked.now_ms()
        pipeline.drained()
        assert stood(pipeline, in_it_ms) == {"m": (7, 0, sealed.period.start_ms)}
        assert stood(pipeline, then_ms)["m"] == now_in_redis(pipeline)
        assert stood(pipeline, then_ms)["m"][0] == 1

    def test_units_that_a_plan_change_handed_on_are_told_once(self, pipeline: Pipeline) -> None:
        first = _ends_in(pipeline, 2)
        pipeline.clocked.open("m", 100, period=first)
        do(pipeline, Mode.CONSUME, 30)
        before_ms = pipeline.clocked.now_ms()
        now_ms = tick(pipeline)
        other = Period(first.kind, now_ms - DAY_MS // 2, now_ms + DAY_MS)
        assert pipeline.clocked.provision(pipeline.clocked.opening("m", 50, period=other)) == "provisioned"
        tick(pipeline)
        do(pipeline, Mode.CONSUME, 5)
        after_ms = pipeline.clocked.now_ms()
        pipeline.drained()
        assert stood(pipeline, before_ms) == {"m": (30, 0, first.start_ms)}
        assert stood(pipeline, after_ms) == {"m": (35, 0, other.start_ms)}

    def test_a_hold_counts_until_its_time_is_over_though_nobody_settled_it(self, pipeline: Pipeline) -> None:
        pipeline.clocked.open("m", 10)
        do(pipeline, Mode.HOLD, 4, HOLD_MS)
        held_ms = pipeline.clocked.now_ms()
        pipeline.drained()
        expires_ms = held_ms + int(HOLD_MS)
        assert [stood(pipeline, at_ms)["m"][1] for at_ms in (held_ms, expires_ms - 1, expires_ms)] == [4, 4, 0]

    def test_another_tenants_are_not_told(self, pipeline: Pipeline) -> None:
        pipeline.clocked.open("m", 10)
        do(pipeline, Mode.CONSUME, 4)
        pipeline.drained()
        now_ms = pipeline.clocked.now_ms()
        assert stood(pipeline, now_ms, "x") == stood(pipeline, now_ms, "t", "v") == {}


def _ends_in(pipeline: Pipeline, days: int) -> Period:
    period = pipeline.clocked.window()
    return Period(period.kind, period.start_ms, pipeline.clocked.now_ms() + days * DAY_MS)


def seal(pipeline: Pipeline) -> None:
    """Seals whatever has been closed."""
    now_ms = pipeline.clocked.now_ms()
    with transaction(pipeline.engine, ALL_TENANTS) as connection:
        due = sealing.due_after(connection, sealing.FIRST, now_ms, 100)
        sealing.seal(connection, due, now_ms)


class TestSealedPeriods:
    def told(self, pipeline: Pipeline, **wanted: Any) -> list[tuple[str, int, int, int, int]]:
        """Metric, start, the closing balance, and how many entries were booked later with which change."""
        piece = pipeline.call(reports.reading, sealed_periods_after, Wanted("t", **wanted), None, 100)
        for each in piece.rows:
            assert len(each.adjustments) == each.row.late_entries
            assert sum(late.change for late in each.adjustments) == each.row.late_change
        return [
            (row.metric, from_timestamp(row.period_start), row.used, row.late_entries, int(row.late_change))
            for row in (each.row for each in piece.rows)
        ]

    def test_one_is_told_with_its_closing_balance_once_it_is_sealed(self, pipeline: Pipeline) -> None:
        pipeline.clocked.open("m", 10, period=_ends_in(pipeline, 1))
        do(pipeline, Mode.CONSUME, 7)
        pipeline.drained()
        assert self.told(pipeline) == []
        sealed = roll(pipeline)
        do(pipeline, Mode.CONSUME, 1)
        pipeline.drained()
        assert self.told(pipeline) == []
        seal(pipeline)
        assert self.told(pipeline) == [("m", sealed.period.start_ms, 7, 0, 0)]

    def test_what_was_booked_late_adjusts_it_and_the_closing_balance_stays(self, pipeline: Pipeline) -> None:
        pipeline.clocked.open("m", 10, period=_ends_in(pipeline, 1))
        n = do(pipeline, Mode.CONSUME, 7)
        sealed = roll(pipeline)
        pipeline.drained()
        do(pipeline, Mode.REFUND, 2, f"1-{n} 7 0 1 - - {sealed}", refunds_key=keys.refunds(3, 1, n))
        do(pipeline, Mode.CHARGE, 6, f"{(sealed.period.end_ms or 0) - 1} {sealed}")
        do(pipeline, Mode.CONSUME, 3)
        pipeline.drained()
        seal(pipeline)
        assert self.told(pipeline) == [("m", sealed.period.start_ms, 7, 2, 6 - 2)]
        assert pipeline.rows("SELECT used FROM balances ORDER BY period_start") == [(7 + 6 - 2,), (3,)]

    def test_a_range_is_that_of_their_beginnings_and_a_metric_is_picked_out(self, pipeline: Pipeline) -> None:
        for metric in ("m", "m2"):
            pipeline.clocked.open(metric, 10, period=_ends_in(pipeline, 1))
        do(pipeline, Mode.CONSUME, 7)
        pipeline.clocked.consume(pipeline.clocked.step(4, metric="m2"))
        sealed = roll(pipeline)
        start_ms = sealed.period.start_ms
        pipeline.drained()
        seal(pipeline)
        assert self.told(pipeline, from_ms=start_ms, to_ms=start_ms + 1) == [("m", start_ms, 7, 0, 0)]
        assert self.told(pipeline, from_ms=start_ms + 1) == self.told(pipeline, to_ms=start_ms) == []
        assert self.told(pipeline, metric="m") != [] == self.told(pipeline, metric="m2")

    def test_one_that_was_sealed_again_after_a_loss_is_told_once_as_it_was_sealed_last(
        self, pipeline: Pipeline
    ) -> None:
        pipeline.clocked.open("m", 10, period=_ends_in(pipeline, 1))
        do(pipeline, Mode.CONSUME, 7)
        sealed = roll(pipeline)
        words = f"- - - - {{account}} {sealed}"
        for kind, amount, used in (("consume", 1, 8), ("close", 0, 8)):
            text = f"{kind} {pipeline.clocked.now_ms()} {amount} {amount} {used} 1 1 {words}"
            pipeline.put(text.replace("- - - -", "- - -"), subject="u")
        pipeline.drained()
        seal(pipeline)
        assert self.told(pipeline) == [("m", sealed.period.start_ms, 8, 0, 0)]

    def test_they_are_walked_without_gap_or_repetition(self, pipeline: Pipeline) -> None:
        for metric in ("m3", "m1", "m2"):
            pipeline.clocked.open(metric, 10, period=_ends_in(pipeline, 1))
            pipeline.put(_close(pipeline, used=3), metric=metric)
            pipeline.put(_close(pipeline, used=4, days=1), metric=metric)
        pipeline.drained()
        seal(pipeline)
        walked: list[SealPlace] = []
        after = None
        while len(walked) < 10:
            piece = pipeline.call(reports.reading, sealed_periods_after, Wanted("t"), after, 2)
            walked += map(place_of_seal, piece.rows)
            after = piece.after
            if after is None:
                break
        assert walked == sorted(walked)
        assert [place.metric for place in walked] == ["m1", "m1", "m2", "m2", "m3", "m3"]


def _close(pipeline: Pipeline, *, used: int, days: int = 0) -> str:
    now_ms = pipeline.clocked.now_ms()
    window = f"{now_ms - (9 - days) * DAY_MS} {now_ms - (8 - days) * DAY_MS} free day - -"
    return f"close {now_ms} 0 0 {used} 1 1 - - - {{account}} {window}"
