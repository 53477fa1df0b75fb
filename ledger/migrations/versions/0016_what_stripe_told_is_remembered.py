"""What Stripe told is remembered: each event for a while, and the newest of each subscription for ever."""

from alembic import op

revision = "0016"
down_revision = "0013"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE stripe_events (
    tenant text NOT NULL,
    id text NOT NULL,
    type text NOT NULL,
    subscription text NOT NULL,
    outcome text NOT NULL,
    created_s bigint NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT an_event_of_stripes_is_taken_once PRIMARY KEY (tenant, id)
);
CREATE INDEX stripe_events_by_age ON stripe_events (received_at);
CREATE TABLE stripe_subscriptions (
    tenant text NOT NULL,
    id text NOT NULL,
    subject text NOT NULL,
    event text NOT NULL,
    created_s bigint NOT NULL,
    state jsonb NOT NULL,
    heard jsonb NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT a_subscription_of_stripes_is_known_once PRIMARY KEY (tenant, id)
);
CREATE INDEX stripe_subscriptions_by_subject ON stripe_subscriptions (tenant, subject, created_s);
"""

PRIVILEGES = """
GRANT SELECT, INSERT, DELETE ON stripe_events TO quotagate_app;
GRANT SELECT, INSERT, UPDATE ON stripe_subscriptions TO quotagate_app;
ALTER TABLE stripe_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE stripe_events FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON stripe_events
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
ALTER TABLE stripe_subscriptions ENABLE ROW LEVEL SECURITY;
ALTER TABLE stripe_subscriptions FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON stripe_subscriptions
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(PRIVILEGES)
