"""Work that waits in a table until some gateway does it.

It is claimed for a while, each time for longer: so one row that cannot be done keeps no other waiting, two gateways
seldom do the same, and what a gateway that was killed had claimed is done by another. All of that work may be done
twice.
"""

from datetime import timedelta

from sqlalchemy import ColumnElement, Executable, Table, and_, bindparam, func, literal, select, update

MOST_DOUBLINGS = 3
"""A claim lasts two seconds, then four, and eight at most: what waited for Redis waits no longer after its return."""


def claiming(table: Table, is_waiting: ColumnElement[bool], *columns: str) -> Executable:
    """The statement that claims at most `most` of the rows that wait and are due, those that are due longest first, and
    returns some columns of them."""
    due = (
        select(*table.primary_key)
        .where(is_waiting, table.c.next_try_at <= func.now())
        .order_by(table.c.next_try_at)
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    tries = table.c.tries + 1
    lasts = func.power(2, func.least(tries, MOST_DOUBLINGS)) * literal(timedelta(seconds=1))
    return (
        update(table)
        .values(tries=tries, next_try_at=func.now() + lasts)
        .where(and_(*(key == due.c[key.name] for key in table.primary_key)))
        .returning(*(table.c[name] for name in columns))
    )
