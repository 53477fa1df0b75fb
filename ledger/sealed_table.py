"""The table of sealed periods; with those of `ledger/tables.py` it is the whole schema."""

from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, Table, Text, text

from ledger.columns import account, instant, metadata, numbers, period, place

# All that a reset did to one period of one account. `used` is what its entries add up to, `entries` how many they are;
# `stated` is what the counters said when they closed it, NULL where nothing did. The place is that of the entry which
# closed it, or of its last one.
sealed_periods = Table(
    "sealed_periods",
    metadata,
    *account(),
    *period(),
    instant("period_end"),
    Column("plan", Text),
    *numbers("used"),
    Column("stated", BigInteger),
    *numbers("entries"),
    *place(),
    instant("closed_at"),
    instant("sealed_at", now=True),
    Column("rolled_over", BigInteger, nullable=False, server_default=text("0")),
    Column("rollover_grant", BigInteger),
    PrimaryKeyConstraint("tenant", "subject", "metric", "period_kind", "period_start", name="a_period_is_sealed_once"),
)
