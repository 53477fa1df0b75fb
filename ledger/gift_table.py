"""The table of gifts, as the code sees it."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Table, Text, Uuid, func, text

from ledger.columns import claims, instant, metadata, optional_texts, texts

# `asked`: Redis may have taken the units or not. `taken`: it said so, and the ledger has not got the entry. `given`:
# the entry is booked, and the receiver's grants were made in that transaction.
gifts = Table(
    "gifts",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=func.gen_random_uuid()),
    *texts("tenant", "giver", "receiver", "metric"),
    Column("amount", BigInteger, nullable=False),
    Column("reason", Text),
    Column("actor", Text, nullable=False),
    *optional_texts("origin", "request_id", "idempotency_key"),
    Column("state", Text, nullable=False, server_default=text("'asked'")),
    Column("refusal", Text),
    instant("asked_at"),
    instant("settled_at", nullable=True),
    *claims(),
    CheckConstraint("state IN ('asked', 'taken', 'given', 'refused')", name="a_gift_is_asked_taken_given_or_refused"),
    CheckConstraint("amount > 0", name="a_gift_has_units"),
    Index("gifts_by_giver", "tenant", "giver", "metric", "asked_at"),
    Index("gifts_by_receiver", "tenant", "receiver", "metric", "asked_at"),
    Index(
        "a_key_makes_one_gift",
        *("tenant", "giver", "idempotency_key"),
        unique=True,
        postgresql_where=text("state <> 'refused'"),
    ),
    Index("gifts_that_wait", "next_try_at", postgresql_where=text("state IN ('asked', 'taken')")),
)
