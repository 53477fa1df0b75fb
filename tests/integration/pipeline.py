"""The way from a counter to the ledger on real stores: a journal, a ledger, and what moves entries between them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import redis
from sqlalchemy import Connection, Engine, text

from ledger import shards
from ledger.store import ALL_TENANTS, connect, transaction
from quota import keys
from quota.formats import Terms, Window
from quota.journal import Journal, Place
from quota.keys import AccountName
from tests.conftest import Database
from tests.integration.shard import ClockedShard, Shard
from workers.drain import Drain
from workers.reconcile import Reconcile

P = ParamSpec("P")
T = TypeVar("T")
DEADLINE_S = 30.0


class Pipeline:
    """An empty journal and an empty ledger, with shard 3 begun."""

    def __init__(self, connection: "redis.Redis", engine: Engine) -> None:
        self.connection, self.engine = connection, engine
        self.journal = Journal(connection)
        self.shard = Shard(connection)
        self.clocked = ClockedShard(connection)

    @classmethod
    @contextmanager
    def on(cls, connection: "redis.Redis", database: Database) -> Iterator["Pipeline"]:
        engine = connect(database.application_url)
        yield cls(connection, engine)
        engine.dispose()

    def drain(self, **options: int) -> Drain:
        return Drain(self.journal, self.engine, **options)

    def drained(self, **options: int) -> int:
        """Drains until nothing waits; how many entries were new."""
        drain, moved = self.drain(**options), 0
        while inserted := drain.run_once().entries:
            moved += inserted
        return moved

    def reconcile(self) -> Reconcile:
        return Reconcile(self.journal, self.engine, self.drain())

    def call(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function of the ledger in a transaction of the workers' scope."""
        with transaction(self.engine, ALL_TENANTS) as connection:
            return function(connection, *args, **kwargs)

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

    def tamper(self, metric: str = "m", by: int = 1) -> None:
        """Changes what a counter says was used, in one step, and journals nothing."""
        key = self.shard.key(metric)

        def change(found: Any) -> None:
            used, entry = found.hget(key, "state").decode().split(" ")
            found.multi()
            found.hset(key, "state", f"{int(used) + by} {entry}")

        self.connection.transaction(change, key)

    def kept(self) -> Callable[[], None]:
        """Remembers the journal as it is; what it returns puts it back, and the offset to its beginning."""
        items: Any = self.connection.xrange(keys.journal(3))

        def put_back() -> None:
            for name, fields in items:
                self.connection.xadd("again", fields, id=name)
            self.connection.rename("again", keys.journal(3))
            self.call(shards.advance, {3: Place(0, 0)})

        return put_back

    def put(self, line: str, about: bytes = b"", *, metric: str = "m", subject: str = "v", tenant: str = "t") -> None:
        """Appends an entry that no script would: `{account}`, `{now}` and `{window}` in it are filled in."""
        now_ms, period = self.shard.now_ms(), self.shard.window()
        account = AccountName(tenant, subject, metric).key(3)
        window = Window(period, Terms("free", period.kind, None, (80,)))
        text = line.format(account=account, now=now_ms, window=window)
        fields: Any = {"line": text.encode(errors="surrogateescape"), "about": about}
        self.connection.xadd(keys.journal(3), fields, id="1-*")


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
