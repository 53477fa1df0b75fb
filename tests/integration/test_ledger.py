"""The ledger on a real PostgreSQL: who may do what with it, and who sees what."""

import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from ledger import api_keys, entries, shards, staging, tables
from ledger.store import ALL_TENANTS, connect, transaction
from quota.errors import LedgerUnavailable
from quota.formats import LIFETIME
from quota.journal import NO_ABOUT, Entry, Place
from quota.keys import AccountName
from tests.conftest import SHARDS, Database

NOW_MS = int(datetime.now(UTC).timestamp() * 1000)
ROW_SECURED = [table.name for table in tables.metadata.sorted_tables if "tenant" in table.columns]


def entry(n: int = 0, tenant: str = "t", *, shard: int = 0) -> Entry:
    account = AccountName(tenant, "u", "m")
    return Entry(shard, Place(1, n), NOW_MS, "consume", 1, 1, n + 1, n, 1, None, (), (), account, LIFETIME, NO_ABOUT)


def write(engine: Engine, *batch: Entry) -> int:
    with transaction(engine, ALL_TENANTS) as connection:
        staging.stage(connection, batch)
        return entries.book(connection, batch, 60)


def count(connection: Connection, table: str) -> int:
    return int(connection.execute(text("SELECT count(*) FROM " + table)).scalar_one())


def partitions(connection: Connection) -> list[str]:
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'entries'::regclass ORDER BY 1"
    return list(connection.execute(text(query)).scalars())


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
    "DELETE FROM cap_balances",
    "DELETE FROM grants",
    "DELETE FROM grant_balances",
    "DELETE FROM holds",
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
            batch = [entry(2, "blue")]
            staging.stage(connection, batch)
            entries.book(connection, batch, 60)
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
            assert shards.standings(connection, [2, 3]) == {2: (5, Place(4, 17)), 3: (6, Place(6, 0))}
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
