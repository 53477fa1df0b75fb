"""The tables of what Stripe has told; with those of `ledger/tables.py` they are the whole schema."""

from sqlalchemy import BigInteger, Column, Index, PrimaryKeyConstraint, Table
from sqlalchemy.dialects.postgresql import JSONB

from ledger.columns import instant, metadata, texts

# One delivery that was taken, so that the same one again changes nothing.
stripe_events = Table(
    "stripe_events",
    metadata,
    *texts("tenant", "id", "type", "subscription", "outcome"),
    Column("created_s", BigInteger, nullable=False),
    instant("received_at", now=True),
    PrimaryKeyConstraint("tenant", "id", name="an_event_of_stripes_is_taken_once"),
    Index("stripe_events_by_age", "received_at"),
)

# The newest of each of Stripe's subscriptions: `state` is a Snapshot, and `heard` are the events of its second.
stripe_subscriptions = Table(
    "stripe_subscriptions",
    metadata,
    *texts("tenant", "id", "subject", "event"),
    Column("created_s", BigInteger, nullable=False),
    Column("state", JSONB, nullable=False),
    Column("heard", JSONB, nullable=False),
    instant("changed_at", now=True),
    PrimaryKeyConstraint("tenant", "id", name="a_subscription_of_stripes_is_known_once"),
    Index("stripe_subscriptions_by_subject", "tenant", "subject", "created_s"),
)
