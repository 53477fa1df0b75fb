"""The way from a counter to the ledger on real stores: a journal, a ledger, and what moves entries between them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from sqlalchemy import Engine, text

from ledger import shards
from ledger.store import ALL_TENANTS, connect, transaction
from quota import keys
from quota.journal import Journal, Place
from tests.conftest import Database
from tests.integration.shard import Shard
from workers.drain import Drain
from workers.reconcile import Reconcile

DEADLINE_S = 30.0


class Pipeline:
    """An empty journal and an empty ledger, with shard 3 begun."""

    def __init__(self, connection: "redis.Redis", engine: Engine) -> None:
        self.connection, self.engine = connection, engine
        self.journal = Journal(connection)
        self.shard = Shard(connection)

    @classmethod
    @contextmanager
    def on(cls, connection: "redis.Redis", database: Database) -> Iterator["Pipeline"]:
        engine = connect(database.application_url)
        yield cls(connection, engine)
        engine.dispose()

    def drain(self) -> Drain:
        return Drain(self.journal, self.engine)

    def drained(self) -> int:
        """Drains until nothing waits; how many entries were new."""
        drain, moved = self.drain(), 0
        while inserted := drain.run_once().entries:
            moved += inserted
        return moved

    def reconcile(self) -> Reconcile:
        return Reconcile(self.journal, self.engine, self.drain())

    def rows(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with transaction(self.engine, ALL_TENANTS) as connection:
            return [tuple(row) for row in connection.execute(text(statement), parameters)]

    def entries(self) -> list[tuple[int, int, int]]:
        return [
            (shard, epoch, n) for shard, epoch, n in self.rows("SELECT shard, epoch, n FROM entries ORDER BY 1, 2, 3")
        ]

    def balances(self) -> dict[tuple[str, str], int]:
        return {
            (metric, kind): used for metric, kind, used in self.rows("SELECT metric, period_kind, used FROM balances")
        }

    def incidents(self) -> list[tuple[int, str, dict[str, Any]]]:
        return [(s, kind, d) for s, kind, d in self.rows("SELECT shard, kind, detail FROM incidents ORDER BY id")]

    def offset(self, shard: int = 3) -> Place:
        with transaction(self.engine, ALL_TENANTS) as connection:
            return shards.offsets(connection)[shard]

    def waiting(self, shard: int = 3) -> int:
        return int(self.connection.xlen(keys.journal(shard)))


class Consumers:
    """Threads that consume one unit at a time, each its own account, until they are told to stop."""

    def __init__(self, pipeline: Pipeline, count: int = 2) -> None:
        self._stopping = threading.Event()
        self.consumed = [0] * count
        self.began = threading.Barrier(count + 1)
        self._threads = [threading.Thread(target=self._consume, args=(pipeline, number)) for number in range(count)]

    def _consume(self, pipeline: Pipeline, number: int) -> None:
        metric = f"busy{number}"
        while not self._stopping.is_set():
            pipeline.shard.consume(*[pipeline.shard.step(1, metric=metric)] * 10)
            if self.consumed[number] == 0:
                self.began.wait(DEADLINE_S)
            self.consumed[number] += 10

    def __enter__(self) -> "Consumers":
        for each in self._threads:
            each.start()
        self.began.wait(DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for each in self._threads:
            each.join(DEADLINE_S)


class Crashed(Exception):
    pass


def crash(*_: object) -> None:
    raise Crashed
