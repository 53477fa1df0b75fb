"""What went wrong in ledgers like this one, each from a report that its docstring names. docs/traps.md has them all."""

import random
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import NullPool, create_engine, event, text

from ledger import entries, staging
from ledger.store import ALL_TENANTS, connect, transaction
from quota import keys
from quota.formats import Terms, Window
from quota.journal import Place
from quota.keys import AccountName
from quota.periods import PeriodKind, period_at
from tests.conftest import Database
from tests.integration.pipeline import Pipeline
from tests.system import ROOT
from tests.unit.entries import entry
from workers import drain

WRITERS, BATCHES, ACCOUNTS = 6, 12, 25
BY_LENGTH = re.compile(r"""['"]MAXLEN\b|\.x(add|trim)\(.*maxlen""", re.IGNORECASE)


def test_entries_are_in_the_journal_until_the_ledger_has_committed_them(pipeline: Pipeline) -> None:
    """BerriAI/litellm#33872: what was popped from Redis before the commit was gone when the commit failed."""
    pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 20)
    seen: dict[str, list[int]] = {"statement": [], "commit": []}

    @event.listens_for(pipeline.engine, "after_cursor_execute")
    def _(*_: object) -> None:
        seen["statement"].append(pipeline.waiting())

    @event.listens_for(pipeline.engine, "commit")
    def fail(*_: object) -> None:
        seen["commit"].append(pipeline.waiting())
        if len(seen["commit"]) == 2:  # the first is of the drain's own beginning, before it moves anything
            raise ConnectionResetError("the server went away instead of committing")

    moving = pipeline.drain()
    with pytest.raises(ConnectionResetError):
        moving.run_once()
    assert set(seen["statement"]) == {20}
    assert (pipeline.waiting(), pipeline.offset()) == (20, Place(0, 0))
    assert moving.run_once().entries == 20
    assert seen["commit"][1:3] == [20, 20]
    assert (pipeline.waiting(), pipeline.balances()) == (0, {("m", "month"): 20})


def test_writers_that_meet_in_the_same_accounts_neither_deadlock_nor_drop_anything(
    pipeline: Pipeline, database: Database
) -> None:
    """BerriAI/litellm#6895: of writers that locked the same rows in other orders one was broken off, and what it had to
    write was gone. Sorted, they wait for each other."""
    owner = create_engine(database.owner_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with owner.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {database.owner_url.rsplit('/', 1)[1]} SET deadlock_timeout = '10ms'"))
    together, failures = threading.Barrier(WRITERS), list[BaseException]()
    now_ms = pipeline.shard.now_ms()
    window = Window(period_at(PeriodKind.MONTH, now_ms), Terms("free", PeriodKind.MONTH, None, (80,)))

    def write(writer: int) -> None:
        dice, engine = random.Random(writer), connect(database.application_url, pool_size=1)
        try:
            together.wait(30)
            for number in range(BATCHES):
                order = dice.sample(range(ACCOUNTS), ACCOUNTS)
                batch = [
                    replace(
                        entry(number * ACCOUNTS + place, occurred_at_ms=now_ms, window=window),
                        shard=writer,
                        account=AccountName("t", f"u{which}", "m"),
                    )
                    for place, which in enumerate(order)
                ]
                with transaction(engine, ALL_TENANTS) as connection:
                    staging.stage(connection, batch)
                    assert entries.book(connection, batch, 60) == ACCOUNTS
        except BaseException as error:
            failures.append(error)
        engine.dispose()

    writing = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for each in writing:
        each.start()
    for each in writing:
        each.join(60)
    assert failures == []
    assert pipeline.rows("SELECT DISTINCT used, (SELECT count(*) FROM entries) FROM balances") == [
        (WRITERS * BATCHES * 5, WRITERS * BATCHES * ACCOUNTS)
    ]


def test_a_deadlock_with_somebody_else_drops_nothing(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """BerriAI/litellm#6895: a batch that was broken off is no batch of entries that cannot be read."""
    pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 20)
    moving = pipeline.drain()

    def break_off(connection: object, *_: object) -> int:
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'broken off' USING ERRCODE = '40P01'; END $$"))  # type: ignore[attr-defined]
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(drain.entries, "book", break_off)
        with pytest.raises(Exception, match="broken off"):
            moving.run_once()
    assert (pipeline.waiting(), pipeline.offset(), pipeline.incidents()) == (20, Place(0, 0), [])
    assert moving.run_once().entries == 20


def test_a_journal_is_never_cut_to_a_length_but_up_to_what_the_ledger_has(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XTRIM MAXLEN: entries that nobody had read yet were trimmed away, and nothing said so."""
    pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 50)
    monkeypatch.setattr(drain, "MAX_BATCH_ENTRIES", 7)
    moving, rest = pipeline.drain(), 50
    while rest:
        rest -= moving.run_once().entries
        left = pipeline.connection.xrange(keys.journal(3))
        assert [name.decode() for name, _ in left] == [f"1-{n}" for n in range(50 - rest, 50)]
    assert len(pipeline.entries()) == 50


def test_no_code_of_ours_can_cut_a_stream_to_a_length() -> None:
    """XTRIM MAXLEN and XADD MAXLEN: neither is called."""
    assert BY_LENGTH.search("redis.call('XADD', key, 'MAXLEN', 10)")
    assert BY_LENGTH.search("connection.xtrim(keys.journal(shard), maxlen=10)")
    rooms = ("quotagate", "gateway", "workers", "ledger", "quota", "lua")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.*") if path.suffix in {".py", ".lua"}]
    assert len(files) > 100
    assert [path for path in files if BY_LENGTH.search(path.read_text(encoding="utf-8"))] == []


def test_an_entry_that_comes_again_after_the_border_of_a_month_has_no_twin(pipeline: Pipeline) -> None:
    """A unique key on a partitioned table must hold the column that it is partitioned by: what came again under
    a later instant stood in two months. The instant of an entry is its own, whenever it comes."""
    shard = pipeline.clocked
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)
    border_ms = int(first.replace(day=1).timestamp()) * 1000
    shard.set_clock(border_ms - 100)
    shard.open(limit=None, period=shard.window(-10, 100)).consume(shard.step(3))
    put_back = pipeline.kept()
    pipeline.drained()
    shard.set_clock(border_ms + 100)
    put_back()
    shard.consume(shard.step(4))
    pipeline.drained()
    rows = pipeline.rows("SELECT n, change, tableoid::regclass::text FROM entries ORDER BY n")
    before, after = (f"entries_{each:%Y_%m}" for each in (first.replace(day=1) - timedelta(days=1), first))
    assert rows == [(0, 3, before), (1, 4, after)]
    assert pipeline.balances() == {("m", "month"): 7}
    assert pipeline.incidents() == []
