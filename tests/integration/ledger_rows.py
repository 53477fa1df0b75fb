"""A row of any table, made from what the table's columns are: a table that is added is tried with the others."""

import uuid
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Column, Connection, Date, DateTime, Integer, LargeBinary, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from ledger import tables
from ledger.repeats import TakeBack

TENANTS_TABLES: list[Table] = [each for each in tables.metadata.sorted_tables if "tenant" in each.columns]
"""Every table whose rows belong to tenants."""
OTHER_TABLES: list[Table] = [each for each in tables.metadata.sorted_tables if "tenant" not in each.columns]
WORDS = {("subscriptions", "status"): "active", ("links", "kind"): "run", ("carried", "what"): "period"}
"""Where a constraint asks for one of some words."""


def row_of(table: Table, tenant: str, number: int) -> dict[str, Any]:
    """A row of a tenant's that differs from those of other numbers."""
    wanted = [each for each in table.columns if not each.nullable and not each.server_default and not each.identity]
    row = {each.name: _value(table, each, number) for each in wanted}
    return row | {"tenant": tenant} if "tenant" in table.columns else row


def _value(table: Table, column: Column[Any], number: int) -> Any:
    if (table.name, column.name) in WORDS:
        return WORDS[table.name, column.name]
    match column.type:
        case Text():
            return f"x{number}"
        case BigInteger() | Integer():
            return number
        case DateTime():
            return datetime.now(UTC)
        case Date():
            return date(2000 + number, 1, 1)
        case Uuid():
            return uuid.uuid4()
        case LargeBinary():
            return b"x"
        case JSONB():
            return {}
        case ARRAY():
            return []
    raise AssertionError(f"no value is known for {table.name}.{column.name}")


def note_take_back(connection: Connection, take_back: TakeBack) -> None:
    """As a drain notes a receipt that must be taken back."""
    values = {name: getattr(take_back, name) for name in TakeBack.__slots__ if name != "count"}
    connection.execute(tables.take_backs.insert().values(**values, receipt_count=take_back.count))
