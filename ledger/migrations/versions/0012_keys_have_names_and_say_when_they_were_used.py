"""Keys have names and makers, say when they were used last and which key they replace; and what one is, it stays."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Of keys that were made before nobody knows who made them, so none of it is asked for.
COLUMNS = """
ALTER TABLE api_keys
    ADD COLUMN name text,
    ADD COLUMN created_by text,
    ADD COLUMN last_used_at timestamptz,
    ADD COLUMN replaces text;
CREATE INDEX api_keys_by_tenant ON api_keys (tenant, created_at, id);
CREATE INDEX api_keys_by_what_they_replace ON api_keys (replaces) WHERE replaces IS NOT NULL;
"""

# A gateway of the version before changes nothing of a key. Whose it is, what it may and its digest change never: with
# the application's password nobody makes a key mightier, or another's his own.
PRIVILEGES = """
REVOKE UPDATE ON api_keys FROM quotagate_app;
GRANT UPDATE (expires_at, revoked_at, last_used_at) ON api_keys TO quotagate_app;
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(PRIVILEGES)
