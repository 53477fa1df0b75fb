"""The ledger's schema on a real PostgreSQL: migrations, partitions, and what keeps the application from starting."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text

from ledger import schema, tables
from ledger.store import ALL_TENANTS, connect, transaction
from quota.errors import LedgerUnavailable, Unsafe
from tests.conftest import SHARDS, Database

ROW_SECURED = [table.name for table in tables.metadata.sorted_tables if "tenant" in table.columns]
CONTENT = (
    "SELECT count(*), (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_policy), "
    "(SELECT string_agg(version_num, ',') FROM alembic_version) FROM shards"
)


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


class TestNewerSchemas:
    """A later version has migrated: revisions that this one cannot know."""

    @pytest.fixture
    def newer(self, owner: Engine) -> Iterator[Engine]:
        with owner.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9000'"))
        yield owner

    @pytest.mark.usefixtures("newer")
    def test_a_newer_schema_is_used_and_left_as_it_is(self, owner: Engine, application: Engine) -> None:
        schema.migrate(owner, SHARDS)
        with transaction(application, ALL_TENANTS) as connection:
            assert schema.complaints(connection) == []
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9000"

    def test_a_newer_schema_that_took_away_what_this_version_reads_is_refused(
        self, newer: Engine, application: Engine
    ) -> None:
        for since, refused in (("0001", False), ("8999", True)):
            with newer.begin() as connection:
                connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{schema.OLDEST}{since}'"))
            with transaction(application, ALL_TENANTS) as connection:
                found = schema.complaints(connection)
            assert [("revision 9000" in each, "use the version" in each) for each in found] == [(True, True)] * refused

    def test_a_migration_waits_for_a_table_that_is_in_use_and_lets_others_through(
        self, owner: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(schema, "LOCK_TIMEOUT_MS", 50)
        monkeypatch.setattr(schema, "LOCK_TRIES", 2)
        monkeypatch.setattr(schema, "PAUSE_S", 0.01)
        with owner.begin() as using:
            using.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(LedgerUnavailable, match="run it again"):
                schema.migrate(owner, SHARDS)
        schema.migrate(owner, SHARDS)
