"""Entries are chained, so that a change to the past is found."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

LINKS = """
CREATE TABLE links (
    shard integer NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    ranges jsonb NOT NULL,
    instants bigint[],
    digests bytea NOT NULL,
    hash bytea NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT a_shard_has_one_chain PRIMARY KEY (shard, seq),
    CONSTRAINT a_link_is_a_run_or_a_fork CHECK (kind IN ('run', 'fork'))
);
GRANT SELECT, INSERT ON links TO quotagate_app;
"""


def upgrade() -> None:
    op.execute(LINKS)
