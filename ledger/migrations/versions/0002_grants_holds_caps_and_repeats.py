"""Grants, holds, capped windows, refunds and repeats: what entries say of them, and the tables that follow from it."""

from alembic import op

revision = "0002"
down_revision = "0001"

# A refund looks for the seal of what it gives back, and for what was given back before: neither may read a history.
ENTRIES = """
ALTER TABLE entries
    ADD COLUMN detail text,
    ADD COLUMN parts text,
    ADD COLUMN caps text,
    ADD COLUMN attempt text,
    ADD COLUMN route text,
    ADD COLUMN actor text,
    ADD COLUMN is_late boolean NOT NULL DEFAULT false;
CREATE INDEX seals_by_account ON entries (tenant, subject, metric, epoch, n) WHERE kind = 'close' AND change = 0;
CREATE INDEX refunds_by_what_they_give_back ON entries (shard, detail) WHERE kind = 'refund';
"""

TABLES = """
CREATE TABLE cap_balances (
    tenant text NOT NULL,
    subject text NOT NULL,
    metric text NOT NULL,
    period_kind text NOT NULL,
    period_start timestamptz NOT NULL,
    used bigint NOT NULL,
    CONSTRAINT an_account_has_one_balance_a_capped_window
        PRIMARY KEY (tenant, subject, metric, period_kind, period_start)
);
CREATE TABLE grants (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    subject text NOT NULL,
    metric text NOT NULL,
    amount bigint NOT NULL,
    priority integer NOT NULL,
    expires_at timestamptz,
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    idempotency_key text,
    journalled boolean NOT NULL DEFAULT false,
    expiry_journalled boolean NOT NULL DEFAULT false,
    CONSTRAINT a_grant_takes_nothing_away CHECK (amount >= 0)
);
CREATE INDEX grants_by_account ON grants (tenant, subject, metric);
CREATE UNIQUE INDEX a_key_gives_one_grant ON grants (tenant, subject, idempotency_key);
CREATE TABLE grant_balances (
    grant_id bigint NOT NULL,
    tenant text NOT NULL,
    period_kind text NOT NULL,
    period_start timestamptz NOT NULL,
    used bigint NOT NULL,
    CONSTRAINT a_grant_has_one_balance_a_period PRIMARY KEY (grant_id, period_kind, period_start)
);
CREATE TABLE holds (
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    n bigint NOT NULL,
    tenant text NOT NULL,
    subject text NOT NULL,
    metric text NOT NULL,
    amount bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    parts text,
    caps text,
    period_kind text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz,
    plan text,
    "window" text NOT NULL,
    sealed text,
    settled_by text,
    settled_at timestamptz,
    CONSTRAINT a_hold_stands_where_its_entry_does PRIMARY KEY (shard, epoch, n),
    CONSTRAINT a_hold_is_settled_by_commit_release_or_expire CHECK (settled_by IN ('commit', 'release', 'expire'))
);
CREATE INDEX open_holds_by_account ON holds (tenant, subject, metric) WHERE settled_by IS NULL;
CREATE TABLE idempotency_keys (
    tenant text NOT NULL,
    subject text NOT NULL,
    route text NOT NULL,
    key text NOT NULL,
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    first_n bigint NOT NULL,
    receipt_count integer NOT NULL,
    kind text NOT NULL,
    occurred_at timestamptz NOT NULL,
    CONSTRAINT an_idempotency_key_names_one_receipt PRIMARY KEY (tenant, subject, route, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (occurred_at);
CREATE TABLE take_backs (
    tenant text NOT NULL,
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    first_n bigint NOT NULL,
    receipt_count integer NOT NULL,
    kind text NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz,
    CONSTRAINT a_receipt_is_taken_back_once PRIMARY KEY (shard, epoch, first_n)
);
CREATE INDEX take_backs_that_wait ON take_backs (created_at) WHERE done_at IS NULL;
"""

ROLE = """
GRANT SELECT, INSERT, UPDATE ON cap_balances, grants, grant_balances, holds TO quotagate_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys, take_backs TO quotagate_app;
"""

ROW_LEVEL_SECURITY = """
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY
        ARRAY['cap_balances', 'grants', 'grant_balances', 'holds', 'idempotency_keys', 'take_backs']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY a_tenant_sees_its_own ON %I '
            'USING (current_setting(''quotagate.tenant'', true) IN (tenant, ''*''))', name);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    for statements in (ENTRIES, TABLES, ROLE, ROW_LEVEL_SECURITY):
        op.execute(statements)
