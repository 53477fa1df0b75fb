"""The columns that tables are made of, again and again."""

from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Text, func, text

metadata = MetaData()


def texts(*names: str) -> list[Column[str]]:
    return [Column(name, Text, nullable=False) for name in names]


def optional_texts(*names: str) -> list[Column[str]]:
    return [Column(name, Text) for name in names]


def numbers(*names: str) -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in names]


def account() -> list[Column[str]]:
    return texts("tenant", "subject", "metric")


def place() -> list[Column[int]]:
    return [Column("shard", Integer, nullable=False), *numbers("epoch", "n")]


def period() -> tuple[Column[Any], ...]:
    return Column("period_kind", Text, nullable=False), instant("period_start")


def instant(name: str, *, nullable: bool = False, now: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=func.now() if now else None)


def claims() -> list[Column[Any]]:
    """Of a table of work that waits: see ledger/claims.py."""
    return [Column("tries", Integer, nullable=False, server_default=text("0")), instant("next_try_at", now=True)]
