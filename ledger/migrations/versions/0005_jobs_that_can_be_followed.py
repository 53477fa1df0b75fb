"""Jobs that people ask for: each a row that says how far it has come, so that another worker can take it up there."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JOBS = """
CREATE TABLE jobs (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant text NOT NULL,
    job text NOT NULL,
    arguments jsonb NOT NULL,
    state text NOT NULL DEFAULT 'queued',
    progress double precision NOT NULL DEFAULT 0,
    cursor jsonb,
    result jsonb,
    error text,
    requested_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    tries integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT a_job_is_in_a_known_state CHECK (state IN ('queued', 'running', 'done', 'failed')),
    CONSTRAINT a_job_makes_progress_from_0_to_1 CHECK (progress BETWEEN 0 AND 1)
);
CREATE INDEX jobs_that_wait ON jobs (next_try_at) WHERE finished_at IS NULL;
CREATE INDEX jobs_by_age ON jobs (finished_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON jobs TO quotagate_app;
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
CREATE POLICY a_tenant_sees_its_own ON jobs
    USING (current_setting('quotagate.tenant', true) IN (tenant, '*'));
"""


def upgrade() -> None:
    op.execute(JOBS)
