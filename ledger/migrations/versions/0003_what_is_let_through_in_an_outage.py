"""What is let through while the counters are away, until it is charged."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE outage_charges (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    subject text NOT NULL,
    document jsonb NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz,
    refusal text
);
CREATE INDEX outage_charges_that_wait ON outage_charges (kept_at, id) WHERE settled_at IS NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON outage_charges TO quotagate_app;
ALTER TABLE outage_charges ENABLE ROW LEVEL SECURITY;
ALTER TABLE outage_charges FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON outage_charges
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""


def upgrade() -> None:
    op.execute(TABLE)
