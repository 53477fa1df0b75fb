"""The tables of what was archived (ledger/archive.py); with those of `ledger/tables.py` they are the whole schema."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Date, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB

from ledger.columns import account, instant, metadata, numbers, period, place, texts

# A row a month; `month` is its first day. `places` are, by shard, the ranges of its entries' places: epoch, first and
# last n. What is not there is told by them as archived, and not as deleted.
archives = Table(
    "archives",
    metadata,
    Column("month", Date, primary_key=True),
    *numbers("entries"),
    *texts("sha256"),
    Column("places", JSONB, nullable=False),
    instant("archived_at", now=True),
    *texts("archived_by"),
    CheckConstraint("extract(day FROM month) = 1", name="a_month_is_archived_whole"),
)

# What a month's entries add up to, for all that is added up from entries: an account's `period`, a `cap`, a `grant`;
# `told` is a grant that the counters had heard of. The place is that of the last of these entries (of `told` that of
# the first), `used_after` what it states.
carried = Table(
    "carried",
    metadata,
    Column("month", Date, nullable=False),
    *account(),
    *texts("what"),
    Column("grant_id", BigInteger, nullable=False, server_default=text("0")),
    *period(),
    instant("period_end", nullable=True),
    Column("plan", Text),
    *numbers("change", "entries"),
    Column("used_after", BigInteger),
    *place(),
    PrimaryKeyConstraint(
        *("tenant", "subject", "metric", "what", "grant_id", "period_kind", "period_start", "month"),
        name="a_month_carries_one_sum_of_each",
    ),
    CheckConstraint("what IN ('period', 'cap', 'grant', 'told')", name="what_is_carried_is_known"),
)
