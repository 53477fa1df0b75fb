"""What the ledger reports, on a real PostgreSQL: lists that are walked while entries arrive, sums, and scopes."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, Engine, text

from ledger import entries as writing
from ledger import reports, staging
from ledger.instants import from_timestamp
from ledger.reports import HOUR_MS, EntryPlace, Piece, Wanted
from ledger.store import ALL_TENANTS, connect, transaction
from quota.errors import LedgerUnavailable
from quota.formats import LIFETIME
from quota.journal import NO_ABOUT, Entry, Place
from quota.keys import AccountName
from quota.periods import DAY_MS, PeriodKind, period_at
from tests.conftest import Database
from tests.integration.test_ledger import NOW_MS

T = TypeVar("T")
NOON_MS = NOW_MS // DAY_MS * DAY_MS - DAY_MS // 2
"""Of yesterday."""
MANY = 30_000


class Ledger:
    """A ledger that entries are written to in any order."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def write(self, *batch: Entry) -> None:
        with transaction(self.engine, ALL_TENANTS) as connection:
            staging.stage(connection, batch)
            assert writing.book(connection, batch, 60) == len(batch)

    def read(self, function: Callable[..., T], /, *args: Any, scope: str = "t") -> T:
        with transaction(self.engine, scope) as connection:
            return reports.reading(connection, function, *args)

    def walk(self, wanted: Wanted, most: int, between: Callable[[], None] = lambda: None) -> list[Any]:
        """All rows of a list, piece by piece."""
        rows: list[Any] = []
        after: EntryPlace | None = None
        while True:
            piece: Piece[EntryPlace] = self.read(reports.entries_after, wanted, after, most)
            rows += piece.rows
            after = piece.after
            if after is None:
                return rows
            between()


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    engine = connect(database.application_url, pool_size=2)
    yield Ledger(engine)
    engine.dispose()


def entry(n: int, at_ms: int = NOON_MS, *, change: int = 1, used: int = 1, **changes: Any) -> Entry:
    account = AccountName(changes.pop("tenant", "t"), changes.pop("subject", "u"), changes.pop("metric", "m"))
    place = Place(changes.pop("epoch", 1), n)
    made = Entry(0, place, at_ms, "consume", abs(change), change, used, n, 1, None, (), (), account, LIFETIME, NO_ABOUT)
    return replace(made, **changes)


def places(rows: Sequence[Any]) -> list[EntryPlace]:
    return [reports.place_of_entry(row) for row in rows]


def placed(*batch: Entry) -> list[EntryPlace]:
    return [EntryPlace(each.occurred_at_ms, each.shard, each.place.epoch, each.place.n) for each in batch]


def scattered(count: int, **changes: Any) -> list[Entry]:
    """Entries of eight shards and subjects, some three of each instant, as they were journalled."""
    dice = random.Random(count)
    ns = [0] * 8
    found = []
    for instant_ms in sorted(NOON_MS + dice.randrange(count // 3) * 1000 for _ in range(count)):
        shard = dice.randrange(8)
        found.append(entry(ns[shard], instant_ms, shard=shard, subject=f"u{shard}", **changes))
        ns[shard] += 1
    return found


class TestEntries:
    @pytest.mark.parametrize("most", [1, 7, 200])
    def test_they_come_in_the_order_of_their_instants_each_once(self, ledger: Ledger, most: int) -> None:
        batch = scattered(60)
        for each in random.Random(1).sample(batch, len(batch)):
            ledger.write(each)
        assert places(ledger.walk(Wanted("t"), most)) == sorted(placed(*batch))

    def test_what_was_there_at_the_first_piece_comes_once_whatever_arrives_meanwhile(self, ledger: Ledger) -> None:
        there, late = (scattered(count) for count in (80, 50))
        late = [replace(each, place=Place(2, each.place.n)) for each in late]
        ledger.write(*there)
        waiting = random.Random(2).sample(late, len(late))  # several before the place that was reached, several after

        def arrive() -> None:
            for each in waiting[:5]:
                ledger.write(each)
            del waiting[:5]

        found = places(ledger.walk(Wanted("t"), 7, arrive))
        assert len(waiting) == 0
        assert len(found) == len(set(found))
        assert set(placed(*there)) <= set(found) <= set(placed(*there, *late))
        assert len(found) > len(there)
        assert found == sorted(found)
        assert places(ledger.walk(Wanted("t"), 7)) == sorted(placed(*there, *late))

    def test_a_subjects_statement_is_in_the_order_of_its_journal_whatever_the_metric(self, ledger: Ledger) -> None:
        batch = [entry(n, NOON_MS - n, metric=f"m{n % 3}", shard=4) for n in range(40)]  # a clock that steps back
        batch += [entry(n, NOON_MS + n, metric="m1", shard=4, epoch=2) for n in range(3)]
        ledger.write(*batch, *scattered(10))
        assert places(ledger.walk(Wanted("t", "u"), 7)) == placed(*batch)
        of_metric = [each for each in batch if each.account.metric == "m1"]
        assert places(ledger.walk(Wanted("t", "u", "m1"), 2)) == placed(*of_metric)

    def test_two_entries_of_one_place_from_a_fork_are_both_told(self, ledger: Ledger) -> None:
        fork = [entry(0, NOON_MS), entry(1, NOON_MS + 1), entry(1, NOON_MS + 9)]
        ledger.write(*fork)
        for wanted in (Wanted("t"), Wanted("t", "u")):
            assert places(ledger.walk(wanted, 1)) == placed(*fork)

    def test_each_filter_leaves_out_what_it_says(self, ledger: Ledger) -> None:
        hour = [entry(n, NOON_MS + n * HOUR_MS, used=n + 1) for n in range(4)]
        other = [entry(9, subject="v"), entry(10, metric="m2"), entry(11, kind="refund", change=-1)]
        ledger.write(*hour, *other)

        def ns(**filters: Any) -> list[int]:
            return sorted(row.n for row in ledger.walk(Wanted("t", **filters), 100))

        assert ns(from_ms=NOON_MS + HOUR_MS, to_ms=NOON_MS + 3 * HOUR_MS) == [1, 2]
        assert ns(subject="v") == [9]
        assert ns(metric="m2") == ns(subject="u", metric="m2") == [10]
        assert ns(kind="refund") == ns(subject="u", kind="refund", metric="m") == [11]
        assert ns(subject="nobody") == ns(kind="gift") == []

    def test_of_a_rare_kind_a_piece_looks_at_a_bounded_stretch_and_the_list_goes_on(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reports, "LOOK_ROWS", 10)
        rare = [entry(n, NOON_MS + n, kind="refund", change=0) for n in (0, 25, 26, 59)]
        common = [entry(n, NOON_MS + n) for n in range(60) if n not in {0, 25, 26, 59}]
        ledger.write(*rare, *common)
        for wanted in (Wanted("t", kind="refund"), Wanted("t", "u", kind="refund"), Wanted("t", metric="m2")):
            first = ledger.read(reports.entries_after, wanted, None, 5)
            assert first.after is not None and first.after.n == 9
        assert [row.n for row in ledger.walk(Wanted("t", kind="refund"), 2)] == [0, 25, 26, 59]
        assert [row.n for row in ledger.walk(Wanted("t", "u", kind="refund"), 2)] == [0, 25, 26, 59]

    def test_a_page_in_the_middle_of_many_reads_about_what_it_shows(self, ledger: Ledger, database: Database) -> None:
        fill(database)
        middle = EntryPlace(NOON_MS + MANY // 2, 0, 1, MANY // 2)
        for wanted in (Wanted("t"), Wanted("t", "u"), Wanted("t", "u", "m1"), Wanted("t", kind="consume")):
            assert rows_read(ledger, reports.entries_after, wanted, middle, 50) <= 50 * 5
        assert rows_read(ledger, reports.entries_after, Wanted("t", kind="gift"), middle, 50) <= reports.LOOK_ROWS + 1

    def test_nothing_is_written_in_a_transaction_that_reads(self, ledger: Ledger) -> None:
        def write(connection: Connection) -> None:
            connection.execute(text("INSERT INTO tenants (tenant) VALUES ('t')"))

        with pytest.raises(LedgerUnavailable) as refused:
            ledger.read(write)
        assert "in a read-only transaction" in str(refused.value.__cause__)


def fill(database: Database) -> None:
    """Many entries of a subject with two metrics, and as many of others."""
    statement = text(
        """
        INSERT INTO entries (shard, epoch, n, occurred_at, tenant, subject, metric, kind, amount, change, used_after,
                             period_kind, period_start, receipt_first_n, receipt_count)
        SELECT 0, 1, n, timestamptz 'epoch' + (:noon + n) * interval '1 millisecond', 't',
               CASE WHEN n % 2 = 0 THEN 'u' ELSE 'u' || n END, 'm' || n / 2 % 2, 'consume', 1, 1, n, 'lifetime',
               timestamptz 'epoch', n, 1
        FROM generate_series(0, :last) AS n
        """
    )
    balances = text(
        """
        INSERT INTO balances SELECT 't', 'u', metric, 'lifetime', timestamptz 'epoch', NULL, NULL, 1, 0, 1, 1
        FROM unnest(ARRAY['m0', 'm1']) AS metric
        """
    )
    engine = connect(database.owner_url, pool_size=1)
    with engine.begin() as connection:
        connection.execute(statement, {"noon": NOON_MS, "last": MANY - 1})
        connection.execute(balances)
        connection.execute(text("ANALYZE entries"))
    engine.dispose()


def rows_read(ledger: Ledger, function: Any, *args: Any) -> int:
    """How many rows of the tables a report's statement looks at."""

    class Explained:
        """In place of a connection: it asks for the plan of what it is given, as it was carried out."""

        def __init__(self, connection: Connection) -> None:
            self.connection, self.read = connection, 0

        def execute(self, statement: Any, words: Any = None) -> Any:
            compiled = statement.compile(self.connection.engine)
            values = compiled.params if words is None else words
            cursor = self.connection.connection.cursor()
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + str(compiled), values)
            (((explained,),),) = cursor.fetchall()
            self.read += looked_at(explained["Plan"])
            return self.connection.execute(statement, words or {})

    def explain(connection: Connection) -> int:
        explained = Explained(connection)
        function(explained, *args)
        return explained.read

    return ledger.read(explain)


def looked_at(plan: dict[str, Any]) -> int:
    found = sum(looked_at(each) for each in plan.get("Plans", ()))
    if "Scan" in plan["Node Type"] and "Relation Name" in plan:
        found += int((plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"])
    return found


class TestUsage:
    def test_it_is_summed_up_by_hour_day_and_month_of_utc(self, ledger: Ledger) -> None:
        hours = [entry(n, NOON_MS + n * HOUR_MS // 2, change=2, metric=f"m{n % 2}") for n in range(8)]
        more = [
            entry(20, NOON_MS + 1, kind="refund", change=-1, metric="m0"),
            entry(21, NOON_MS + 2, kind="commit", change=5, metric="m0"),
            entry(22, NOON_MS + 3, kind="release", change=-1, metric="m0"),
            entry(23, NOON_MS + 4, kind="set", change=10, metric="m0"),
            entry(24, NOON_MS + 5, kind="denied", change=0, amount=99, metric="m0"),
            entry(25, NOON_MS + 6, kind="close", change=-4, metric="m0"),  # a window that was cut short
            entry(26, NOON_MS + 6, kind="open", change=4, metric="m0"),
            entry(27, NOON_MS + 7, subject="v"),
        ]
        ledger.write(*hours, *more)
        wanted = Wanted("t", "u", from_ms=NOON_MS, to_ms=NOON_MS + 4 * HOUR_MS)

        def told(by: str, wanted: Wanted = wanted) -> list[tuple[str, int, int, int, int, int]]:
            piece = ledger.read(reports.usage_after, wanted, by, None, 100)
            return [
                (row.metric, (from_timestamp(row.start) - NOON_MS) // HOUR_MS, row.used, row.consumed, row.given_back,
                 row.entries) for row in piece.rows
            ]  # fmt: skip

        first = ("m0", 0, 2 - 1 + 5 - 1 + 10, 2 + 5, 2, 5)
        rest = [("m0", hour, 2, 2, 0, 1) for hour in (1, 2, 3)]
        assert told("hour") == [first, *rest, *(("m1", hour, 2, 2, 0, 1) for hour in range(4))]
        assert told("day") == [("m0", -12, 21, 13, 2, 8), ("m1", -12, 8, 8, 0, 4)]
        month = (period_at(PeriodKind.MONTH, NOON_MS).start_ms - NOON_MS) // HOUR_MS
        assert [(row[1], row[2]) for row in told("month")] == [(month, 21), (month, 8)]
        assert told("hour", replace(wanted, metric="m1", from_ms=NOON_MS + HOUR_MS + 1)) == [
            ("m1", hour, 2, 2, 0, 1) for hour in (1, 2, 3)
        ]

    def test_it_is_walked_without_gap_or_repetition(self, ledger: Ledger) -> None:
        ledger.write(*(entry(n, NOON_MS + n * HOUR_MS // 2, metric=f"m{n % 2}") for n in range(20)))
        wanted = Wanted("t", "u", from_ms=NOON_MS, to_ms=NOON_MS + 10 * HOUR_MS)
        whole = ledger.read(reports.usage_after, wanted, "hour", None, 100).rows
        walked: list[Any] = []
        after = None
        while len(walked) < 100:
            piece = ledger.read(reports.usage_after, wanted, "hour", after, 3)
            walked += piece.rows
            if piece.after is None:
                break
            after = piece.after
        assert walked == list(whole)
        assert len(whole) == 20

    def test_of_a_month_by_hour_it_reads_the_accounts_entries_and_no_others(
        self, ledger: Ledger, database: Database
    ) -> None:
        fill(database)
        wanted = Wanted("t", "u", "m1", from_ms=NOON_MS - 20 * DAY_MS, to_ms=NOON_MS + DAY_MS)
        assert rows_read(ledger, reports.usage_after, wanted, "hour", None, 1_000) <= MANY // 4 + 1


class TestScopes:
    def test_a_tenant_is_told_of_its_own_alone_in_whatever_scope(self, ledger: Ledger) -> None:
        ledger.write(entry(0, tenant="t"), entry(1, NOON_MS + 1, tenant="other"))
        for wanted in (Wanted("t"), Wanted("t", "u"), Wanted("t", "u", "m"), Wanted("t", kind="consume")):
            for scope, count in (("t", 1), (ALL_TENANTS, 1), ("other", 0)):
                piece = ledger.read(reports.entries_after, wanted, None, 10, scope=scope)
                assert [row.n for row in piece.rows] == [0] * count
        usage = Wanted("t", "u", from_ms=NOON_MS, to_ms=NOON_MS + HOUR_MS)
        for scope, count in (("t", 1), (ALL_TENANTS, 1), ("other", 0)):
            assert len(ledger.read(reports.usage_after, usage, "hour", None, 10, scope=scope).rows) == count
