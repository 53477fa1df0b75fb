"""What tests on real stores begin with: a database, a journal and a ledger, a history of months, a server to break."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine, NullPool, create_engine

from ledger.store import connect
from tests.conftest import Database, Stores
from tests.integration.archiving import History, history_of, made_once
from tests.integration.counting import PrivateServer
from tests.integration.pipeline import Pipeline


@pytest.fixture
def owner(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.owner_url, poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def application(database: Database) -> Iterator[Engine]:
    """As the application connects: with a pool, here of one connection, so that every transaction reuses it."""
    engine = connect(database.application_url, pool_size=1)
    yield engine
    engine.dispose()


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def made(stores: Stores, _migrated: str) -> Iterator[str]:
    with made_once(stores, _migrated) as name:
        yield name


@pytest.fixture
def history(stores: Stores, made: str, tmp_path: Path) -> Iterator[History]:
    with history_of(stores, made, tmp_path) as history:
        yield history


@pytest.fixture
def private(tmp_path: Path) -> Iterator[PrivateServer]:
    with PrivateServer(tmp_path) as server:
        yield server
