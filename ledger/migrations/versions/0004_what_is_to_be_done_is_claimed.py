"""Replies that were lost are written down; and what is to be done later is claimed, each time for longer."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LOST_REPLIES = """
CREATE TABLE lost_replies (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    document jsonb NOT NULL,
    until_ms bigint NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now(),
    tries integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX lost_replies_that_wait ON lost_replies (next_try_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON lost_replies TO quotagate_app;
ALTER TABLE lost_replies ENABLE ROW LEVEL SECURITY;
ALTER TABLE lost_replies FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON lost_replies
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""

CLAIMS = """
ALTER TABLE outage_charges
    ADD COLUMN tries integer NOT NULL DEFAULT 0,
    ADD COLUMN next_try_at timestamptz NOT NULL DEFAULT now();
DROP INDEX outage_charges_that_wait;
CREATE INDEX outage_charges_that_wait ON outage_charges (next_try_at) WHERE settled_at IS NULL;
CREATE INDEX outage_charges_by_age ON outage_charges (settled_at);
CREATE INDEX outage_charges_that_were_refused ON outage_charges (kept_at) WHERE refusal IS NOT NULL;
ALTER TABLE take_backs
    ADD COLUMN tries integer NOT NULL DEFAULT 0,
    ADD COLUMN next_try_at timestamptz NOT NULL DEFAULT now();
DROP INDEX take_backs_that_wait;
CREATE INDEX take_backs_that_wait ON take_backs (next_try_at) WHERE done_at IS NULL;
"""

ENTRIES = "CREATE INDEX entries_by_instant ON entries USING brin (occurred_at) WITH (autosummarize = on)"


def upgrade() -> None:
    op.execute(LOST_REPLIES)
    op.execute(CLAIMS)
    op.execute(ENTRIES)
