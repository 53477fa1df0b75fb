"""What reconciliations found is kept for a while: what was missing, why a run corrected nothing, and until when."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

RECONCILIATIONS = """
ALTER TABLE reconciliations
    ADD COLUMN missing bigint NOT NULL DEFAULT 0,
    ADD COLUMN refusal text;
GRANT DELETE ON reconciliations TO quotagate_app;
"""


def upgrade() -> None:
    op.execute(RECONCILIATIONS)
