"""A ledger with a history of months, as an owner archives it: with capped windows, grants, holds, and a lifetime."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import redis
from sqlalchemy import make_url

from ledger.archive_files import next_month
from ledger.instants import from_timestamp
from quota.periods import DAY_MS, Period, PeriodKind
from quotagate.ledger_archiving import run_archive
from tests.conftest import Database, Stores, database_of
from tests.integration.pipeline import Pipeline
from tests.integration.replaying import as_owner, rich_history
from workers.linking import Linking

PARTITION = """
DO $$ BEGIN
    EXECUTE format('CREATE TABLE %1$I PARTITION OF entries FOR VALUES FROM (%2$L) TO (%3$L)', '{name}', '{since}+00',
        '{till}+00');
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', '{name}');
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', '{name}');
    EXECUTE format('CREATE POLICY a_tenant_sees_its_own ON %I '
        'USING (current_setting(''quotagate.tenant'', true) IN (tenant, ''*''))', '{name}');
END $$
"""


@dataclass
class History:
    """Three months that may be archived, then one with nothing, then this one; `months` are the three."""

    pipeline: Pipeline
    database: Database
    folder: Path
    now_ms: int = field(default_factory=lambda: from_timestamp(datetime.now(UTC).replace(microsecond=0)))

    @property
    def months(self) -> list[date]:
        today = datetime.now(UTC).date().replace(day=1)
        return [next_month(today, -back) for back in (4, 3, 2)]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "QUOTAGATE_OWNER_DATABASE_URL": self.database.owner_url,
            "QUOTAGATE_DATABASE_URL": self.database.application_url,
        }

    def at_ms(self, month: date, day: int = 10) -> int:
        return from_timestamp(datetime(month.year, month.month, day, 9, tzinfo=UTC))

    def make(self) -> None:
        for month in self.months:
            bounds = {"since": month.isoformat(), "till": next_month(month).isoformat()}
            with psycopg.connect(self.database.owner_url.replace("+psycopg", "", 1)) as owner:
                owner.execute(PARTITION.format(name=f"entries_{month:%Y_%m}", **bounds))
        clocked = self.pipeline.clocked
        clocked.set_clock(self.at_ms(self.months[0]))
        rich_history(self.pipeline)
        clocked.open("ever", limit=None, period=Period(PeriodKind.LIFETIME, 0, None))
        clocked.open("slept", limit=None, period=Period(PeriodKind.LIFETIME, 0, None))
        clocked.consume(clocked.step(5, metric="slept"))
        for month in (*self.months, next_month(self.months[-1], 2)):
            for day in (5, 12):
                clocked.set_clock(max(clocked.now_ms(), min(self.at_ms(month, day), self.now_ms)))
                if (month, day) == (self.months[1], 5):  # in a period that began in the month before
                    clocked.consume(clocked.step(1))
                clocked.consume(clocked.step(7, metric="ever"), clocked.step(2, metric="ever"))
                clocked.hold(3, metric="ever", ttl_ms=DAY_MS // 2)
            self.pipeline.drained()
        self.settle()

    def settle(self) -> None:
        """What the workers have done by then: periods are sealed, entries are linked."""
        Linking(self.pipeline.engine).run_once()
        as_owner(self.database, "UPDATE balances SET is_sealed = true WHERE period_end <= now()")

    def archive(self, before: int = 1, folder: Path | None = None, **how: Any) -> dict[str, Any]:
        """The first so many of the months."""
        name = f"{next_month(self.months[0], before):%Y-%m}"
        how = {"drop": False, "is_quiet": True, **how}
        return run_archive(self.environment, self.folder, before=name, out=folder or self.folder, **how)


@contextmanager
def made_once(stores: Stores, migrated: str) -> Iterator[str]:
    """The name of a database with the history in it, of which each test has its own copy."""
    with (
        database_of(stores, migrated) as database,
        redis.Redis.from_url(stores.redis_url) as connection,
        Pipeline.on(connection, database) as pipeline,
    ):
        connection.flushall()
        History(pipeline, database, Path()).make()
        pipeline.engine.dispose()
        yield make_url(database.owner_url).database or ""


@contextmanager
def history_of(stores: Stores, made: str, folder: Path) -> Iterator[History]:
    """A copy of its own."""
    with (
        database_of(stores, made) as database,
        redis.Redis.from_url(stores.redis_url) as connection,
        Pipeline.on(connection, database) as pipeline,
    ):
        yield History(pipeline, database, folder)
