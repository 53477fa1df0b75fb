"""Units of a subject's grants are given to another, once, whatever dies in between."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

GIFTS = """
CREATE TABLE gifts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant text NOT NULL,
    giver text NOT NULL,
    receiver text NOT NULL,
    metric text NOT NULL,
    amount bigint NOT NULL,
    reason text,
    actor text NOT NULL,
    origin text,
    request_id text,
    idempotency_key text,
    state text NOT NULL DEFAULT 'asked',
    refusal text,
    asked_at timestamptz NOT NULL,
    settled_at timestamptz,
    tries integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT a_gift_is_asked_taken_given_or_refused CHECK (state IN ('asked', 'taken', 'given', 'refused')),
    CONSTRAINT a_gift_has_units CHECK (amount > 0)
);
CREATE INDEX gifts_by_giver ON gifts (tenant, giver, metric, asked_at);
CREATE INDEX gifts_by_receiver ON gifts (tenant, receiver, metric, asked_at);
CREATE UNIQUE INDEX a_key_makes_one_gift ON gifts (tenant, giver, idempotency_key) WHERE state <> 'refused';
CREATE INDEX gifts_that_wait ON gifts (next_try_at) WHERE state IN ('asked', 'taken');
GRANT SELECT, INSERT, UPDATE ON gifts TO quotagate_app;
ALTER TABLE gifts ENABLE ROW LEVEL SECURITY;
ALTER TABLE gifts FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON gifts
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""

# What a grant is: one that was given by an operator, or units of another subject's.
KINDS = "ALTER TABLE grants ADD COLUMN IF NOT EXISTS kind text NOT NULL DEFAULT 'grant'"


def upgrade() -> None:
    op.execute(GIFTS)
    op.execute(KINDS)
