"""The scope of a tenant ends with its transaction, however that ends: whoever gets the connection next has none."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from ledger.store import ALL_TENANTS, Store, connect, transaction
from quota.errors import LedgerUnavailable
from tests.conftest import Database

OWN = text("SELECT tenant FROM tenants ORDER BY tenant")
SCOPE = text("SELECT coalesce(current_setting('quotagate.tenant', true), ''), pg_backend_pid()")


class Stumble(Exception):
    """What a caller stumbles over, inside a transaction."""


def commit(connection: Connection) -> None:
    assert connection.execute(OWN).scalars().all() == ["a"]


def stumble(connection: Connection) -> None:
    commit(connection)
    raise Stumble


def break_a_constraint(connection: Connection) -> None:
    connection.execute(text("INSERT INTO tenants (tenant) VALUES ('a')"))


def write_anothers_row(connection: Connection) -> None:
    connection.execute(text("INSERT INTO tenants (tenant) VALUES ('c')"))


def run_into_a_timeout(connection: Connection) -> None:
    connection.execute(text("SET LOCAL statement_timeout = 5"))
    connection.execute(text("SELECT pg_sleep(10)"))


def set_for_the_session(connection: Connection) -> None:
    """What nothing here does: a SET without LOCAL outlives a transaction that commits."""
    connection.execute(text("SET quotagate.tenant = 'a'"))


ENDS = [commit, stumble, break_a_constraint, write_anothers_row, run_into_a_timeout]


@pytest.fixture(scope="module")
def database(shared_database: Database) -> Database:
    return shared_database


@pytest.fixture
def application(database: Database) -> Iterator[Engine]:
    """Of one connection, which each transaction gets after the other."""
    engine = connect(database.application_url, pool_size=1)
    with transaction(engine, ALL_TENANTS) as connection:
        connection.execute(text("INSERT INTO tenants (tenant) VALUES ('a'), ('b') ON CONFLICT DO NOTHING"))
    yield engine
    engine.dispose()


def test_it_is_gone_from_a_connection_that_is_taken_again(application: Engine) -> None:
    for end in ENDS:
        with transaction(application, "a") as connection:
            _, before = connection.execute(SCOPE).one()
        with suppress(Stumble, DBAPIError, LedgerUnavailable), transaction(application, "a") as connection:
            end(connection)
        with application.begin() as connection:
            assert tuple(connection.execute(SCOPE).one()) == ("", before), end.__name__
            assert connection.execute(OWN).all() == [], end.__name__
        with transaction(application, "b") as connection:
            assert connection.execute(OWN).scalars().all() == ["b"], end.__name__


def test_one_that_was_set_for_a_session_shows_the_next_tenant_nothing(application: Engine) -> None:
    """`SET` that leaks through a pooled connection: each transaction says whose it is, before anything else."""
    with transaction(application, "a") as connection:
        set_for_the_session(connection)
    with application.begin() as connection:
        assert connection.execute(OWN).scalars().all() == ["a"], "it does leak, to whoever forgets to say"
    with transaction(application, "b") as connection:
        assert connection.execute(OWN).scalars().all() == ["b"]


def on(database: Database, ask: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        store = Store(database.application_url, pool_size=1)
        try:
            await ask(store)
        finally:
            await store.close()

    asyncio.run(asyncio.wait_for(run(), 20))


async def assert_nothing_is_left(store: Store, backend: int | None, after: str) -> None:
    async with store._engine.begin() as connection:  # as somebody would who forgot to say for whom
        scope, pid = (await connection.execute(SCOPE)).one()
        assert scope == "", after
        assert backend in {None, pid}, after
        assert (await connection.execute(OWN)).all() == [], after
    assert await store.run("b", lambda connection: connection.execute(OWN).scalars().all()) == ["b"], after


def test_it_is_gone_for_async_callers_too(application: Engine, database: Database) -> None:
    async def ask(store: Store) -> None:
        for end in ENDS:
            _, before = await store.run("a", lambda connection: connection.execute(SCOPE).one())
            with suppress(Stumble, DBAPIError, LedgerUnavailable):
                await store.run("a", end)
            await assert_nothing_is_left(store, before, end.__name__)

    on(database, ask)


def test_it_is_gone_when_an_async_caller_is_cancelled(application: Engine, database: Database) -> None:
    async def ask(store: Store) -> None:
        begun = asyncio.Event()

        async def wait_for_ever() -> None:
            async with store.transaction("a") as connection:
                await connection.execute(OWN)
                begun.set()
                await connection.execute(text("SELECT pg_sleep(10)"))

        task = asyncio.create_task(wait_for_ever())
        await begun.wait()
        task.cancel()
        with suppress(asyncio.CancelledError, LedgerUnavailable):
            await task
        await assert_nothing_is_left(store, None, "cancelled")

    on(database, ask)
