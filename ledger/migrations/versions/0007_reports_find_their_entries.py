"""Reports find their entries: a tenant's in the order of their instants, and those that were booked late."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Without the first, a page of a tenant's entries reads whole months; without the second, the adjustments of a sealed
# period are looked for among all that its account did since. Few entries are late, so that one costs others nothing.
ENTRIES = """
CREATE INDEX entries_by_tenant ON entries (tenant, occurred_at, shard, epoch, n);
CREATE INDEX late_entries_by_account ON entries (tenant, subject, metric, epoch, n) WHERE is_late;
"""


def upgrade() -> None:
    op.execute(ENTRIES)
