"""What the application's login is refused: to change the past, to see other tenants, and to become somebody else."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, NullPool, column, create_engine, insert, text
from sqlalchemy import table as named

from ledger import schema, tables
from ledger.store import ALL_TENANTS, connect, transaction
from tests.conftest import Database
from tests.integration.ledger_rows import OTHER_TABLES, TENANTS_TABLES, row_of

REFUSED = "42501"
"""insufficient_privilege: of a privilege that is missing, and of a row that a policy forbids."""
CHILD = f"entries_{datetime.now(UTC):%Y_%m}"
KEPT_FOR_EVER = ["entries", CHILD, "links", "sealed_periods", "incidents", "catalogs", "acts"]
CHANGES = [
    "UPDATE {} SET {column} = {column}",
    "DELETE FROM {}",
    "TRUNCATE {}",
    "DROP TABLE {}",
    "SELECT * FROM {} FOR UPDATE",
    "DO $$ BEGIN LOCK TABLE {} IN ACCESS EXCLUSIVE MODE; END $$",
    "ALTER TABLE {} ADD COLUMN more text",
    "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {} NO FORCE ROW LEVEL SECURITY",
    "ALTER TABLE {} OWNER TO CURRENT_USER",
    "CREATE POLICY everybody_sees_all ON {} USING (true)",
    "CREATE RULE nothing_is_written AS ON INSERT TO {} DO INSTEAD NOTHING",
    "CREATE TRIGGER changes_it BEFORE INSERT ON {} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE INDEX ON {} ({column})",
]
AROUND_THE_PARENT = [
    f"SELECT * FROM {CHILD}",
    f"INSERT INTO {CHILD} SELECT * FROM entries",
    f"COPY {CHILD} FROM STDIN",
    f"ALTER TABLE entries DETACH PARTITION {CHILD}",
    f"ALTER TABLE entries DETACH PARTITION {CHILD} CONCURRENTLY",
    "CREATE TABLE entries_of_mine PARTITION OF entries DEFAULT",
    "ALTER TABLE entries DROP CONSTRAINT an_entry_stands_at_one_place",
    "DROP POLICY a_tenant_sees_its_own ON entries",
    "INSERT INTO entries SELECT * FROM entries ON CONFLICT ON CONSTRAINT an_entry_stands_at_one_place "
    "DO UPDATE SET amount = 0",
    "MERGE INTO entries USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
]
TO_BE_SOMEBODY_ELSE = [
    "SET ROLE {owner}",
    "SET SESSION AUTHORIZATION {owner}",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE quotagate_app LOGIN",
    "CREATE ROLE another",
    "GRANT {owner} TO CURRENT_USER",
    "GRANT pg_write_all_data TO CURRENT_USER",
    "SET session_replication_role = replica",
    "SET row_security = off; SELECT * FROM entries",
    "ALTER SYSTEM SET row_security = off",
    "SELECT * FROM pg_authid",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY (SELECT 1) TO '/dev/null'",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT lo_import('/etc/hostname')",
]
CODE_OF_THE_OWNERS = [
    "CREATE OR REPLACE FUNCTION make_partitions(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "ALTER FUNCTION make_partitions(integer) SECURITY INVOKER",
    "ALTER FUNCTION make_partitions(integer) SET search_path = pg_temp",
    "DROP FUNCTION make_partitions(integer)",
    "CREATE FUNCTION to_char(timestamp, text) RETURNS text LANGUAGE sql AS $$ SELECT '2020_01' $$",
    "CREATE TABLE mine ()",
    "CREATE SCHEMA mine",
    "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "UPDATE alembic_version SET version_num = '0000'",
    "UPDATE store SET id = id",
    "INSERT INTO shards (shard) VALUES (1000)",
    "DELETE FROM shards",
]


@pytest.fixture(scope="module")
def database(shared_database: Database) -> Database:
    return shared_database


@pytest.fixture(scope="module")
def owner(database: Database) -> Iterator[Engine]:
    """With one row of tenant a and one of tenant b in every table that has tenants, and one in the others."""
    engine = create_engine(database.owner_url, poolclass=NullPool)
    with engine.begin() as connection:
        for table in TENANTS_TABLES:
            for number, tenant in enumerate("ab", start=1):
                connection.execute(insert(table).values(row_of(table, tenant, number)))
        for table in OTHER_TABLES:
            if table.name not in {"store", "shards"}:  # made with the schema
                connection.execute(insert(table).values(row_of(table, "", 1)))
    yield engine
    engine.dispose()


@pytest.fixture
def application(database: Database, owner: Engine) -> Iterator[Engine]:
    engine = connect(database.application_url, pool_size=1)
    yield engine
    engine.dispose()


@pytest.fixture
def session(database: Database, owner: Engine) -> Iterator["psycopg.Connection"]:
    """What somebody has who holds the application's password, in the scope of every tenant."""
    url = database.application_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET quotagate.tenant = '*'")
        yield connection


def answer(session: "psycopg.Connection", statement: str) -> str:
    """The SQLSTATE that a statement ends with, `done` if it ends well."""
    try:
        if statement.endswith("FROM STDIN"):
            with session.cursor().copy(statement.encode()) as copy:
                copy.write(b"")
        else:
            session.execute(statement.encode())
    except psycopg.Error as error:
        return str(error.sqlstate)
    finally:
        session.execute("RESET row_security")
    return "done"


def everything(owner: Engine) -> list[object]:
    """What the tables hold, who owns them, and what they are guarded by."""
    guards = "SELECT relname, relowner, relrowsecurity, relforcerowsecurity, relacl::text FROM pg_class ORDER BY oid"
    queries = [guards, "SELECT * FROM pg_policy ORDER BY oid", "SELECT oid, proname, prosrc FROM pg_proc ORDER BY oid"]
    queries += [f"SELECT * FROM {name} ORDER BY 1, 2" for name in tables.metadata.tables if name != "store"]
    with owner.connect() as connection:
        return [connection.execute(text(query)).all() for query in queries]


class TestThePast:
    def test_nothing_that_is_kept_for_ever_can_be_changed_in_any_way(
        self, owner: Engine, session: "psycopg.Connection"
    ) -> None:
        before = everything(owner)
        columns = {
            "sealed_periods": "used",
            "catalogs": "version",
            "incidents": "detail",
            "links": "hash",
            "acts": "actor",
        }
        for name in KEPT_FOR_EVER:
            asked = [each.format(name, column=columns.get(name, "amount")) for each in CHANGES]
            assert {each: answer(session, each) for each in asked} == dict.fromkeys(asked, REFUSED)
            answer(session, f"GRANT ALL ON {name} TO CURRENT_USER")  # a warning, where something else was granted
        assert everything(owner) == before

    def test_a_month_cannot_be_reached_but_through_the_ledger(
        self, owner: Engine, session: "psycopg.Connection"
    ) -> None:
        before = everything(owner)
        found = {each: answer(session, each) for each in AROUND_THE_PARENT}
        assert found == dict.fromkeys(AROUND_THE_PARENT, REFUSED)
        assert everything(owner) == before

    def test_neither_another_role_nor_the_owners_code_is_within_reach(
        self, owner: Engine, session: "psycopg.Connection"
    ) -> None:
        before = everything(owner)
        asked = [each.format(owner=owner.url.username) for each in TO_BE_SOMEBODY_ELSE] + CODE_OF_THE_OWNERS
        found = {each: answer(session, each) for each in asked}
        assert found == dict.fromkeys(asked, REFUSED)
        assert everything(owner) == before

    def test_no_default_scope_can_be_given_to_the_login_without_being_told(
        self, owner: Engine, session: "psycopg.Connection", application: Engine
    ) -> None:
        assert answer(session, "ALTER ROLE CURRENT_USER SET quotagate.tenant = '*'") in {REFUSED, "done"}
        with owner.begin() as connection:
            connection.execute(text(f"ALTER ROLE {session.info.user} SET quotagate.tenant = '*'"))
        try:
            with transaction(application, ALL_TENANTS) as connection:
                (complaint,) = schema.complaints(connection)
            assert "begins every session in the scope of a tenant" in complaint
        finally:
            with owner.begin() as connection:
                connection.execute(text(f"ALTER ROLE {session.info.user} RESET quotagate.tenant"))

    def test_a_temporary_table_does_not_hide_a_month_that_is_missing(
        self, owner: Engine, session: "psycopg.Connection"
    ) -> None:
        """The function runs as the owner: what the caller puts into its own schema must not lead it astray."""
        ahead = datetime.now(UTC).replace(day=1) + timedelta(days=31 * 13)
        session.execute(sql.SQL("CREATE TEMP TABLE {} ()").format(sql.Identifier(f"entries_{ahead:%Y_%m}")))
        session.execute("CREATE TEMP TABLE entries (occurred_at timestamptz) ON COMMIT DELETE ROWS")
        made = session.execute("SELECT make_partitions(15)").fetchone()
        assert made == (3,)
        with owner.connect() as connection:
            query = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.entries'::regclass"
            assert connection.execute(text(query)).scalar_one() == 17


class TestTenants:
    def test_each_sees_its_own_rows_alone_in_every_table(self, application: Engine) -> None:
        def seen(scope: str) -> dict[str, str]:
            with transaction(application, scope) as connection:
                return {
                    each.name: "".join(
                        sorted(connection.execute(each.select().with_only_columns(each.c.tenant)).scalars())
                    )
                    for each in TENANTS_TABLES
                }

        names = [each.name for each in TENANTS_TABLES]
        assert seen("a") == dict.fromkeys(names, "a")
        assert seen("b") == dict.fromkeys(names, "b")
        assert seen(ALL_TENANTS) == dict.fromkeys(names, "ab")
        assert seen("") == seen("c") == dict.fromkeys(names, "")

    def test_without_a_scope_nothing_is_seen_and_nothing_written(self, database: Database, owner: Engine) -> None:
        with psycopg.connect(database.application_url.replace("+psycopg", ""), autocommit=True) as session:
            for table in TENANTS_TABLES:
                assert session.execute(f"SELECT * FROM {table.name}".encode()).fetchall() == [], table.name
            assert answer(session, "INSERT INTO tenants (tenant) VALUES ('c')") == REFUSED

    def test_none_writes_under_anothers_name(self, owner: Engine, application: Engine) -> None:
        refused = {}
        for table in TENANTS_TABLES:
            with pytest.raises(Exception) as told, transaction(application, "a") as connection:
                connection.execute(insert(table).values(row_of(table, "b", 3)))
            refused[table.name] = getattr(getattr(told.value, "orig", None), "sqlstate", None)
        assert refused == dict.fromkeys(refused, REFUSED)

    def test_none_changes_deletes_or_gives_away_anothers_rows(
        self, owner: Engine, application: Engine, session: "psycopg.Connection"
    ) -> None:
        before = everything(owner)
        tried = 0
        for table in TENANTS_TABLES:
            for privilege, statement in (
                ("UPDATE", table.update().where(table.c.tenant == "b").values(tenant="a")),
                ("DELETE", table.delete().where(table.c.tenant == "b")),
            ):
                may = session.execute("SELECT has_table_privilege(%s, %s)", [table.name, privilege]).fetchone()
                if may == (True,):
                    tried += 1
                    with transaction(application, "a") as connection:
                        assert connection.execute(statement).rowcount == 0, (table.name, privilege)
                    if privilege == "UPDATE":
                        gift = table.update().values(tenant="b")
                        with pytest.raises(Exception, match="row-level security"), transaction(application, "a") as own:
                            own.execute(gift)
        assert tried >= 10
        assert everything(owner) == before

    def test_a_month_that_somebody_was_let_at_shows_each_its_own_rows_alone(
        self, owner: Engine, application: Engine, session: "psycopg.Connection"
    ) -> None:
        """A policy of the parent does not hold for a child that is asked itself."""
        with owner.begin() as connection:
            connection.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {CHILD} TO {session.info.user}"))
        try:
            with transaction(application, "a") as connection:
                assert connection.execute(text(f"SELECT tenant FROM {CHILD}")).scalars().all() == ["a"]
                assert connection.execute(text(f"UPDATE {CHILD} SET amount = 9 WHERE tenant = 'b'")).rowcount == 0
                assert connection.execute(text(f"DELETE FROM {CHILD} WHERE tenant = 'b'")).rowcount == 0
            row = row_of(tables.entries, "b", 3)
            for forbidden in (
                insert(named(CHILD, *(column(name) for name in row))).values(row),
                text(f"UPDATE {CHILD} SET tenant = 'b'"),
            ):
                with pytest.raises(Exception, match="row-level security"), transaction(application, "a") as connection:
                    connection.execute(forbidden)
        finally:
            with owner.begin() as connection:
                connection.execute(text(f"REVOKE ALL ON {CHILD} FROM {session.info.user}"))

    def test_what_tells_of_all_tenants_is_shown_to_whoever_serves_all(self, application: Engine) -> None:
        """Incidents and reconciliations name the subjects of every tenant, and have no tenant of their own."""
        for name in ("incidents", "reconciliations"):
            for scope, count in (("a", 0), ("", 0), (ALL_TENANTS, 1)):
                with transaction(application, scope) as connection:
                    assert connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() == count, scope


WEAKENINGS = {
    "GRANT UPDATE ON links TO {role}": "may change the table links, which only grows",
    "GRANT UPDATE (reason) ON acts TO {role}": "may change the table acts, which only grows",
    "GRANT DELETE ON sealed_periods TO quotagate_app": "may change the table sealed_periods",
    f"GRANT SELECT ON {CHILD} TO {{role}}": f"may reach into the table {CHILD}",
    f"GRANT UPDATE ON {CHILD} TO PUBLIC": f"may reach into the table {CHILD}",
    "GRANT UPDATE (amount, used_after) ON entries TO {role}": "owns or may change the ledger's entries",
    "GRANT UPDATE (hash) ON links TO quotagate_app": "may change the table links, which only grows",
    f"GRANT SELECT (subject) ON {CHILD} TO {{role}}": f"may reach into the table {CHILD}",
    f"GRANT INSERT (tenant) ON {CHILD} TO PUBLIC": f"may reach into the table {CHILD}",
    "GRANT CREATE ON SCHEMA public TO PUBLIC": "may make tables and functions",
    "ALTER TABLE holds DISABLE ROW LEVEL SECURITY": "the table holds does not keep tenants apart",
    "ALTER TABLE balances NO FORCE ROW LEVEL SECURITY": "the table balances does not keep tenants apart",
    f"ALTER TABLE {CHILD} NO FORCE ROW LEVEL SECURITY": f"the table {CHILD} does not keep tenants apart",
    "DROP POLICY a_tenant_sees_its_own ON grants": "the table grants does not keep tenants apart",
    "CREATE POLICY another ON jobs USING (true)": "the table jobs does not keep tenants apart",
    "ALTER POLICY a_tenant_sees_its_own ON entries USING (true)": "the table entries does not keep tenants apart",
    "ALTER TABLE incidents NO FORCE ROW LEVEL SECURITY": "the table incidents does not keep tenants apart",
    "CREATE TABLE of_a_new_kind (tenant text)": "the table of_a_new_kind does not keep tenants apart",
    f"DROP TABLE {CHILD}": "no partition for the coming month",
}


def test_each_weakening_keeps_the_application_from_starting(owner: Engine, database: Database) -> None:
    """Each in a transaction that is taken back, and looked at as the application's login would."""
    told = {}
    with owner.connect() as connection:
        login = create_engine(database.application_url).url.username
        for statement in WEAKENINGS:
            connection.execute(text(statement.format(role=login)))
            connection.execute(text(f"SET LOCAL SESSION AUTHORIZATION {login}"))
            told[statement] = schema.complaints(connection)
            connection.rollback()
        connection.execute(text(f"SET LOCAL SESSION AUTHORIZATION {login}"))
        assert schema.complaints(connection) == []
    assert [each for each, found in told.items() if len(found) != 1 or WEAKENINGS[each] not in found[0]] == [], told


def test_a_login_that_may_become_more_is_complained_of(owner: Engine) -> None:
    for attribute in ("SUPERUSER", "BYPASSRLS", "CREATEROLE"):
        with owner.connect() as connection:
            connection.execute(text(f"CREATE ROLE mighty LOGIN {attribute} IN ROLE quotagate_app"))
            connection.execute(text("SET LOCAL SESSION AUTHORIZATION mighty"))
            (complaint,) = schema.complaints(connection)
            assert "the role mighty" in complaint
            connection.rollback()
