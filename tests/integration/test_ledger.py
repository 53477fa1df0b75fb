"""The ledger on a real PostgreSQL: its schema, who may do what with it, and who sees what."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from ledger import api_keys, entries, schema, shards, tables
from ledger.store import ALL_TENANTS, connect, transaction
from quota.errors import LedgerUnavailable, Unsafe
from quota.journal import About, Entry, Place
from quota.periods import PeriodKind
from quota.protocol import Terms
from tests.conftest import SHARDS, Database

NOW_MS = int(datetime.now(UTC).timestamp() * 1000)
ROW_SECURED = ("tenants", "entries", "balances", "catalogs", "subscriptions", "announcements", "api_keys")
CONTENT = (
    "SELECT count(*), (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_policy), "
    "(SELECT string_agg(version_num, ',') FROM alembic_version) FROM shards"
)


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


def entry(n: int = 0, tenant: str = "t", *, shard: int = 0) -> Entry:
    about = About(tenant=tenant, subject="u", metric="m")
    terms = Terms("free", PeriodKind.LIFETIME, None, ())
    return Entry(shard, Place(1, n), NOW_MS, "consume", 1, 1, n + 1, n, 1, 0, None, terms, about)


def write(engine: Engine, *batch: Entry) -> int:
    with transaction(engine, ALL_TENANTS) as connection:
        entries.stage(connection, batch)
        return entries.insert_staged(connection)


def count(connection: Connection, table: str) -> int:
    return int(connection.execute(text("SELECT count(*) FROM " + table)).scalar_one())


def partitions(connection: Connection) -> list[str]:
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'entries'::regclass ORDER BY 1"
    return list(connection.execute(text(query)).scalars())


class TestSchema:
    def test_the_models_and_the_migrations_agree(self, owner: Engine) -> None:
        with owner.connect() as connection:
            children = set(partitions(connection))

            def ours(_object: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
                return not (kind == "table" and (name in children or name == "alembic_version"))

            options = {"include_object": ours, "compare_type": True, "compare_server_default": True}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, tables.metadata) == []

    def test_the_models_and_the_migrations_name_the_same_constraints(self, owner: Engine) -> None:
        query = (
            "SELECT conname FROM pg_constraint "
            "WHERE contype IN ('c', 'p') AND conrelid = ANY(CAST(:tables AS regclass[]))"
        )
        with owner.connect() as connection:
            found = connection.execute(text(query), {"tables": list(tables.metadata.tables)}).scalars().all()
        named = {str(each.name) for table in tables.metadata.tables.values() for each in table.constraints if each.name}
        assert named <= set(found)
        assert {name for name in found if not name.endswith("_pkey")} == named

    def test_migrating_twice_changes_nothing(self, owner: Engine) -> None:
        with owner.connect() as connection:
            before = connection.execute(text(CONTENT)).one()
        schema.migrate(owner, SHARDS)
        with owner.connect() as connection:
            assert connection.execute(text(CONTENT)).one() == before

    def test_two_migrations_at_once_wait_for_each_other(self, database: Database) -> None:
        failures: list[Exception] = []

        def migrate() -> None:
            engine = create_engine(database.owner_url, poolclass=NullPool)
            try:
                schema.migrate(engine, SHARDS)
            except Exception as error:
                failures.append(error)

        owner = create_engine(database.owner_url, poolclass=NullPool)
        with owner.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        migrating = [threading.Thread(target=migrate) for _ in range(3)]
        for each in migrating:
            each.start()
        for each in migrating:
            each.join(30)
        assert failures == []
        with owner.connect() as connection:
            assert count(connection, "shards") == SHARDS

    @pytest.mark.parametrize("wanted", [SHARDS - 1, SHARDS + 1])
    def test_another_number_of_shards_is_refused(self, owner: Engine, wanted: int) -> None:
        with pytest.raises(Unsafe, match=f"set QUOTAGATE_SHARDS={SHARDS}"):
            schema.migrate(owner, wanted)

    def test_the_application_finds_nothing_to_complain_of(self, application: Engine) -> None:
        with transaction(application, ALL_TENANTS) as connection:
            assert schema.complaints(connection) == []

    def test_an_owner_as_the_application_is_complained_of(self, owner: Engine) -> None:
        with owner.connect() as connection:
            (complaint,) = schema.complaints(connection)
        assert "owns or may change the ledger's entries" in complaint

    @pytest.mark.parametrize("privilege", ["UPDATE", "DELETE", "TRUNCATE"])
    def test_an_application_that_may_change_entries_is_complained_of(
        self, owner: Engine, application: Engine, privilege: str
    ) -> None:
        with transaction(application, ALL_TENANTS) as connection, owner.begin() as grants:
            role = connection.execute(text("SELECT current_user")).scalar_one()
            grants.execute(text(f"GRANT {privilege} ON entries TO {role}"))
        with transaction(application, ALL_TENANTS) as connection:
            (complaint,) = schema.complaints(connection)
        assert f"the role {role} owns or may change" in complaint

    def test_a_database_without_tables_is_complained_of(self, database: Database) -> None:
        empty = make_url(database.owner_url).set(database="postgres")
        with create_engine(empty, poolclass=NullPool).connect() as connection:
            assert schema.complaints(connection) == ["the database has no tables yet: run `quotagate migrate`"]

    def test_an_older_schema_and_a_missing_partition_are_complained_of(
        self, owner: Engine, application: Engine
    ) -> None:
        with owner.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
            for name in partitions(connection)[2:]:
                connection.execute(text("DROP TABLE " + name))
        with transaction(application, ALL_TENANTS) as connection:
            revision, partition = schema.complaints(connection)
        assert "the schema is at revision 0000" in revision
        assert "no partition for the coming month" in partition


class TestPartitions:
    def test_they_reach_from_the_last_month_to_a_year_ahead(self, owner: Engine) -> None:
        today = datetime.now(UTC)
        months = [today.year * 12 + today.month - 1 + ahead for ahead in range(-1, 13)]
        with owner.connect() as connection:
            assert partitions(connection) == [f"entries_{month // 12}_{month % 12 + 1:02}" for month in months]

    def test_the_application_makes_those_that_are_missing_and_only_once(self, application: Engine) -> None:
        with transaction(application, ALL_TENANTS) as connection:
            assert [schema.make_partitions(connection, ahead) for ahead in (12, 15, 15)] == [0, 3, 0]

    def test_many_who_make_them_at_once_make_each_once(self, database: Database) -> None:
        made: list[int] = []
        together = threading.Barrier(4)

        def make() -> None:
            engine = connect(database.application_url, pool_size=1)
            together.wait(10)
            with transaction(engine, ALL_TENANTS) as connection:
                made.append(schema.make_partitions(connection, 18))
            engine.dispose()

        makers = [threading.Thread(target=make) for _ in range(4)]
        for each in makers:
            each.start()
        for each in makers:
            each.join(30)
        assert sorted(made) == [0, 0, 0, 6]

    def test_row_level_security_is_forced_on_every_one_of_them(self, application: Engine, owner: Engine) -> None:
        with transaction(application, ALL_TENANTS) as connection:
            schema.make_partitions(connection, 14)
        with owner.connect() as connection:
            query = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = CAST(:name AS regclass)"
            for name in (*partitions(connection), *ROW_SECURED):
                assert connection.execute(text(query), {"name": name}).scalar_one(), name


FORBIDDEN = [
    "UPDATE entries SET change = 0",
    "DELETE FROM entries",
    "TRUNCATE entries",
    "DROP TABLE entries",
    "ALTER TABLE entries DISABLE ROW LEVEL SECURITY",
    "DROP POLICY a_tenant_sees_its_own ON entries",
    "ALTER TABLE entries DETACH PARTITION {child}",
    "SELECT * FROM {child}",
    "INSERT INTO {child} SELECT * FROM entries",
    "UPDATE {child} SET change = 0",
    "DELETE FROM {child}",
    "TRUNCATE {child}",
    "DROP TABLE {child}",
    "CREATE TABLE mine ()",
    "DELETE FROM balances",
    "DELETE FROM shards",
    "UPDATE catalogs SET version = 0",
    "UPDATE incidents SET kind = ''",
    "SET ROLE quotagate",
]


class TestTheApplicationsRole:
    def test_the_ledger_only_grows(self, application: Engine, owner: Engine) -> None:
        write(application, entry())
        with owner.connect() as connection:
            child = partitions(connection)[1]
        states = {}
        for statement in FORBIDDEN:
            with pytest.raises(DBAPIError) as refused, transaction(application, ALL_TENANTS) as connection:
                connection.execute(text(statement.format(child=child)))
            states[statement] = getattr(refused.value.orig, "sqlstate", None)
        insufficient_privilege = "42501"
        assert states == dict.fromkeys(FORBIDDEN, insufficient_privilege)
        with transaction(application, ALL_TENANTS) as connection:
            assert count(connection, "entries") == 1

    def test_an_entry_that_comes_twice_stands_there_once(self, application: Engine) -> None:
        assert [write(application, entry(0), entry(1)) for _ in range(2)] == [2, 0]
        assert write(application, entry(1), entry(2)) == 1
        with transaction(application, ALL_TENANTS) as connection:
            assert count(connection, "entries") == 3
            assert connection.execute(text("SELECT used, n FROM balances")).all() == [(3, 2)]


class TestScopes:
    @pytest.fixture(autouse=True)
    def _two_tenants(self, application: Engine) -> None:
        write(application, entry(0, "red"), entry(1, "blue"))
        with transaction(application, ALL_TENANTS) as connection:
            for tenant in ("red", "blue"):
                api_keys.ensure(connection, tenant, f"key-{tenant}", b"digest", ["read"])

    @pytest.mark.parametrize(("tenant", "seen"), [("red", ["red"]), ("blue", ["blue"]), ("green", [])])
    def test_a_tenant_sees_its_own_rows_alone(self, application: Engine, tenant: str, seen: list[str]) -> None:
        with transaction(application, tenant) as connection:
            for table in ("entries", "balances", "tenants", "api_keys"):
                assert connection.execute(text("SELECT tenant FROM " + table)).scalars().all() == seen, table

    def test_the_workers_scope_sees_all(self, application: Engine) -> None:
        with transaction(application, ALL_TENANTS) as connection:
            assert count(connection, "entries") == 2

    def test_without_a_scope_there_is_nothing_to_see_on_a_fresh_connection_nor_on_a_reused_one(
        self, application: Engine, database: Database
    ) -> None:
        fresh = create_engine(database.application_url, poolclass=NullPool)
        for engine in (fresh, application):
            with engine.begin() as connection:
                for table in ROW_SECURED:
                    assert count(connection, table) == 0, table

    def test_a_pooled_connection_forgets_its_scope_with_the_transaction(self, application: Engine) -> None:
        backends = set()
        query = text("SELECT pg_backend_pid(), current_setting('quotagate.tenant', true)")
        with transaction(application, "red") as connection:
            backends.add(connection.execute(query).one())
        with pytest.raises(ZeroDivisionError), transaction(application, "blue"):
            raise ZeroDivisionError
        with application.begin() as connection:
            backend, scope = connection.execute(query).one()
        assert backends == {(backend, "red")}
        assert scope in {None, ""}

    def test_nobody_writes_into_another_tenants_scope(self, application: Engine) -> None:
        refused = "new row violates row-level security policy"
        with pytest.raises(DBAPIError, match=refused), transaction(application, "red") as connection:
            entries.stage(connection, [entry(2, "blue")])
            entries.insert_staged(connection)
        with pytest.raises(DBAPIError, match=refused), transaction(application, "red") as connection:
            connection.execute(text("UPDATE balances SET tenant = 'blue'"))
        with transaction(application, "red") as connection:
            connection.execute(text("UPDATE balances SET used = 99"))
        with transaction(application, "blue") as connection:
            assert connection.execute(text("SELECT used FROM balances")).scalars().all() == [2 - 1]

    def test_the_owner_too_is_under_row_level_security(self, owner: Engine) -> None:
        """Forced, so that a deployment whose tables belong to an ordinary role keeps tenants apart there too."""
        with owner.begin() as connection:
            connection.execute(text("CREATE ROLE plain_owner; ALTER TABLE entries OWNER TO plain_owner"))
            connection.execute(text("GRANT USAGE ON SCHEMA public TO plain_owner; SET LOCAL ROLE plain_owner"))
            assert count(connection, "entries") == 0
            connection.rollback()


class TestShards:
    def test_a_drain_skips_what_another_one_holds_and_does_not_wait(self, database: Database) -> None:
        engine = connect(database.application_url, pool_size=2)
        with transaction(engine, ALL_TENANTS) as first, transaction(engine, ALL_TENANTS) as second:
            assert list(shards.lock(first, [1, 3])) == [1, 3]
            assert list(shards.lock(second, [0, 1, 2, 3])) == [0, 2]
            assert shards.lock(second, [3]) == {}
        with transaction(engine, ALL_TENANTS) as third:
            assert list(shards.lock(third, [3, 1])) == [1, 3]
        engine.dispose()

    def test_an_offset_takes_the_epoch_along_and_never_back(self, application: Engine) -> None:
        with transaction(application, ALL_TENANTS) as connection:
            shards.take_epoch(connection, 2, 5)
            shards.advance(connection, {2: Place(4, 17), 3: Place(6, 0)})
            assert shards.epochs_for_update(connection, [2, 3]) == {2: 5, 3: 6}
            offsets = shards.offsets(connection)
        assert (offsets[2], offsets[3], offsets[0], len(offsets)) == (Place(4, 17), Place(6, 0), Place(0, 0), SHARDS)

    def test_a_ledger_that_is_away_is_told_in_its_own_word(self, database: Database) -> None:
        away = make_url(database.application_url).set(port=1).render_as_string(hide_password=False)
        with pytest.raises(LedgerUnavailable), transaction(connect(away), ALL_TENANTS):
            raise AssertionError("there is no such server")


class TestApiKeys:
    def test_a_key_is_made_once_and_keeps_its_digest(self, application: Engine) -> None:
        with transaction(application, ALL_TENANTS) as connection:
            for digest in (b"one", b"two"):
                api_keys.ensure(connection, "t", "k", digest, ["read", "consume"])
            record = api_keys.living(connection, ["k", "no such key"])["k"]
            assert count(connection, "api_keys") == count(connection, "tenants") == 1
        assert (record.tenant, record.digest, record.expires_at_ms) == ("t", b"one", None)
        assert record.scopes == {"read", "consume"}

    def test_a_key_that_was_revoked_stays_revoked(self, application: Engine) -> None:
        with transaction(application, ALL_TENANTS) as connection:
            api_keys.ensure(connection, "t", "k", b"one", ["read"])
            connection.execute(text("UPDATE api_keys SET revoked_at = now()"))
            api_keys.ensure(connection, "t", "k", b"one", ["read"])
            assert api_keys.living(connection, ["k"]) == {}

    def test_many_gateways_that_start_at_once_make_one_key(self, database: Database) -> None:
        engine = connect(database.application_url, pool_size=4)
        together = threading.Barrier(4)
        failures: list[Exception] = []

        def start() -> None:
            together.wait(10)
            try:
                with transaction(engine, ALL_TENANTS) as connection:
                    api_keys.ensure(connection, "t", "k", b"one", ["read"])
            except Exception as error:
                failures.append(error)

        gateways = [threading.Thread(target=start) for _ in range(4)]
        for each in gateways:
            each.start()
        for each in gateways:
            each.join(30)
        assert failures == []
        with transaction(engine, ALL_TENANTS) as connection:
            assert count(connection, "api_keys") == 1
        engine.dispose()
