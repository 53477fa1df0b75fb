"""Makes the schema, and says in plain words why a database cannot be used as it is."""

import time
from pathlib import Path
from typing import NamedTuple

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import OperationalError

from ledger import privileges
from quota.errors import LedgerUnavailable, Unsafe

LOCK_TIMEOUT_MS = 2_000
"""Whoever uses a table meanwhile waits behind a migration that waits for it, no longer than this: less than the 5 s
that a gateway waits for Postgres."""
LOCK_TRIES = 30
PAUSE_S = 0.5
"""Between two tries, so that those who waited have their turn."""
LOCK_NOT_AVAILABLE = "55P03"
OLDEST = "may be used by versions from revision "
MIGRATION_LOCK = 7_261_001
"""Any number, always the same: two migrations at once wait for each other under it."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(owner: Engine, shard_count: int) -> None:
    """Brings the schema to the newest revision and writes the shards' rows, once; one that is newer than this version
    knows stays as it is. Unsafe if the shards' number differs, LedgerUnavailable if tables are never free."""
    for _ in range(LOCK_TRIES):
        try:
            return _migrate(owner, shard_count)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            time.sleep(PAUSE_S)
    raise LedgerUnavailable("others use the ledger's tables without a pause, and nothing was migrated: run it again")


def _migrate(owner: Engine, shard_count: int) -> None:
    with owner.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        connection.execute(text("SELECT set_config('lock_timeout', :most, true)"), {"most": f"{LOCK_TIMEOUT_MS}ms"})
        current = MigrationContext.configure(connection).get_current_revision()
        if current is None or not is_newer(current):
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            _say_who_may_use_it(connection)
        made = connection.execute(text("SELECT count(*) FROM shards")).scalar_one()
        if made == 0:
            connection.execute(
                text("INSERT INTO shards (shard) SELECT generate_series(0, :last)"), {"last": shard_count - 1}
            )
        elif made != shard_count:
            raise Unsafe(
                f"this store was initialised with {made} shards and cannot be opened with {shard_count}: "
                f"set QUOTAGATE_SHARDS={made}"
            )


def _say_who_may_use_it(connection: Connection) -> None:
    """Notes the oldest version that finds all that it reads, for those that cannot know this revision."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    unread_since = [getattr(each.module, "unread_since", "") for each in scripts]
    connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{OLDEST}{max(unread_since)}'"))


def make_application_login(owner_url: str, application_url: str) -> None:
    """Makes the login of the application's URL, a member of quotagate_app and nothing else; or sets its password."""
    url = make_url(application_url)
    if not url.username or not url.password:
        raise Unsafe("QUOTAGATE_DATABASE_URL must name a user and a password, so that migrate can make that login")
    with psycopg.connect(owner_url.replace("+psycopg", "", 1)) as connection:
        # Hashed here, so that the password itself is never in a statement that a server may log.
        secret = connection.pgconn.encrypt_password(
            str(url.password).encode(), url.username.encode(), b"scram-sha-256"
        ).decode()
        name = sql.Identifier(url.username)
        known = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [url.username]).fetchone()
        if known is None:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        elif known[0] or connection.info.user == url.username:
            raise Unsafe(
                f"QUOTAGATE_DATABASE_URL logs in as {url.username}, who may do anything with the ledger; name another "
                "user there (migrate makes it), and keep this one for QUOTAGATE_OWNER_DATABASE_URL"
            )
        connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(secret)))
        connection.execute(sql.SQL("GRANT quotagate_app TO {}").format(name))


def complaints(connection: Connection) -> list[str]:
    """Why the application should not start on this connection, a sentence each; empty if it may."""
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
        return ["the database has no tables yet: run `quotagate migrate`"]
    role, reads = connection.execute(_reader).one()
    if not reads:
        return [
            f"the role {role} may not read the ledger: run `quotagate migrate`, which makes the login of "
            "QUOTAGATE_DATABASE_URL"
        ]
    unusable = unusable_revision(connection)
    found = privileges.complaints(connection) if unusable is None else [unusable]
    if not connection.execute(_partitions_reach_ahead).scalar_one():
        found.append(
            "the entries table has no partition for the coming month: run `quotagate migrate`, "
            "and `quotagate worker` and `quotagate scheduler`, which make them ahead of time"
        )
    return found


def other_revision(connection: Connection) -> str | None:
    """A sentence unless the schema is this very version's."""
    head, current = _head(), MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return None
    if current is not None and is_newer(current):
        return f"the schema is at revision {current}, and this version knows {head}: use the version that migrated it"
    return f"the schema is at revision {current}, and this version needs {head}: run `quotagate migrate`"


def unusable_revision(connection: Connection) -> str | None:
    """A sentence unless this version finds all that it reads: in its own schema, or in a newer one, because migrations
    only add before they take away. So an older gateway serves, and may be started again, beside a newer one."""
    other, current = other_revision(connection), MigrationContext.configure(connection).get_current_revision()
    if other is None or current is None or not is_newer(current):
        return other
    oldest = (connection.execute(_said_of_it).scalar_one() or "").removeprefix(OLDEST)
    return None if oldest <= _head() else other


def is_newer(revision: str) -> bool:
    """Whether a later version than this one has made it. Revisions are numbers of four digits."""
    return revision > _head()


def _head() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None, "there are migrations"
    return head


_said_of_it = text("SELECT obj_description(CAST(to_regclass('alembic_version') AS oid), 'pg_class')")


_reader = text(
    "SELECT current_user, has_table_privilege('entries', 'SELECT') AND has_table_privilege('alembic_version', 'SELECT')"
)

_partitions_reach_ahead = text(
    """
    SELECT bool_and(to_regclass('entries_' || to_char((now() AT TIME ZONE 'UTC') + ahead, 'YYYY_MM')) IS NOT NULL)
    FROM unnest(ARRAY[interval '0', interval '1 month']) AS months (ahead)
    """
)


SHOWN = ("archive_mode", "fsync", "full_page_writes", "synchronous_commit")
_shown = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")


def settings_shown(connection: Connection) -> dict[str, str]:
    """The server's settings on which it depends whether what is committed is kept, as they hold on this connection."""
    return {row.name: row.setting for row in connection.execute(_shown, {"names": list(SHOWN)})}


class Archived(NamedTuple):
    """How long ago the server last archived a file of its log, and last failed to; None: never."""

    done_s: float | None
    failed_s: float | None


_archived = text(
    """
    SELECT extract(epoch FROM now() - last_archived_time) AS done_s,
           extract(epoch FROM now() - last_failed_time) AS failed_s
    FROM pg_stat_archiver
    """
)


def archived(connection: Connection) -> Archived:
    """What the server knows of its archive. Of base backups it knows nothing."""
    row = connection.execute(_archived).one()
    return Archived(*(None if each is None else float(each) for each in row))


def clock_s(connection: Connection) -> float:
    """The server's clock, as a Unix time."""
    return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def make_partitions(connection: Connection, months_ahead: int = 12) -> int:
    """Makes the months' partitions that are missing; how many it made."""
    return int(connection.execute(text("SELECT make_partitions(:ahead)"), {"ahead": months_ahead}).scalar_one())
