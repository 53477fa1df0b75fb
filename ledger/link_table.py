"""The table of links (ledger/chain.py); with those of `ledger/tables.py` it is the whole schema."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from ledger.columns import instant, metadata

# `ranges` are epoch, first and last n of neighbours; `instants` only of a fork, microseconds entry by entry.
links = Table(
    "links",
    metadata,
    Column("shard", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("ranges", JSONB, nullable=False),
    Column("instants", ARRAY(BigInteger)),
    Column("digests", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    instant("made_at", now=True),
    PrimaryKeyConstraint("shard", "seq", name="a_shard_has_one_chain"),
    CheckConstraint("kind IN ('run', 'fork')", name="a_link_is_a_run_or_a_fork"),
)
