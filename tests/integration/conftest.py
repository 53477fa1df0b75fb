"""What tests on real stores begin with: an empty journal and ledger, or a ledger with a history of months."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.conftest import Database, Stores
from tests.integration.archiving import History, history_of, made_once
from tests.integration.pipeline import Pipeline


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
