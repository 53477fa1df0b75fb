"""What a subject's terms are made of, and what is still to be told of their changes: tables as the code sees them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from ledger.columns import account, instant, metadata, numbers, texts

# `status_until`: from then on the status gives the default plan. `has_lapsed` once that was written down.
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
    instant("status_until", nullable=True),
    Column("has_lapsed", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("tenant", "subject", name="a_subject_has_one_subscription"),
    CheckConstraint("(scheduled IS NULL) = (scheduled_at IS NULL)", name="a_change_is_scheduled_for_an_instant"),
    Index(
        "subscriptions_that_change",
        "scheduled_at",
        "tenant",
        "subject",
        postgresql_where=text("scheduled_at IS NOT NULL"),
    ),
    Index(
        "subscriptions_that_lapse",
        "status_until",
        "tenant",
        "subject",
        postgresql_where=text("status_until IS NOT NULL AND NOT has_lapsed"),
    ),
    CheckConstraint(
        "status IN ('active', 'trialing', 'past_due', 'canceled', 'paused')", name="a_subscription_has_a_known_status"
    ),
)

# `limit` null is unlimited. A row goes when it has ended and that was written down.
overrides = Table(
    "overrides",
    metadata,
    *account(),
    Column("limit", BigInteger),
    instant("expires_at", nullable=True),
    Column("reason", Text, nullable=False),
    instant("changed_at", now=True),
    Column("changed_by", Text, nullable=False),
    PrimaryKeyConstraint("tenant", "subject", "metric", name="an_account_has_one_override"),
    CheckConstraint('"limit" >= 0', name="an_override_is_no_debt"),
    Index(
        "overrides_that_end",
        *("expires_at", "tenant", "subject", "metric"),
        postgresql_where=text("expires_at IS NOT NULL"),
    ),
)

# A change of an account's terms that is not in the ledger yet: written with the change, taken away with its entry.
notices = Table(
    "notices",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    *account(),
    *numbers("act_id"),
    *texts("kind"),
    *numbers("amount"),
    *texts("detail"),
    Column("about", JSONB, nullable=False),
    instant("created_at", now=True),
    instant("next_try_at", now=True),
    CheckConstraint("amount >= 0", name="a_notice_takes_nothing_away"),
    Index("notices_by_account", "tenant", "subject", "metric", "id"),
    Index("notices_to_tell", "next_try_at", "id"),
)
