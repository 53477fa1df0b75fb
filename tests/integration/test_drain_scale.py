"""A batch reads what it moves, however much the ledger holds: counted by Postgres itself, table by table."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from sqlalchemy import Connection, Engine, event, text

from quota.journal import About, encode_about
from tests.conftest import Database
from tests.integration.pipeline import Pipeline
from tests.integration.replaying import as_owner, rich_history

HELD = 5_000
FILLED = (
    """
    INSERT INTO balances (tenant, subject, metric, period_kind, period_start, plan, used, shard, epoch, n)
    SELECT 't', 'u_' || md5(CAST(g AS text)), 'm', 'month', now(), 'free', 1, g % 8, 1, g
    FROM generate_series(1, :held) AS g
    """,
    """
    INSERT INTO cap_balances (tenant, subject, metric, period_kind, period_start, used)
    SELECT 't', 'u_' || md5(CAST(g AS text)), 'm', 'day', now(), 1 FROM generate_series(1, :held) AS g
    """,
    """
    INSERT INTO holds
        (shard, epoch, n, tenant, subject, metric, amount, expires_at, period_kind, period_start, "window")
    SELECT g % 8, 1, g, 't', 'u_' || md5(CAST(g AS text)), 'm', 1, now(), 'month', now(), ''
    FROM generate_series(1, :held) AS g
    """,
    """
    INSERT INTO grants (id, tenant, subject, metric, amount, priority, created_by) OVERRIDING SYSTEM VALUE
    SELECT 1000 + g, 't', 'u_' || g, 'm', 1, 0, 'x' FROM generate_series(1, :held) AS g
    """,
    """
    INSERT INTO grant_balances (grant_id, tenant, period_kind, period_start, used)
    SELECT g, 't', 'month', now(), 1 FROM generate_series(1, :held) AS g
    """,
    """
    INSERT INTO idempotency_keys
        (tenant, subject, route, key, shard, epoch, first_n, receipt_count, kind, occurred_at)
    SELECT 't', 'u_' || md5(CAST(g AS text)), 'consume', 'k', g % 8, 1, g, 1, 'consume', now()
    FROM generate_series(1, :held) AS g
    """,
    """
    INSERT INTO take_backs (tenant, shard, epoch, first_n, receipt_count, kind, reason)
    SELECT 't', g % 8, 0, g, 1, 'consume', 'x' FROM generate_series(1, :held) AS g
    """,
)


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        for rows in FILLED:
            pipeline.call(lambda opened, rows=rows: opened.execute(text(rows), {"held": HELD}))
        as_owner(database, "ANALYZE")
        yield pipeline


@contextmanager
def counting(engine: Engine) -> Iterator[Counter[str]]:
    """How many rows of each table its transactions read, by an index or without one."""
    found: Counter[str] = Counter()

    @event.listens_for(engine, "commit")
    def count(connection: Connection) -> None:
        reads = "SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables"
        for table, rows in connection.exec_driver_sql(reads):
            found[table] += rows

    yield found
    event.remove(engine, "commit", count)


def test_batches_of_every_kind_of_entry_read_no_table_as_a_whole(pipeline: Pipeline) -> None:
    with counting(pipeline.engine) as found:
        rich_history(pipeline)
        shard = pipeline.clocked
        for key in ("a", "b", "c"):
            shard.consume(shard.step(0, about=encode_about(About(idempotency_key=key, route="consume"))))
        pipeline.drained()
        shard.consume(shard.step(0, about=encode_about(About(idempotency_key="a", route="consume"))))
        pipeline.drained()
    assert pipeline.rows("SELECT count(*) FROM take_backs WHERE epoch = 1") == [(1,)]
    (entries,) = pipeline.rows("SELECT count(*) FROM entries")
    assert found["staging"] > entries[0] >= 20
    assert [(table, rows) for table, rows in found.items() if rows >= HELD] == []
