"""Old months leave the ledger for a file: what is left is right without them, and with them it is as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.conftest import Database
from tests.integration.archiving import History, history_on


@pytest.fixture(autouse=True)
def _logs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sets up its process's logs; this process is other tests' as well."""
    monkeypatch.setattr("quotagate.operator.configure", lambda *_: None)


@pytest.fixture
def history(connection: "redis.Redis", database: Database, tmp_path: Path) -> Iterator[History]:
    with history_on(connection, database, tmp_path) as history:
        yield history


def test_first(history: History) -> None:
    print(history.pipeline.rows("select tableoid::regclass, count(*) from entries group by 1"))
    print(history.pipeline.incidents())
    print(history.archive(1))
    rows = history.pipeline.rows
    print(rows("select * from carried"))
    print(rows("select month, entries, places from archives"))
    from ledger import replay_verification
    from tests.integration.replaying import through
    print(through(history.pipeline, replay_verification.step))
