"""Every administrative act is kept: who did what, from where, why, and how it was before and after."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ACTS = """
CREATE TABLE acts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    act text NOT NULL,
    actor text NOT NULL,
    origin text,
    request_id text,
    reason text,
    subject text,
    object text,
    before jsonb,
    after jsonb
);
CREATE INDEX acts_by_tenant ON acts (tenant, id);
CREATE INDEX acts_by_subject ON acts (tenant, subject, id) WHERE subject IS NOT NULL;
"""

PRIVILEGES = """
GRANT SELECT, INSERT ON acts TO quotagate_app;
ALTER TABLE acts ENABLE ROW LEVEL SECURITY;
ALTER TABLE acts FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON acts
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""


def upgrade() -> None:
    op.execute(ACTS)
    op.execute(PRIVILEGES)
