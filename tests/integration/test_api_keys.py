"""Keys in the ledger: made, listed, revoked, replaced, and noted as used; on a real PostgreSQL."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from ledger import api_keys, tenants
from ledger.acts import By
from ledger.api_keys import ListedKey, NewKey
from ledger.store import ALL_TENANTS, connect, transaction
from quota.errors import Conflict, TooMany, Unsafe
from quotagate.key_running import run_key_list
from tests.conftest import Database

HOUR_S = 3_600
BY = By("cli")
SOON_MS = int(datetime.now(UTC).timestamp() * 1000) + 3_600_000


def new(key_id: str, tenant: str = "t", *scopes: str, expires_at_ms: int | None = None) -> NewKey:
    return NewKey(key_id, tenant, key_id.encode(), scopes or ("admin",), f"name of {key_id}", expires_at_ms)


def make(engine: Engine, *keys: NewKey) -> list[ListedKey]:
    with transaction(engine, ALL_TENANTS) as connection:
        for each in keys:
            tenants.ensure(connection, each.tenant, BY)
        return [api_keys.add(connection, each, BY) for each in keys]


def read(engine: Engine, key_id: str) -> ListedKey:
    with transaction(engine, ALL_TENANTS) as connection:
        found = api_keys.read(connection, key_id)
    assert found is not None
    return found


class TestList:
    def test_it_pages_through_a_tenants_keys_in_the_order_they_were_made_and_through_nobody_elses(
        self, application: Engine
    ) -> None:
        for each in ("k3", "k1", "k2"):
            make(application, new(each), new(f"other-{each}", "u"))
        seen: list[str] = []
        with transaction(application, "t") as connection:
            while page := api_keys.page_after(connection, "t", seen[-1] if seen else None, 2):
                seen += [each.id for each in page]
            assert seen == ["k3", "k1", "k2"]
            assert api_keys.page_after(connection, "t", "other-k1", 2) is None

    def test_the_newest_are_the_last_and_those_that_do_not_live_are_left_out_where_that_is_asked(
        self, application: Engine, owner: Engine
    ) -> None:
        make(application, *(new(f"k{number}") for number in range(4)))
        with owner.begin() as connection:
            connection.execute(text("SELECT set_config('quotagate.tenant', '*', true)"))
            connection.execute(text("UPDATE api_keys SET created_at = now() + (right(id, 1) || ' s')::interval"))
            connection.execute(text("UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE id = 'k2'"))
        with transaction(application, ALL_TENANTS) as connection:
            api_keys.revoke(connection, "t", "k0", BY, keeps_an_admin=True)
            newest = api_keys.newest(connection, None, 3, is_living=False)
            living = api_keys.newest(connection, "t", 3, is_living=True)
            (tenant,) = tenants.listed(connection, None, 10)
            assert tenants.listed(connection, "t", 10) == []
        assert [each.id for each in newest] == ["k1", "k2", "k3"]
        assert [each.id for each in living] == ["k1", "k3"]
        assert (tenant.name, tenant.living_keys) == ("t", 2)

    def test_a_tenant_is_made_once(self, application: Engine) -> None:
        with transaction(application, "t") as connection:
            assert [tenants.ensure(connection, "t", BY) for _ in range(2)] == [True, False]

    def test_a_tenant_has_no_more_than_so_many_that_live(
        self, application: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_keys, "MAX_LIVING_KEYS", 2)
        make(application, new("k1"), new("k2"), new("other", "u"))
        with pytest.raises(TooMany, match="revoke those that nobody uses"):
            make(application, new("k3"))
        with transaction(application, "t") as connection:
            api_keys.revoke(connection, "t", "k1", BY, keeps_an_admin=True)
        make(application, new("k3"))


class TestRevoke:
    def test_it_is_for_ever_and_a_second_time_changes_nothing(self, application: Engine) -> None:
        make(application, new("k1"), new("k2"))
        for _ in range(2):
            with transaction(application, "t") as connection:
                assert api_keys.revoke(connection, "t", "k1", BY, keeps_an_admin=True) is not None
                assert set(api_keys.living(connection, ["k1", "k2"])) == {"k2"}
        first = read(application, "k1").revoked_at_ms
        with transaction(application, "t") as connection:
            api_keys.revoke(connection, "t", "k1", BY, keeps_an_admin=True)
        assert read(application, "k1").revoked_at_ms == first is not None

    @pytest.mark.parametrize("scope", ["u", ALL_TENANTS])
    def test_another_tenants_key_is_not_there(self, application: Engine, scope: str) -> None:
        make(application, new("k1"), new("other", "u"))
        with transaction(application, scope) as connection:
            assert api_keys.revoke(connection, "u", "k1", BY, keeps_an_admin=False) is None
        assert read(application, "k1").revoked_at_ms is None

    def test_the_last_key_that_can_make_others_stays_but_for_the_operator(self, application: Engine) -> None:
        make(application, new("a1"), new("a2"), new("reader", "t", "read"), new("other", "u"))
        with transaction(application, "t") as connection:
            api_keys.revoke(connection, "t", "a1", BY, keeps_an_admin=True)
        with pytest.raises(Conflict, match="last key with the scope admin"), transaction(application, "t") as own:
            api_keys.revoke(own, "t", "a2", BY, keeps_an_admin=True)
        with transaction(application, "t") as connection:
            api_keys.revoke(connection, "t", "reader", BY, keeps_an_admin=True)
            api_keys.revoke(connection, "t", "a2", BY, keeps_an_admin=False)
            assert api_keys.living_admins(connection, "t") == set()

    def test_two_keys_that_revoke_each_other_leave_one(self, database: Database, application: Engine) -> None:
        make(application, new("a1"), new("a2"))
        outcomes: list[bool] = []

        def revoking(key_id: str) -> Callable[[], None]:
            def run() -> None:
                engine = connect(database.application_url, pool_size=1)
                together.wait(10)
                try:
                    with transaction(engine, "t") as connection:
                        api_keys.revoke(connection, "t", key_id, BY, keeps_an_admin=True)
                    outcomes.append(True)
                except Conflict:
                    outcomes.append(False)
                engine.dispose()

            return run

        together = threading.Barrier(2)
        both = [threading.Thread(target=revoking(key_id)) for key_id in ("a1", "a2")]
        for each in both:
            each.start()
        for each in both:
            each.join(30)
        assert sorted(outcomes) == [False, True]


class TestRotate:
    def rotated(self, engine: Engine, old: str, name: str, grace_s: int = HOUR_S) -> tuple[ListedKey, ListedKey]:
        with transaction(engine, ALL_TENANTS) as connection:
            found = api_keys.read(connection, old)
            assert found is not None
            return api_keys.rotate(connection, found, new(name), BY, grace_s)

    def test_both_live_until_the_grace_is_over(self, application: Engine) -> None:
        make(application, new("k1"))
        before = datetime.now(UTC)
        made, old = self.rotated(application, "k1", "k2")
        assert (made.replaces, made.expires_at_ms, old.id) == ("k1", None, "k1")
        assert old.expires_at_ms is not None
        over = datetime.fromtimestamp(old.expires_at_ms / 1000, UTC) - before
        assert timedelta(seconds=HOUR_S - 5) < over < timedelta(seconds=HOUR_S + 60)

    def test_a_grace_prolongs_nothing(self, application: Engine) -> None:
        make(application, new("k1", expires_at_ms=SOON_MS + HOUR_S))
        _, old = self.rotated(application, "k1", "k2", 48 * HOUR_S)
        assert old.expires_at_ms == SOON_MS + HOUR_S

    def test_it_is_refused_twice_and_where_the_old_one_does_not_live(self, application: Engine) -> None:
        make(application, new("k1"))
        self.rotated(application, "k1", "k2")
        with pytest.raises(Conflict, match="replaced by k2 already"):
            self.rotated(application, "k1", "k3")
        with transaction(application, "t") as connection:
            api_keys.revoke(connection, "t", "k2", BY, keeps_an_admin=False)
        self.rotated(application, "k1", "k4", 0)
        with pytest.raises(Conflict, match="revoked or has expired"):
            self.rotated(application, "k1", "k5")


class TestUses:
    def test_they_are_noted_in_one_statement_and_never_go_back(self, application: Engine) -> None:
        make(application, new("k1"), new("k2"), new("k3"))
        for used in ({"k1": 5_000, "k2": 9_000}, {"k1": 4_000, "k2": 10_000, "nobody": 1}, {}):
            with transaction(application, ALL_TENANTS) as connection:
                api_keys.note_uses(connection, used)
        assert [read(application, each).last_used_at_ms for each in ("k1", "k2", "k3")] == [5_000, 10_000, None]

    def test_nobody_waits_for_another_gateway_that_notes_the_same(
        self, database: Database, application: Engine
    ) -> None:
        make(application, new("k1"), new("k2"))
        other = connect(database.application_url, pool_size=1)
        with transaction(application, ALL_TENANTS) as first:
            api_keys.note_uses(first, {"k1": 1_000})
            with transaction(other, ALL_TENANTS) as second:
                second.execute(text("SET LOCAL lock_timeout = '1 s'"))
                api_keys.note_uses(second, {"k1": 2_000, "k2": 2_000})
        other.dispose()
        assert [read(application, each).last_used_at_ms for each in ("k1", "k2")] == [1_000, 2_000]


@pytest.mark.parametrize(
    "change", ["digest = 'x'", "scopes = '{ops}'", "tenant = 'u'", "id = 'k9'", "name = 'x'", "created_by = 'x'"]
)
def test_the_application_cannot_make_a_key_mightier_or_anothers(application: Engine, change: str) -> None:
    make(application, new("k1"))
    with pytest.raises(DBAPIError) as told, transaction(application, ALL_TENANTS) as connection:
        connection.execute(text("UPDATE api_keys SET " + change))
    assert getattr(told.value.orig, "sqlstate", None) == "42501"


def test_a_command_on_an_older_schema_says_what_to_do(database: Database, owner: Engine, tmp_path: Path) -> None:
    with owner.begin() as connection:
        connection.execute(text("ALTER TABLE api_keys DROP COLUMN replaces"))
    with pytest.raises(Unsafe, match="run `quotagate migrate`"):
        environment = {"QUOTAGATE_DATABASE_URL": database.application_url}
        run_key_list(environment, tmp_path, None, 10, is_all=True, as_json=True)
