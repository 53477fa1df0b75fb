"""Connections and transactions. Every transaction names the tenant that it is for; row-level security does the rest.

All functions of this package take a SQLAlchemy `Connection` and block; an async caller runs them through `Store.run`,
so that each statement is written once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from quota.errors import LedgerUnavailable

ALL_TENANTS = "*"
"""The scope of whoever serves every tenant at once; no tenant can have this name."""
CONNECTION: dict[str, int | str] = {
    "connect_timeout": 3,
    # A server that went away without a word is noticed by whoever speaks to it, and by whoever waits for it.
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
POOL_TIMEOUT_S = 3.0
DEADLINE_S = 5.0
"""Far more than any statement of the gateway takes; a caller is told then that Postgres hangs."""

P = ParamSpec("P")
T = TypeVar("T")

# LOCAL, so that the scope ends with the transaction and cannot leak through a pooled connection.
_scope = text("SELECT set_config('quotagate.tenant', :tenant, true)")


AWAY = "the ledger cannot be reached; nothing was changed"
"""What callers are told; where the ledger is, and why it is away, is for operators alone."""


def connect(url: str, pool_size: int = 4) -> Engine:
    """An engine for callers that may block. Nothing is connected yet."""
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
        connect_args=CONNECTION,
    )


def _is_outage(error: SQLAlchemyError) -> bool:
    if isinstance(error, PoolTimeoutError):
        return True
    # Class 08: connection, 53: resources, 57: shutdown or cancelled by a timeout; 25006: read-only, as after a
    # fail-over. No code at all: never got through.
    code = getattr(getattr(error, "orig", None), "sqlstate", None)
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or code is None or code[:2] in {"08", "53", "57"} or code == "25006"
    )


@contextmanager
def outages_told() -> Iterator[None]:
    """LedgerUnavailable in place of whatever SQLAlchemy raises when Postgres is away."""
    try:
        yield
    except psycopg.OperationalError as error:  # COPY speaks to psycopg itself
        raise LedgerUnavailable(AWAY) from error
    except SQLAlchemyError as error:
        if _is_outage(error):
            raise LedgerUnavailable(AWAY) from error
        raise


@contextmanager
def transaction(engine: Engine, tenant: str) -> Iterator[Connection]:
    """One transaction in the scope of one tenant, or ALL_TENANTS; LedgerUnavailable when Postgres is away."""
    with outages_told(), engine.begin() as connection:
        connection.execute(_scope, {"tenant": tenant})
        yield connection


class Store:
    """The ledger for async callers."""

    def __init__(self, url: str, pool_size: int = 8) -> None:
        self._unfinished: set[asyncio.Future[Any]] = set()
        self._engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_pre_ping=True,
            connect_args=CONNECTION | {"options": "-c statement_timeout=5000"},
        )

    @asynccontextmanager
    async def transaction(self, tenant: str) -> AsyncIterator[AsyncConnection]:
        """One transaction in the scope of one tenant, or ALL_TENANTS; LedgerUnavailable when Postgres is away."""
        with outages_told():
            async with self._engine.begin() as connection:
                await connection.execute(_scope, {"tenant": tenant})
                yield connection

    async def run(
        self, tenant: str, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Calls `function(connection, …)` in one transaction of a tenant's scope."""

        async def call() -> T:
            async with self.transaction(tenant) as connection:
                return await connection.run_sync(function, *args, **kwargs)

        return await self.bounded(call())

    async def bounded(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work returns; LedgerUnavailable if Postgres hangs. The work is then left to end by itself, because
        cancelling it asks the server that hangs."""
        task = asyncio.ensure_future(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        done, _ = await asyncio.wait({task}, timeout=DEADLINE_S)
        if not done:
            task.cancel()
            raise LedgerUnavailable(f"the ledger did not answer within {DEADLINE_S:.0f} s")
        return task.result()

    async def close(self) -> None:
        await self._engine.dispose()
