"""The drain on real stores: every entry reaches the ledger once, whatever breaks."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from ledger import shards
from quota import keys, protocol
from quota.formats import LIFETIME, CapState, GrantState, Window
from quota.journal import About, Journal, Place, encode_about
from quota.periods import PeriodKind, period_at
from quota.protocol import Charge
from tests.conftest import SHARDS, Database
from tests.integration.pipeline import Crashed, Pipeline, crash
from tests.integration.shard import Shard
from workers import drain as drain_module
from workers import reading_ahead

DEADLINE_S = 30.0
STUCK_AFTER_S = 10.0
"""A hundred times what the drains need here."""
COLUMNS = (
    "shard, epoch, n, occurred_at, tenant, subject, metric, kind, amount, change, used_after, plan, period_kind, "
    "period_start, period_end, receipt_first_n, receipt_count, request_id, idempotency_key, operation, reason, "
    "metadata, detail, parts, caps, attempt, route, actor, is_late"
)
LINE = "{} 1 1 - - - {{account}} {{window}}"


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        yield pipeline


def assert_balances_are_the_sums(pipeline: Pipeline) -> None:
    account = "tenant, subject, metric, period_kind, period_start"
    sums = f"SELECT {account}, sum(change)::bigint, max((epoch, n)) FROM entries GROUP BY {account} ORDER BY {account}"
    found = f"SELECT {account}, used, (epoch, n) FROM balances ORDER BY {account}"
    assert pipeline.rows(found) == pipeline.rows(sums)


class TestDrain:
    def test_every_column_of_an_entry_arrives(self, pipeline: Pipeline) -> None:
        shard, window, grant = pipeline.shard, pipeline.shard.window(), GrantState(7, -1, None, 4)
        today = period_at(PeriodKind.DAY, shard.now_ms())
        shard.open("m", limit=None).open("n", limit=3, grants=(grant,), caps=(CapState(today, 9),))
        about = About(
            request_id="r-7",
            attempt="a-1",
            idempotency_key='k "7"\\',
            route="consume",
            operation="create_reel",
            reason="because",
            actor="key-1",
            metadata={"note": "tab\t, line\n, \\N and ünïcode", "price": 1.5, "large": 2**53 - 1},
        )
        charges = (Charge(shard.key("m"), 2**53 - 1), Charge(shard.key("n"), 5))
        (reply,) = shard.consume(shard.step(1, charges=charges, about=encode_about(about)))
        assert pipeline.drained() == 3
        at, start, end = (
            datetime.fromtimestamp(ms / 1000, UTC) for ms in (reply.now_ms, window.start_ms, window.end_ms or 0)
        )
        common = ("free", "month", start, end, 1, 2)
        more = ("r-7", 'k "7"\\', "create_reel", "because", about.metadata)
        last, day = ("a-1", "consume", "key-1", False), f"day:{today.start_ms}"
        assert pipeline.rows(f"SELECT {COLUMNS} FROM entries WHERE kind = 'consume' ORDER BY n") == [
            (3, 1, 1, at, "t", "u", "m", "consume", *[2**53 - 1] * 3, *common, *more, None, None, None, *last),
            (3, 1, 2, at, "t", "u", "n", "consume", 5, 5, 5, *common, *more, None, "3,7:-1:-:2", day, *last),
        ]
        assert pipeline.rows("SELECT kind, detail, parts, caps, route FROM entries WHERE kind <> 'consume'") == [
            ("grant", "grant:7", None, None, None),
        ]
        assert pipeline.incidents() == []

    def test_what_went_over_a_soft_limit_is_in_the_ledger(self, pipeline: Pipeline) -> None:
        shard = pipeline.shard.open(limit=10, enforcement="soft")
        shard.consume(*(shard.step(amount) for amount in (10, 15, 1)))
        assert pipeline.drained() == 4
        told = [(10, 10, None), (15, 25, "over:15"), (1, 26, "over:16")]
        assert pipeline.rows("SELECT amount, used_after, detail FROM entries WHERE kind = 'consume' ORDER BY n") == told

    def test_drained_twice_is_there_once(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 30)
        assert [pipeline.drained(), pipeline.drained()] == [30, 0]
        assert pipeline.entries() == [(3, 1, n) for n in range(30)]
        assert (pipeline.balances(), pipeline.offset(), pipeline.waiting()) == ({("m", "month"): 30}, Place(1, 29), 0)
        pipeline.shard.consume(pipeline.shard.step(1))
        assert (pipeline.drained(), pipeline.balances(), pipeline.incidents()) == (1, {("m", "month"): 31}, [])

    def test_two_drains_at_once_write_each_entry_once(self, pipeline: Pipeline) -> None:
        numbers = range(SHARDS)
        for number in numbers:
            metric = f"m{number}"  # an account has one shard
            shard = Shard(pipeline.connection, number).open(metric, limit=None)
            for _ in range(5):
                shard.consume(*[shard.step(1, metric=metric)] * 100)
        together, moved, failures = threading.Barrier(3), [0, 0, 0], []

        def run(place: int) -> None:
            try:
                drain = pipeline.drain()
                together.wait(DEADLINE_S)
                end = time.monotonic() + STUCK_AFTER_S
                while sum(pipeline.waiting(number) for number in numbers) and time.monotonic() < end:
                    moved[place] += drain.run_once(wait_ms=10).entries
            except Exception as error:
                failures.append(error)

        drains = [threading.Thread(target=run, args=(place,)) for place in range(3)]
        for each in drains:
            each.start()
        for each in drains:
            each.join(DEADLINE_S)
        assert (failures, sum(moved)) == ([], SHARDS * 500)
        assert pipeline.entries() == [(shard, 1, n) for shard in numbers for n in range(500)]
        assert pipeline.incidents() == []
        assert_balances_are_the_sums(pipeline)

    def test_a_crash_between_commit_and_trim_neither_doubles_nor_keeps_entries(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 20)
        drain = pipeline.drain()
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "trim", crash)
            with pytest.raises(Crashed):
                drain.run_once()
        assert (len(pipeline.entries()), pipeline.offset(), pipeline.waiting()) == (20, Place(1, 19), 20)
        pipeline.shard.consume(pipeline.shard.step(1))
        assert pipeline.drained() == 1
        assert (len(pipeline.entries()), pipeline.waiting(), pipeline.balances()) == (21, 0, {("m", "month"): 21})

    def test_what_a_crash_left_in_the_journal_goes_away_without_new_entries(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 20)
        drain = pipeline.drain()
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "trim", crash)
            with pytest.raises(Crashed):
                drain.run_once()
        assert (pipeline.drained(), pipeline.waiting()) == (0, 0)

    def test_what_may_not_be_trimmed_keeps_nothing_that_follows_from_the_ledger(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Redis refuses all writes, and whatever it has may be lost with it. It goes on to be trimmed when it can."""
        monkeypatch.setattr(drain_module, "MAX_BATCH_ENTRIES", 5)
        monkeypatch.setattr(drain_module, "TIDY_EVERY_S", 0.0)
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 12)
        pipeline.put("consume {now} 1 1 1 1 1 - 1 - {account} {window}".replace("{account}", "nobody's"))
        pipeline.put("consume {now} 1 1 1 1 1 - 1 - {account} {window}")
        drain = pipeline.drain()
        pipeline.connection.config_set("min-replicas-to-write", 1)
        try:
            assert sum(drain.run_once(wait_ms=1).entries for _ in range(8)) == 13
            assert pipeline.waiting() == 14
        finally:
            pipeline.connection.config_set("min-replicas-to-write", 0)
        assert (drain.run_once().entries, pipeline.waiting(), pipeline.offset()) == (0, 0, Place(1, 13))
        assert [(kind, detail["entry"]) for _, kind, detail in pipeline.incidents()] == [("unreadable", "1-12")]

    def test_what_may_not_be_trimmed_and_cannot_be_booked_is_set_aside_once(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(drain_module, "TIDY_EVERY_S", 0.0)
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 3)
        pipeline.put("consume {now} 1 1 1 1 1 - 1 - {account} {window}", subject="nul\x00")
        pipeline.put("consume {now} 1 1 1 1 1 - 1 - {account} {window}")
        drain = pipeline.drain()
        pipeline.connection.config_set("min-replicas-to-write", 1)
        try:
            assert sum(drain.run_once(wait_ms=1).entries for _ in range(8)) == 4
        finally:
            pipeline.connection.config_set("min-replicas-to-write", 0)
        assert (drain.run_once().entries, pipeline.waiting(), pipeline.offset()) == (0, 0, Place(1, 4))
        assert [(kind, detail["entry"]) for _, kind, detail in pipeline.incidents()] == [("unreadable", "1-3")]

    @pytest.mark.parametrize("where", ["book", "advance"])
    def test_a_transaction_that_is_rolled_back_leaves_journal_and_offset(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 20)
        drain = pipeline.drain()
        with monkeypatch.context() as patched:
            patched.setattr(drain_module.entries if where == "book" else shards, where, crash)
            with pytest.raises(Crashed):
                drain.run_once()
        assert (pipeline.entries(), pipeline.offset(), pipeline.waiting()) == ([], Place(0, 0), 20)
        assert drain.run_once().entries == 20
        assert (pipeline.offset(), pipeline.waiting(), pipeline.incidents()) == (Place(1, 19), 0, [])

    def test_a_gap_is_an_incident_and_what_is_there_still_arrives(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 10)
        pipeline.connection.xdel(keys.journal(3), "1-4", "1-5")
        assert pipeline.drained() == 8
        gaps = [detail for shard, kind, detail in pipeline.incidents() if (shard, kind) == (3, "gap")]
        assert gaps == [{"after": "1-3", "found": "1-6"}]
        assert (pipeline.offset(), pipeline.waiting()) == (Place(1, 9), 0)

    def test_entries_that_are_missing_at_the_start_of_an_epoch_are_a_gap(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 3)
        pipeline.connection.xdel(keys.journal(3), "1-0")
        pipeline.drained()
        assert (3, "gap", {"after": "0-0", "found": "1-1"}) in pipeline.incidents()

    @pytest.mark.parametrize(
        ("line", "about"),
        [
            ("", b"{}"),
            ("consume", b"{}"),
            ("consume {now} 1 1 1 1 1 - - - {account} {window}", b"not json"),
            ("consume {now} 1 1 1 1 1 - - - {account}", b"{}"),
            ("consume {now} 1 1 1 1 1 - - - qg:nobody {window}", b"{}"),
            ("consume {now} x 1 1 1 1 - - - {account} {window}", b"{}"),
            ("consume {now} 1 1 1 1 1 - 1:0:-:x - {account} {window}", b"{}"),
            ("consume {now} 1 1 1 1 1 - - day {account} {window}", b"{}"),
            ("consume {now} 1 1 1 1 1 - - - {account} 0 1 free fortnight - 80", b"{}"),
            ("consume \udcff", b"{}"),
        ],
    )
    def test_an_entry_that_cannot_be_read_is_set_aside(self, pipeline: Pipeline, line: str, about: bytes) -> None:
        pipeline.shard.open(limit=None).consume(pipeline.shard.step(1))
        pipeline.put(line, about)
        pipeline.shard.consume(pipeline.shard.step(1))
        assert pipeline.drained() == 2
        ((shard, kind, detail),) = pipeline.incidents()
        assert (shard, kind, detail["entry"]) == (3, "unreadable", "1-1")
        assert "cannot be read" in detail["reason"]
        assert (pipeline.entries(), pipeline.waiting(), pipeline.offset()) == ([(3, 1, 0), (3, 1, 2)], 0, Place(1, 2))

    @pytest.mark.parametrize(
        ("line", "metadata"),
        [
            pytest.param(LINE.format("consume 4102444800000 1 1 2"), {}, id="the year 2100, which has no partition"),
            pytest.param(LINE.format("consume 0 1 1 2"), {}, id="1970, which has no partition"),
            pytest.param(LINE.format("consume 99999999999999999999 1 1 2"), {}, id="no instant at all"),
            pytest.param(LINE.format("consume {now} 1 1 -2"), {}, id="a balance below zero"),
            pytest.param(LINE.format("refund {now} 1 -1 -"), {}, id="a late entry that leaves a balance below zero"),
            pytest.param(LINE.format("consume {now} 1 1 99999999999999999999"), {}, id="more than a bigint"),
            pytest.param(LINE.format("consume {now} 1 1 1"), {"note": "\0"}, id="what Postgres cannot keep"),
            pytest.param(LINE.format("hold {now} 1 0 0"), {}, id="a hold without an expiry"),
        ],
    )
    def test_an_entry_that_the_ledger_cannot_take_is_set_aside_and_does_not_stop_the_others(
        self, pipeline: Pipeline, line: str, metadata: dict[str, str | int | float]
    ) -> None:
        pipeline.shard.open(limit=None).consume(pipeline.shard.step(1))
        pipeline.put(line, encode_about(About(metadata=metadata)))
        pipeline.shard.consume(pipeline.shard.step(1))
        assert pipeline.drained() == 2
        assert [(shard, detail["entry"]) for shard, _, detail in pipeline.incidents()] == [(3, "1-1")]
        assert (pipeline.waiting(), pipeline.balances()) == (0, {("m", "month"): 2})

    def test_two_drains_that_meet_such_an_entry_set_nothing_else_aside(self, pipeline: Pipeline) -> None:
        shard = pipeline.shard.open(limit=None)
        for _ in range(40):
            shard.consume(shard.step(1))
            pipeline.put(LINE.format("consume 0 1 1 2"))  # 1970 has no partition
        together, failures = threading.Barrier(3), []

        def run() -> None:
            try:
                drain = pipeline.drain()
                together.wait(DEADLINE_S)
                end = time.monotonic() + STUCK_AFTER_S
                while pipeline.waiting() and time.monotonic() < end:
                    drain.run_once(wait_ms=10)
            except Exception as error:
                failures.append(error)

        drains = [threading.Thread(target=run) for _ in range(3)]
        for each in drains:
            each.start()
        for each in drains:
            each.join(DEADLINE_S)
        assert (failures, pipeline.waiting()) == ([], 0)
        assert pipeline.entries() == [(3, 1, n) for n in range(0, 80, 2)]
        assert [detail["entry"] for _, _, detail in pipeline.incidents()] == [f"1-{n}" for n in range(1, 80, 2)]

    @pytest.mark.parametrize("turn", [1, 2, 3])
    def test_an_entry_that_another_drain_has_just_set_aside_is_not_looked_for_in_its_neighbour(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, turn: int
    ) -> None:
        """The other one comes in before this one takes the shard's lock for the first, second or third time."""
        pipeline.shard.open(limit=None)
        pipeline.put(LINE.format("consume 0 1 1 1"))  # 1970 has no partition
        pipeline.shard.consume(pipeline.shard.step(1))
        one, other = pipeline.drain(), pipeline.drain()
        lock, turns = shards.lock, []

        def lock_after_the_other(*arguments: Any) -> dict[int, Place]:
            turns.append(len(turns) + 1)
            if turns[-1] == turn:
                with monkeypatch.context() as patched:
                    patched.setattr(shards, "lock", lock)
                    other.run_once()
            return lock(*arguments)

        monkeypatch.setattr(drain_module, "MAX_SINGLE_ENTRIES", 1)  # the other one goes no further than that entry
        with monkeypatch.context() as patched:
            patched.setattr(shards, "lock", lock_after_the_other)
            one.run_once()
        pipeline.drained()
        assert [detail["entry"] for _, kind, detail in pipeline.incidents() if kind == "unreadable"] == ["1-0"]
        assert pipeline.entries() == [(3, 1, 1)]

    def test_wrong_arithmetic_is_an_incident_and_the_entry_is_kept(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 3)
        pipeline.tamper(by=4)
        pipeline.shard.consume(*[pipeline.shard.step(1)] * 3)
        assert pipeline.drained() == 6
        wrong = {"shard": 3, "epoch": 1, "n": 3, "used_before": 3, "change": 1, "used_after": 8}
        assert pipeline.incidents() == [(3, "arithmetic", wrong)]
        assert pipeline.balances() == {("m", "month"): 6}

    def test_arithmetic_is_checked_over_the_border_of_two_batches(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 3)
        pipeline.drained()
        pipeline.tamper(by=4)
        pipeline.shard.consume(pipeline.shard.step(1))
        pipeline.drained()
        assert [detail["used_before"] for _, kind, detail in pipeline.incidents() if kind == "arithmetic"] == [3]

    def test_a_journal_larger_than_a_batch_arrives_in_bounded_ones(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(drain_module, "MAX_BATCH_ENTRIES", 250)
        monkeypatch.setattr(reading_ahead, "READ_ENTRIES", 100)
        pipeline.shard.open(limit=None)
        for _ in range(10):
            pipeline.shard.consume(*[pipeline.shard.step(1)] * 101)
        drain = pipeline.drain()
        assert [drain.run_once().entries for _ in range(6)] == [250, 250, 250, 250, 10, 0]
        assert pipeline.entries() == [(3, 1, n) for n in range(1010)]
        assert pipeline.incidents() == []

    def test_a_full_batch_is_as_large_as_it_says(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None)
        for _ in range(42):
            pipeline.shard.consume(*[pipeline.shard.step(1)] * 500)
        drain = pipeline.drain()
        assert [drain.run_once().entries for _ in range(3)] == [20_000, 1_000, 0]
        assert pipeline.balances() == {("m", "month"): 21_000}

    def test_balances_are_the_sums_of_the_changes_through_every_kind_of_entry(self, pipeline: Pipeline) -> None:
        shard, old = pipeline.shard, pipeline.shard.window(-40, -10)
        shard.open("m").open("n", limit=None).open("old", period=old)
        shard.consume(shard.step(4), shard.step(9, metric="n"), shard.step(7), shard.step(6))
        pipeline.drained()
        shard.provision(shard.opening("n", limit=None, period=shard.window(-3, 27)))
        shard.run(protocol.roll(3, shard.key("old"), old, Window(shard.window(), LIFETIME.terms)))
        shard.consume(shard.step(1, metric="old"), shard.step(2, metric="n"))
        pipeline.drained()
        assert_balances_are_the_sums(pipeline)
        assert pipeline.incidents() == []
        assert sorted(used for (used,) in pipeline.rows("SELECT used FROM balances")) == [0, 0, 1, 10, 11]

    def test_a_new_epoch_follows_the_old_one_without_a_gap(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 3)
        pipeline.drained()
        pipeline.call(shards.take_epoch, 3, 2)
        pipeline.shard.run(protocol.begin_epoch(3, 2, ""))
        pipeline.shard.provision(pipeline.shard.opening(limit=None, used=3, entry="1-2"), epoch=2)
        pipeline.shard.consume(pipeline.shard.step(1))
        assert (pipeline.drained(), pipeline.offset(), pipeline.incidents()) == (1, Place(2, 0), [])
        assert pipeline.balances() == {("m", "month"): 4}

    def test_an_idle_drain_says_so_and_a_report_has_the_age_of_the_oldest(self, pipeline: Pipeline) -> None:
        assert pipeline.drain().run_once(wait_ms=1).entries == 0
        (reply,) = pipeline.shard.open().consume(pipeline.shard.step(1))
        drained = pipeline.drain().run_once()
        assert 0 <= drained.lag_ms <= pipeline.journal.now_ms() - reply.now_ms

    def test_a_hold_ends_when_it_is_told_to_stop(self, pipeline: Pipeline) -> None:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 5)
        seen: list[int] = []
        moved = pipeline.drain().run(DEADLINE_S, lambda: bool(seen), lambda drained: seen.append(drained.entries))
        assert (moved, seen) == (5, [5])
