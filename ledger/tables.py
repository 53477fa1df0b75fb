"""The tables as the code sees them. The migrations make them; a test compares the two."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from ledger import act_table, archive_tables, columns, job_table, link_table, outage_tables, sealed_table, stripe_tables  # noqa: F401 - as well
from ledger.columns import account, claims, instant, numbers, optional_texts, period, place, texts

metadata = columns.metadata

tenants = Table("tenants", metadata, Column("tenant", Text, primary_key=True), instant("created_at", now=True))

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
# `detail`, `parts` and `caps` are texts as in the journal. A late entry was booked into a period that is over.
entries = Table(
    "entries",
    metadata,
    *place(),
    instant("occurred_at"),
    *account(),
    Column("kind", Text, nullable=False),
    *numbers("amount", "change", "used_after"),
    Column("plan", Text),
    *period(),
    instant("period_end", nullable=True),
    Column("receipt_first_n", BigInteger, nullable=False),
    Column("receipt_count", Integer, nullable=False),
    *optional_texts("request_id", "idempotency_key", "operation", "reason"),
    Column("metadata", JSONB),
    *optional_texts("detail", "parts", "caps", "attempt", "route", "actor"),
    Column("is_late", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("shard", "epoch", "n", "occurred_at", name="an_entry_stands_at_one_place"),
    CheckConstraint("used_after >= 0 AND amount >= 0", name="an_entry_counts_no_negative_units"),
    Index("entries_by_account", "tenant", "subject", "metric", "epoch", "n"),
    Index("entries_by_tenant", "tenant", "occurred_at", "shard", "epoch", "n"),
    Index(
        "late_entries_by_account",
        *("tenant", "subject", "metric", "epoch", "n"),
        postgresql_where=text("is_late"),
    ),
    # They come in about the order of their instants, so this is a few pages however many there are.
    Index("entries_by_instant", "occurred_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
    Index(
        "seals_by_account",
        *("tenant", "subject", "metric", "epoch", "n"),
        postgresql_where=text("kind = 'close' AND change = 0"),
    ),
    Index("refunds_by_what_they_give_back", "shard", "detail", postgresql_where=text("kind = 'refund'")),
    postgresql_partition_by="RANGE (occurred_at)",
)

balances = Table(
    "balances",
    metadata,
    *account(),
    *period(),
    instant("period_end", nullable=True),
    Column("plan", Text),
    Column("used", BigInteger, nullable=False),
    *place(),
    Column("is_sealed", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint(
        "tenant", "subject", "metric", "period_kind", "period_start", name="an_account_has_one_balance_a_period"
    ),
    Index(
        "balances_to_seal",
        *("period_end", "tenant", "subject", "metric", "period_kind", "period_start"),
        postgresql_where=text("NOT is_sealed AND period_end IS NOT NULL"),
    ),
)

# What the capped windows inside the periods have used up.
cap_balances = Table(
    "cap_balances",
    metadata,
    *account(),
    *period(),
    Column("used", BigInteger, nullable=False),
    PrimaryKeyConstraint(
        "tenant", "subject", "metric", "period_kind", "period_start", name="an_account_has_one_balance_a_capped_window"
    ),
)

# `journalled` once the journal's entry of it is here: Redis has heard of it. `expiry_journalled`: of its end, too.
# `is_swept`: the reset has seen to its end.
grants = Table(
    "grants",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    *account(),
    Column("amount", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    instant("expires_at", nullable=True),
    Column("reason", Text),
    instant("created_at", now=True),
    Column("created_by", Text, nullable=False),
    Column("idempotency_key", Text),
    Column("journalled", Boolean, nullable=False, server_default=false()),
    Column("expiry_journalled", Boolean, nullable=False, server_default=false()),
    Column("is_swept", Boolean, nullable=False, server_default=false()),
    CheckConstraint("amount >= 0", name="a_grant_takes_nothing_away"),
    Index("grants_by_account", "tenant", "subject", "metric"),
    Index("a_key_gives_one_grant", "tenant", "subject", "idempotency_key", unique=True),
    Index("grants_to_sweep", "expires_at", "id", postgresql_where=text("NOT is_swept AND expires_at IS NOT NULL")),
)

grant_balances = Table(
    "grant_balances",
    metadata,
    Column("grant_id", BigInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    *period(),
    Column("used", BigInteger, nullable=False),
    PrimaryKeyConstraint("grant_id", "period_kind", "period_start", name="a_grant_has_one_balance_a_period"),
)

# A hold's name is the place of its entry. `window` and `sealed` are the words of windows, as in the account's hash.
holds = Table(
    "holds",
    metadata,
    *place(),
    *account(),
    Column("amount", BigInteger, nullable=False),
    instant("expires_at"),
    Column("parts", Text),
    Column("caps", Text),
    *period(),
    instant("period_end", nullable=True),
    Column("plan", Text),
    Column("window", Text, nullable=False),
    *optional_texts("sealed", "settled_by"),
    instant("settled_at", nullable=True),
    PrimaryKeyConstraint("shard", "epoch", "n", name="a_hold_stands_where_its_entry_does"),
    CheckConstraint(
        "settled_by IN ('commit', 'release', 'expire')", name="a_hold_is_settled_by_commit_release_or_expire"
    ),
    Index("open_holds_by_account", "tenant", "subject", "metric", postgresql_where=text("settled_by IS NULL")),
    Index("holds_to_sweep", "expires_at", postgresql_where=text("settled_by IS NULL")),
)

# The receipt that each key was used for first, so that a repeat is found which Redis no longer knew.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    *texts("tenant", "subject", "route", "key"),
    Column("shard", Integer, nullable=False),
    *numbers("epoch", "first_n"),
    Column("receipt_count", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    instant("occurred_at"),
    PrimaryKeyConstraint("tenant", "subject", "route", "key", name="an_idempotency_key_names_one_receipt"),
    Index("idempotency_keys_by_age", "occurred_at"),
)

# Receipts whose charge must go back. A row stays when that is done, so that it is done once.
take_backs = Table(
    "take_backs",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("shard", Integer, nullable=False),
    *numbers("epoch", "first_n"),
    Column("receipt_count", Integer, nullable=False),
    *texts("kind", "reason"),
    instant("created_at", now=True),
    instant("done_at", nullable=True),
    *claims(),
    PrimaryKeyConstraint("shard", "epoch", "first_n", name="a_receipt_is_taken_back_once"),
    Index("take_backs_that_wait", "next_try_at", postgresql_where=text("done_at IS NULL")),
)

catalogs = Table(
    "catalogs",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("document", JSONB, nullable=False),
    instant("applied_at", now=True),
    Column("applied_by", Text, nullable=False),
    PrimaryKeyConstraint("tenant", "version", name="a_catalog_version_is_written_once"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    *texts("tenant", "subject"),
    Column("plan", Text, nullable=False),
    Column("status", Text, nullable=False),
    instant("anchor", nullable=True),
    Column("add_ons", JSONB, nullable=False, server_default=text("'{}'")),
    instant("changed_at", now=True),
    Column("changed_by", Text, nullable=False),
    Column("scheduled", JSONB),
    instant("scheduled_at", nullable=True),
    PrimaryKeyConstraint("tenant", "subject", name="a_subject_has_one_subscription"),
    CheckConstraint("(scheduled IS NULL) = (scheduled_at IS NULL)", name="a_change_is_scheduled_for_an_instant"),
    Index(
        "subscriptions_that_change",
        "scheduled_at",
        "tenant",
        "subject",
        postgresql_where=text("scheduled_at IS NOT NULL"),
    ),
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
    instant("created_at", now=True),
)

# `replaces`: the key that this one was made in place of. `last_used_at` is written late, and to about a minute.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    instant("created_at", now=True),
    instant("expires_at", nullable=True),
    instant("revoked_at", nullable=True),
    *optional_texts("name", "created_by"),
    instant("last_used_at", nullable=True),
    Column("replaces", Text),
    Index("api_keys_by_tenant", "tenant", "created_at", "id"),
    Index("api_keys_by_what_they_replace", "replaces", postgresql_where=text("replaces IS NOT NULL")),
)

reconciliations = Table(
    "reconciliations",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), primary_key=True),
    instant("started_at"),
    instant("finished_at"),
    *numbers("accounts", "drifted", "corrected", "undrained_entries", "lag_ms", "incidents"),
    Column("drifts", JSONB, nullable=False),
    Column("missing", BigInteger, nullable=False, server_default=text("0")),
    Column("refusal", Text),
)

# What ought not to be, of any kind (ledger/incidents.py): a gap, an entry whose arithmetic is wrong, a loss.
incidents = Table(
    "incidents",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    instant("found_at", now=True),
    Column("shard", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("detail", JSONB, nullable=False),
    Index("incidents_by_instant", "found_at", "kind"),
)
