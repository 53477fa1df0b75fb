"""Old months are archived: what was in them is noted, and what they add up to is carried on."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ARCHIVES = """
CREATE TABLE archives (
    month date PRIMARY KEY,
    entries bigint NOT NULL,
    sha256 text NOT NULL,
    places jsonb NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT now(),
    archived_by text NOT NULL,
    CONSTRAINT a_month_is_archived_whole CHECK (extract(day FROM month) = 1)
);
GRANT SELECT ON archives TO quotagate_app;
"""

CARRIED = """
CREATE TABLE carried (
    month date NOT NULL,
    tenant text NOT NULL,
    subject text NOT NULL,
    metric text NOT NULL,
    what text NOT NULL,
    grant_id bigint NOT NULL DEFAULT 0,
    period_kind text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz,
    plan text,
    change bigint NOT NULL,
    entries bigint NOT NULL,
    used_after bigint,
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    n bigint NOT NULL,
    CONSTRAINT a_month_carries_one_sum_of_each
        PRIMARY KEY (tenant, subject, metric, what, grant_id, period_kind, period_start, month),
    CONSTRAINT what_is_carried_is_known CHECK (what IN ('period', 'cap', 'grant', 'told'))
);
GRANT SELECT ON carried TO quotagate_app;
ALTER TABLE carried ENABLE ROW LEVEL SECURITY;
ALTER TABLE carried FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON carried
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""


def upgrade() -> None:
    op.execute(ARCHIVES)
    op.execute(CARRIED)
