"""docs/roles.md says what is so."""

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from tests.conftest import Database
from tests.system import ROOT

ROW = re.compile(r"^\| `(\w+)` \| ([a-z, ]+) \| (their tenant|everybody|whoever serves all)", re.MULTILINE)
MONTHS = "entries_YYYY_MM"


@pytest.fixture
def owner(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.owner_url, poolclass=NullPool)
    yield engine
    engine.dispose()


def documented() -> dict[str, tuple[str, str]]:
    return {name: (may, seen) for name, may, seen in ROW.findall((ROOT / "docs/roles.md").read_text(encoding="utf-8"))}


def found(owner: Engine) -> dict[str, tuple[str, str]]:
    """Of each table: what quotagate_app may, and by the columns and policies, who sees its rows."""
    query = """
        SELECT regexp_replace(c.relname, '_[0-9]{4}_[0-9]{2}$', '_YYYY_MM') AS name,
               array_to_string(ARRAY(
                   SELECT lower(word)
                   FROM unnest('{SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER}'::text[]) AS word
                   WHERE has_table_privilege('quotagate_app', c.oid, word)
               ), ', ') AS may,
               c.relrowsecurity AND c.relforcerowsecurity AS is_guarded,
               EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant') AS has_tenants
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
    """
    with owner.connect() as connection:
        rows = connection.execute(text(query)).all()
    who = {(True, True): "their tenant", (True, False): "whoever serves all", (False, False): "everybody"}
    return {row.name: (row.may or "nothing", who[row.is_guarded, row.has_tenants]) for row in rows}


def test_every_table_has_its_privileges_and_its_readers_in_the_page(owner: Engine) -> None:
    assert documented() == found(owner)
    assert MONTHS in documented()


def test_what_is_said_of_routes_is_so() -> None:
    """No module of the gateway reads a table that has no tenant, but those that the page names."""
    told = {"incidents": {"clock_steps"}, "links": set[str](), "reconciliations": {"ops"}, "store": set[str]()}
    for table, modules in told.items():
        reading = {
            path.stem
            for path in (ROOT / "gateway").glob("*.py")
            if re.search(
                rf"^from ledger import .*\b{table}\b|FROM {table}\b|ledger\.tables import .*\b{table}\b",
                path.read_text(encoding="utf-8"),
                re.MULTILINE,
            )
        }
        assert reading - {"epochs"} == modules, table
