"""The audit log's table, as the code sees it."""

from sqlalchemy import BigInteger, Column, Identity, Index, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB

from ledger.columns import instant, metadata, optional_texts, texts

acts = Table(
    "acts",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    instant("at", now=True),
    *texts("act", "actor"),
    *optional_texts("origin", "request_id", "reason", "subject", "object"),
    Column("before", JSONB),
    Column("after", JSONB),
    Index("acts_by_tenant", "tenant", "id"),
    Index("acts_by_subject", "tenant", "subject", "id", postgresql_where=text("subject IS NOT NULL")),
)
