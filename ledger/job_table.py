"""The table of jobs; with those of `ledger/tables.py` it is the whole schema."""

from sqlalchemy import CheckConstraint, Column, Double, Index, Table, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import JSONB

from ledger.columns import claims, instant, metadata, optional_texts, texts

# What people asked for and can follow. The tenant is that of the key that asked; at `cursor` the next step begins.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=func.gen_random_uuid()),
    *texts("tenant", "job"),
    Column("arguments", JSONB, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'queued'")),
    Column("progress", Double, nullable=False, server_default=text("0")),
    Column("cursor", JSONB),
    Column("result", JSONB),
    *optional_texts("error"),
    *texts("requested_by"),
    instant("created_at", now=True),
    instant("started_at", nullable=True),
    instant("finished_at", nullable=True),
    *claims(),
    CheckConstraint("state IN ('queued', 'running', 'done', 'failed')", name="a_job_is_in_a_known_state"),
    CheckConstraint("progress BETWEEN 0 AND 1", name="a_job_makes_progress_from_0_to_1"),
    Index("jobs_that_wait", "next_try_at", postgresql_where=text("finished_at IS NULL")),
    Index("jobs_by_age", "finished_at"),
)
