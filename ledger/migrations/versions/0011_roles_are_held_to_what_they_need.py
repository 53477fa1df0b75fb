"""Roles are held to what they need: what tells of all tenants is for whoever serves all, and nobody makes tables."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# They have no tenant, and their details name the subjects of all of them.
OF_EVERY_TENANT = """
ALTER TABLE incidents ENABLE ROW LEVEL SECURITY;
ALTER TABLE incidents FORCE ROW LEVEL SECURITY;
CREATE POLICY whoever_serves_all_sees_it ON incidents USING (current_setting('quotagate.tenant', true) = '*');
ALTER TABLE reconciliations ENABLE ROW LEVEL SECURITY;
ALTER TABLE reconciliations FORCE ROW LEVEL SECURITY;
CREATE POLICY whoever_serves_all_sees_it ON reconciliations USING (current_setting('quotagate.tenant', true) = '*');
"""

# Incidents are counted by the minute, however many of long ago there are.
INCIDENTS = "CREATE INDEX incidents_by_instant ON incidents (found_at, kind)"

# A database that was made before PostgreSQL 15 lets everybody make tables and functions in this schema.
SCHEMA = "REVOKE CREATE ON SCHEMA public FROM PUBLIC"

# Every name with its schema: a temporary table of a partition's name hid that the partition was missing.
PARTITIONS = """
CREATE OR REPLACE FUNCTION public.make_partitions(months_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
        IF to_regclass('public.' || name) IS NULL THEN
            EXECUTE format('CREATE TABLE public.%I PARTITION OF public.entries FOR VALUES FROM (%L) TO (%L)', name,
                month::text || '+00', (month + interval '1 month')::text || '+00');
            EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', name);
            EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', name);
            EXECUTE format('CREATE POLICY a_tenant_sees_its_own ON public.%I '
                'USING (current_setting(''quotagate.tenant'', true) IN (tenant, ''*''))', name);
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END $$;
"""


def upgrade() -> None:
    for statements in (OF_EVERY_TENANT, INCIDENTS, SCHEMA, PARTITIONS):
        op.execute(statements)
