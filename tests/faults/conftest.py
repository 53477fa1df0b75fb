"""A system that tests may break, and what must be true of it afterwards."""

from collections.abc import Iterator

import pytest

from tests.load import Log
from tests.system import System

LIMIT = 10_000


@pytest.fixture(scope="package")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that these tests may break, with a soft limit nobody runs into and one hard limit of 10,000."""
    catalog = tmp_path_factory.mktemp("catalog") / "catalog.toml"
    catalog.write_text(
        'default_plan = "free"\n[metrics.calls]\n[metrics.units]\n[plans.free]\n'
        f'limits.calls = {{ limit = {LIMIT}, period = "month" }}\n'
        'limits.units = { period = "month" }\n'
    )
    system = System(tmp_path_factory.mktemp("faulty"), catalog=catalog).start()
    yield system
    assert system.stop() == 0


def assert_exactly_once(system: System, log: Log, metric: str, subjects: str) -> None:
    """Compares the clients' log with the ledger, and the ledger with the counters."""
    system.drained(30)
    rows = system.sql(
        "SELECT request_id, count(*), sum(change) FROM entries "
        "WHERE metric = %s AND subject LIKE %s AND kind = 'consume' GROUP BY request_id",
        metric,
        subjects,
    )
    in_ledger = {ident for ident, _, _ in rows}
    assert [row for row in rows if row[1] != 1] == [], "an entry is there twice"
    assert log.acknowledged() - in_ledger == set(), "an acknowledged request is not in the ledger"
    assert in_ledger - log.attempted() == set(), "the ledger has what nobody asked for"
    used = system.sql("SELECT sum(used) FROM balances WHERE metric = %s AND subject LIKE %s", metric, subjects)[0][0]
    assert used == sum(row[2] for row in rows)
    report = system.reconciled()
    assert (report["drifted"], report["undrained_entries"]) == (0, 0), report
    assert system.sql("SELECT * FROM incidents WHERE kind <> 'lost'") == []
