"""Periods are sealed, what is left of them rolls over, grants are swept, and plans change at a period's end."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# One row is all that a reset did to one period of one account.
SEALED_PERIODS = """
CREATE TABLE sealed_periods (
    tenant text NOT NULL,
    subject text NOT NULL,
    metric text NOT NULL,
    period_kind text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    plan text,
    used bigint NOT NULL,
    stated bigint,
    entries bigint NOT NULL,
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    n bigint NOT NULL,
    closed_at timestamptz NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT now(),
    rolled_over bigint NOT NULL DEFAULT 0,
    rollover_grant bigint,
    CONSTRAINT a_period_is_sealed_once PRIMARY KEY (tenant, subject, metric, period_kind, period_start)
);
GRANT SELECT, INSERT ON sealed_periods TO quotagate_app;
ALTER TABLE sealed_periods ENABLE ROW LEVEL SECURITY;
ALTER TABLE sealed_periods FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON sealed_periods
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""

# What waits for a reset is found without reading what was done, nor all that ends at the same instant: each of these
# indexes holds only what is left, in the order in which it is taken.
WAITING = """
ALTER TABLE balances ADD COLUMN is_sealed boolean NOT NULL DEFAULT false;
CREATE INDEX balances_to_seal ON balances (period_end, tenant, subject, metric, period_kind, period_start)
    WHERE NOT is_sealed AND period_end IS NOT NULL;
ALTER TABLE grants ADD COLUMN is_swept boolean NOT NULL DEFAULT false;
CREATE INDEX grants_to_sweep ON grants (expires_at, id) WHERE NOT is_swept AND expires_at IS NOT NULL;
CREATE INDEX holds_to_sweep ON holds (expires_at) WHERE settled_by IS NULL;
ALTER TABLE subscriptions ADD COLUMN scheduled jsonb, ADD COLUMN scheduled_at timestamptz,
    ADD CONSTRAINT a_change_is_scheduled_for_an_instant CHECK ((scheduled IS NULL) = (scheduled_at IS NULL));
CREATE INDEX subscriptions_that_change ON subscriptions (scheduled_at, tenant, subject)
    WHERE scheduled_at IS NOT NULL;
"""


def upgrade() -> None:
    op.execute(SEALED_PERIODS)
    op.execute(WAITING)
