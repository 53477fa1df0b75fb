"""Makes the schema, and says in plain words why a database cannot be used as it is."""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import Connection, Engine, make_url, text

from ledger import privileges
from quota.errors import Unsafe

MIGRATION_LOCK = 7_261_001
"""Any number, always the same: two migrations at once wait for each other under it."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(owner: Engine, shard_count: int) -> None:
    """Brings the schema to the newest revision and writes the shards' rows, once. Unsafe if their number differs."""
    with owner.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
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
    other = other_revision(connection)
    found = privileges.complaints(connection) if other is None else [other]
    if not connection.execute(_partitions_reach_ahead).scalar_one():
        found.append(
            "the entries table has no partition for the coming month: run `quotagate migrate`, "
            "and `quotagate worker` and `quotagate scheduler`, which make them ahead of time"
        )
    return found


def other_revision(connection: Connection) -> str | None:
    """A sentence unless the schema is this version's."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return None
    return f"the schema is at revision {current}, and this version needs {head}: run `quotagate migrate`"


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


def clock_s(connection: Connection) -> float:
    """The server's clock, as a Unix time."""
    return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def make_partitions(connection: Connection, months_ahead: int = 12) -> int:
    """Makes the months' partitions that are missing; how many it made."""
    return int(connection.execute(text("SELECT make_partitions(:ahead)"), {"ahead": months_ahead}).scalar_one())
