"""The tables of what an outage leaves to be done; with those of `ledger/tables.py` they are the whole schema."""

from sqlalchemy import BigInteger, Column, Index, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB

from ledger.columns import claims, instant, metadata, texts

# What was let through while the counters were away. A row stays when it was charged, so that this is seen.
outage_charges = Table(
    "outage_charges",
    metadata,
    Column("id", Uuid, primary_key=True),
    *texts("tenant", "subject"),
    Column("document", JSONB, nullable=False),
    instant("kept_at", now=True),
    instant("settled_at", nullable=True),
    Column("refusal", Text),
    *claims(),
    Index("outage_charges_that_wait", "next_try_at", postgresql_where=text("settled_at IS NULL")),
    Index("outage_charges_by_age", "settled_at"),
    Index("outage_charges_that_were_refused", "kept_at", postgresql_where=text("refusal IS NOT NULL")),
)

# Steps whose outcome nobody heard, until whatever they charged is taken back.
lost_replies = Table(
    "lost_replies",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    instant("noted_at", now=True),
    *claims(),
    Index("lost_replies_that_wait", "next_try_at"),
)
