"""The tables as the code sees them. The migrations make them; a test compares the two."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()


def _instant(name: str, *, nullable: bool = False, now: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=func.now() if now else None)


tenants = Table("tenants", metadata, Column("tenant", Text, primary_key=True), _instant("created_at", now=True))

# One row: the name of this ledger. Every shard's head in Redis repeats it, so that no other Redis is drained into it.
store = Table(
    "store",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=func.gen_random_uuid()),
    Index("there_is_one_store", text("(true)"), unique=True),
)

# The offset of the drain lives here, so that it moves in the transaction that writes the entries.
shards = Table(
    "shards",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("offset_epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("offset_n", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("epoch >= 0 AND offset_epoch >= 0 AND offset_n >= 0", name="a_shard_only_counts_up_from_zero"),
)

# The key is the journal's own id; occurred_at is frozen in the entry, so an entry that comes twice is identical.
entries = Table(
    "entries",
    metadata,
    Column("shard", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    _instant("occurred_at"),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
    Column("used_after", BigInteger, nullable=False),
    Column("plan", Text),
    Column("period_kind", Text, nullable=False),
    _instant("period_start"),
    _instant("period_end", nullable=True),
    Column("receipt_first_n", BigInteger, nullable=False),
    Column("receipt_count", Integer, nullable=False),
    Column("request_id", Text),
    Column("idempotency_key", Text),
    Column("operation", Text),
    Column("reason", Text),
    Column("metadata", JSONB),
    PrimaryKeyConstraint("shard", "epoch", "n", "occurred_at", name="an_entry_stands_at_one_place"),
    CheckConstraint("used_after >= 0 AND amount >= 0", name="an_entry_counts_no_negative_units"),
    Index("entries_by_account", "tenant", "subject", "metric", "epoch", "n"),
    postgresql_partition_by="RANGE (occurred_at)",
)

balances = Table(
    "balances",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("period_kind", Text, nullable=False),
    _instant("period_start"),
    _instant("period_end", nullable=True),
    Column("plan", Text),
    Column("used", BigInteger, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    PrimaryKeyConstraint(
        "tenant", "subject", "metric", "period_kind", "period_start", name="an_account_has_one_balance_a_period"
    ),
)

catalogs = Table(
    "catalogs",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("document", JSONB, nullable=False),
    _instant("applied_at", now=True),
    Column("applied_by", Text, nullable=False),
    PrimaryKeyConstraint("tenant", "version", name="a_catalog_version_is_written_once"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("status", Text, nullable=False),
    _instant("anchor", nullable=True),
    Column("add_ons", JSONB, nullable=False, server_default=text("'{}'")),
    _instant("changed_at", now=True),
    Column("changed_by", Text, nullable=False),
    PrimaryKeyConstraint("tenant", "subject", name="a_subject_has_one_subscription"),
    CheckConstraint(
        "status IN ('active', 'trialing', 'past_due', 'canceled', 'paused')", name="a_subscription_has_a_known_status"
    ),
)

# What Postgres knows and Redis may not: written with the change, taken away once the shards were told.
announcements = Table(
    "announcements",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text),
    _instant("created_at", now=True),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    _instant("created_at", now=True),
    _instant("expires_at", nullable=True),
    _instant("revoked_at", nullable=True),
)

reconciliations = Table(
    "reconciliations",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), primary_key=True),
    _instant("started_at"),
    _instant("finished_at"),
    Column("accounts", BigInteger, nullable=False),
    Column("drifted", BigInteger, nullable=False),
    Column("corrected", BigInteger, nullable=False),
    Column("undrained_entries", BigInteger, nullable=False),
    Column("lag_ms", BigInteger, nullable=False),
    Column("incidents", BigInteger, nullable=False),
    Column("drifts", JSONB, nullable=False),
)

# What the drain found that ought not to be: a gap, an entry whose arithmetic is wrong, one that cannot be read.
incidents = Table(
    "incidents",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _instant("found_at", now=True),
    Column("shard", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("detail", JSONB, nullable=False),
)
