"""What changes terms becomes entries, a subscription's status may end by itself, and limits are overridden."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# Written with the change, taken away with the entry: what is here is not in the ledger yet.
NOTICES = """
CREATE TABLE notices (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    subject text NOT NULL,
    metric text NOT NULL,
    act_id bigint NOT NULL,
    kind text NOT NULL,
    amount bigint NOT NULL,
    detail text NOT NULL,
    about jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    next_try_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT a_notice_takes_nothing_away CHECK (amount >= 0)
);
CREATE INDEX notices_by_account ON notices (tenant, subject, metric, id);
CREATE INDEX notices_to_tell ON notices (next_try_at, id);
GRANT SELECT, INSERT, UPDATE, DELETE ON notices TO quotagate_app;
ALTER TABLE notices ENABLE ROW LEVEL SECURITY;
ALTER TABLE notices FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON notices
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""

OVERRIDES = """
CREATE TABLE overrides (
    tenant text NOT NULL,
    subject text NOT NULL,
    metric text NOT NULL,
    "limit" bigint,
    expires_at timestamptz,
    reason text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL,
    CONSTRAINT an_account_has_one_override PRIMARY KEY (tenant, subject, metric),
    CONSTRAINT an_override_is_no_debt CHECK ("limit" >= 0)
);
CREATE INDEX overrides_that_end ON overrides (expires_at, tenant, subject, metric) WHERE expires_at IS NOT NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON overrides TO quotagate_app;
ALTER TABLE overrides ENABLE ROW LEVEL SECURITY;
ALTER TABLE overrides FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON overrides
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""

# A gateway of the version before leaves all of these as they are.
COLUMNS = """
ALTER TABLE grants
    ADD COLUMN IF NOT EXISTS kind text NOT NULL DEFAULT 'grant',
    ADD COLUMN request_id text;
ALTER TABLE subscriptions
    ADD COLUMN status_until timestamptz,
    ADD COLUMN has_lapsed boolean NOT NULL DEFAULT false;
CREATE INDEX subscriptions_that_lapse ON subscriptions (status_until, tenant, subject)
    WHERE status_until IS NOT NULL AND NOT has_lapsed;
"""


def upgrade() -> None:
    op.execute(NOTICES)
    op.execute(OVERRIDES)
    op.execute(COLUMNS)
