"""The ledger and what it is read with: tables, the application's role, row-level security, partitions."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE tenants (
    tenant text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE store (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid()
);
CREATE UNIQUE INDEX there_is_one_store ON store ((true));
INSERT INTO store DEFAULT VALUES;
CREATE TABLE shards (
    shard integer PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    offset_epoch bigint NOT NULL DEFAULT 0,
    offset_n bigint NOT NULL DEFAULT 0,
    CONSTRAINT a_shard_only_counts_up_from_zero CHECK (epoch >= 0 AND offset_epoch >= 0 AND offset_n >= 0)
);
CREATE TABLE entries (
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    n bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    tenant text NOT NULL,
    subject text NOT NULL,
    metric text NOT NULL,
    kind text NOT NULL,
    amount bigint NOT NULL,
    change bigint NOT NULL,
    used_after bigint NOT NULL,
    plan text,
    period_kind text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz,
    receipt_first_n bigint NOT NULL,
    receipt_count integer NOT NULL,
    request_id text,
    idempotency_key text,
    operation text,
    reason text,
    metadata jsonb,
    CONSTRAINT an_entry_stands_at_one_place PRIMARY KEY (shard, epoch, n, occurred_at),
    CONSTRAINT an_entry_counts_no_negative_units CHECK (used_after >= 0 AND amount >= 0)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX entries_by_account ON entries (tenant, subject, metric, epoch, n);
CREATE TABLE balances (
    tenant text NOT NULL,
    subject text NOT NULL,
    metric text NOT NULL,
    period_kind text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz,
    plan text,
    used bigint NOT NULL,
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    n bigint NOT NULL,
    CONSTRAINT an_account_has_one_balance_a_period PRIMARY KEY (tenant, subject, metric, period_kind, period_start)
);
CREATE TABLE catalogs (
    tenant text NOT NULL,
    version bigint NOT NULL,
    document jsonb NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    applied_by text NOT NULL,
    CONSTRAINT a_catalog_version_is_written_once PRIMARY KEY (tenant, version)
);
CREATE TABLE subscriptions (
    tenant text NOT NULL,
    subject text NOT NULL,
    plan text NOT NULL,
    status text NOT NULL,
    anchor timestamptz,
    add_ons jsonb NOT NULL DEFAULT '{}',
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL,
    CONSTRAINT a_subject_has_one_subscription PRIMARY KEY (tenant, subject),
    CONSTRAINT a_subscription_has_a_known_status
        CHECK (status IN ('active', 'trialing', 'past_due', 'canceled', 'paused'))
);
CREATE TABLE announcements (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    subject text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE api_keys (
    id text PRIMARY KEY,
    tenant text NOT NULL,
    digest bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE TABLE reconciliations (
    run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    accounts bigint NOT NULL,
    drifted bigint NOT NULL,
    corrected bigint NOT NULL,
    undrained_entries bigint NOT NULL,
    lag_ms bigint NOT NULL,
    incidents bigint NOT NULL,
    drifts jsonb NOT NULL
);
CREATE TABLE incidents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    found_at timestamptz NOT NULL DEFAULT now(),
    shard integer NOT NULL,
    kind text NOT NULL,
    detail jsonb NOT NULL
);
"""

# A role is the whole server's, so another database may have made it already.
ROLE = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'quotagate_app') THEN
        CREATE ROLE quotagate_app NOLOGIN;
    END IF;
END $$;
GRANT USAGE ON SCHEMA public TO quotagate_app;
GRANT SELECT, INSERT ON tenants, entries, catalogs, reconciliations, incidents TO quotagate_app;
GRANT SELECT, INSERT, UPDATE ON balances, subscriptions, api_keys TO quotagate_app;
GRANT SELECT, INSERT, DELETE ON announcements TO quotagate_app;
GRANT SELECT, UPDATE ON shards TO quotagate_app;
GRANT SELECT ON alembic_version, store TO quotagate_app;
"""

# '*' cannot be a tenant's name: it is the scope of the workers, who move every tenant's entries.
ROW_LEVEL_SECURITY = """
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY
        ARRAY['tenants', 'entries', 'balances', 'catalogs', 'subscriptions', 'announcements', 'api_keys']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY a_tenant_sees_its_own ON %I '
            'USING (current_setting(''quotagate.tenant'', true) IN (tenant, ''*''))', name);
    END LOOP;
END $$;
"""

# Owned by the owner and callable by the application, so that a job can make partitions without owning the table.
PARTITIONS = """
CREATE FUNCTION make_partitions(months_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month';
    name text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('quotagate.make_partitions'));
    IF months_ahead NOT BETWEEN 0 AND 60 THEN
        RAISE EXCEPTION 'months_ahead must be from 0 to 60, not %', months_ahead;
    END IF;
    FOR ahead IN -1..months_ahead LOOP
        name := 'entries_' || to_char(month, 'YYYY_MM');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF entries FOR VALUES FROM (%L) TO (%L)', name,
                month::text || '+00', (month + interval '1 month')::text || '+00');
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
            EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
            EXECUTE format('CREATE POLICY a_tenant_sees_its_own ON %I '
                'USING (current_setting(''quotagate.tenant'', true) IN (tenant, ''*''))', name);
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END $$;
REVOKE ALL ON FUNCTION make_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_partitions TO quotagate_app;
SELECT make_partitions(12);
"""


def upgrade() -> None:
    for statements in (TABLES, ROLE, ROW_LEVEL_SECURITY, PARTITIONS):
        op.execute(statements)
