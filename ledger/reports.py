"""Reports: the ledger as its tenants read it. Entries and usage; sealed periods are in ledger/sealed_reports.py,
balances at an instant in ledger/balances_at.py.

Every list is read in small pieces, each a short transaction that only reads: whatever reads it holds no connection
while its caller thinks, and no snapshot that would keep Postgres from cleaning up behind the drain. A piece begins
after a place in an order without ties that never changes, so an entry that was there when the first piece was read
comes once and only once, whatever arrives meanwhile.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select, text, true, tuple_

from ledger.instants import from_timestamp, to_timestamp
from ledger.tables import balances, entries
from quota.periods import PeriodKind, period_at

HOUR_MS = 3_600_000
LOOK_ROWS = 5_000
"""So many entries are looked at for one piece, however few of them are wanted: some ten milliseconds of Postgres."""


class EntryPlace(NamedTuple):
    """Where an entry stands in a list, whichever of the two orders it has."""

    instant_ms: int
    shard: int
    epoch: int
    n: int


class UsagePlace(NamedTuple):
    """The end of the last sum's hour, day or month."""

    metric: str
    end_ms: int


P = ParamSpec("P")
T = TypeVar("T")
Place = TypeVar("Place", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class Piece(Generic[Place]):
    """Rows of a list, and the place after which the list goes on; None where it ends."""

    rows: Sequence[Any]
    after: Place | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of a tenant's entries; None is any. Instants are Unix milliseconds: `from_ms` is in it, `to_ms` is not."""

    tenant: str
    subject: str | None = None
    metric: str | None = None
    kind: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


# A plan is made for the very parameters: which partitions, and which index, is told by nothing else. Sorting is the
# last resort: of entries after a place, (epoch, n) > (1, 400000), Postgres expects none, because few are of a later
# epoch, and would sort all of them for the first few. And no report takes a second processor from the drain.
_only_reading = text(
    """
    SELECT set_config('transaction_read_only', 'on', true), set_config('plan_cache_mode', 'force_custom_plan', true),
           set_config('enable_sort', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
           set_config('jit', 'off', true)
    """
)


def reading(
    connection: Connection, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Calls a function of a report in a transaction that cannot write."""
    connection.execute(_only_reading)
    return function(connection, *args, **kwargs)


_knows_metric = text(
    """
    SELECT version FROM catalogs WHERE tenant = :tenant AND jsonb_exists(document -> 'metrics', :metric)
    ORDER BY version DESC LIMIT 1
    """
)


def knows_metric(connection: Connection, tenant: str, metric: str) -> bool:
    """Whether any version of the tenant's catalog has it: of one that has left, entries remain."""
    return connection.execute(_knows_metric, {"tenant": tenant, "metric": metric}).scalar_one_or_none() is not None


SHOWN = [
    entries.c[name]
    for name in (
        *("shard", "epoch", "n", "occurred_at", "subject", "metric", "kind", "amount", "change", "used_after"),
        *("receipt_first_n", "receipt_count", "request_id", "idempotency_key", "plan", "period_kind", "period_start"),
        *("reason", "metadata"),
    )
]
_BY_INSTANT = ("occurred_at", "shard", "epoch", "n")
# A subject has one shard, so this is the order in which its entries were made, and in which they come in.
_BY_PLACE = ("epoch", "n", "occurred_at")


def entries_after(connection: Connection, wanted: Wanted, after: EntryPlace | None, most: int) -> Piece[EntryPlace]:
    """Up to `most` entries after a place; of one subject in the order of its journal, else in that of their instants.
    It may find fewer, or none, and the list goes on all the same: see LOOK_ROWS."""
    # No index leads to these: they are picked out of what was looked at.
    asked = {"kind": wanted.kind, "metric": wanted.metric if wanted.subject is None else None}
    picked = {name: value for name, value in asked.items() if value is not None}
    look = max(most, LOOK_ROWS) if picked else most
    order: Sequence[str]
    if wanted.subject is None:
        order, source = _BY_INSTANT, _of_tenant(wanted, after).limit(look)
    else:
        order, source = _BY_PLACE, _of_subject(wanted, after, look)
    rows = connection.execute(_picked(source, order, picked, look, most) if picked else source).all()
    goes_on = len(rows) == most or (bool(picked) and len(rows) > 0 and rows[-1].line == look)
    found = [row for row in rows if row.is_wanted] if picked else rows
    return Piece(found, place_of_entry(rows[-1]) if goes_on else None)


def _picked(source: Select[Any], order: Sequence[str], picked: Mapping[str, str], look: int, most: int) -> Select[Any]:
    """Of the lines that are looked at those that are wanted, and the last one whatever it is: the next piece begins
    after it."""
    lines = source.subquery("lines")
    line = func.row_number().over(order_by=[lines.c[name] for name in order]).label("line")
    is_wanted = and_(*(lines.c[name] == value for name, value in picked.items())).label("is_wanted")
    looked_at = select(lines, line, is_wanted).subquery("looked_at")
    return (
        select(looked_at)
        .where(looked_at.c.is_wanted | (looked_at.c.line == look))
        .order_by(*(looked_at.c[name] for name in order))
        .limit(most)
    )


def place_of_entry(row: Any) -> EntryPlace:
    return EntryPlace(from_timestamp(row.occurred_at), row.shard, row.epoch, row.n)


def _of_tenant(wanted: Wanted, after: EntryPlace | None) -> Select[Any]:
    order = [entries.c[name] for name in _BY_INSTANT]
    query = select(*SHOWN).where(*_in_range(wanted)).order_by(*order)
    if after is not None:
        place = (to_timestamp(after.instant_ms), after.shard, after.epoch, after.n)
        query = query.where(tuple_(*order) > tuple_(*place))
    return query


def _of_subject(wanted: Wanted, after: EntryPlace | None, look: int) -> Select[Any]:
    """Its accounts are kept apart by the index; each gives what all of the piece could be made of."""
    account = [balances.c.tenant == wanted.tenant, balances.c.subject == wanted.subject]
    if wanted.metric is not None:
        account.append(balances.c.metric == wanted.metric)
    metrics = select(balances.c.metric).distinct().where(*account).subquery("metrics")
    order = [entries.c[name] for name in _BY_PLACE]
    query = select(*SHOWN).where(
        *_in_range(wanted), entries.c.subject == wanted.subject, entries.c.metric == metrics.c.metric
    )
    if after is not None:
        query = query.where(tuple_(*order) > tuple_(after.epoch, after.n, to_timestamp(after.instant_ms)))
    of_account = query.order_by(*order).limit(look).lateral("of_account")
    return (
        select(*(of_account.c[column.name] for column in SHOWN))
        .select_from(metrics.join(of_account, true()))
        .order_by(*(of_account.c[name] for name in _BY_PLACE))
        .limit(look)
    )


def _in_range(wanted: Wanted) -> list[ColumnElement[bool]]:
    found = [entries.c.tenant == wanted.tenant]
    if wanted.from_ms is not None:
        found.append(entries.c.occurred_at >= to_timestamp(wanted.from_ms))
    if wanted.to_ms is not None:
        found.append(entries.c.occurred_at < to_timestamp(wanted.to_ms))
    return found


# Units that a window which was cut short handed on to the next one were used once.
_usage = text(
    """
    SELECT metric, date_trunc(:by, occurred_at, 'UTC') AS start, count(*) AS entries, sum(change) AS used,
           coalesce(sum(change) FILTER (WHERE kind IN ('consume', 'commit')), 0) AS consumed,
           coalesce(-sum(change) FILTER (WHERE kind IN ('refund', 'release')), 0) AS given_back
    FROM entries
    WHERE tenant = :tenant AND subject = :subject AND (CAST(:metric AS text) IS NULL OR metric = :metric)
      AND occurred_at >= :from AND occurred_at < :to AND (metric, occurred_at) >= (:after_metric, :after)
      AND change <> 0 AND kind NOT IN ('open', 'close')
    GROUP BY 1, 2 ORDER BY 1, 2 LIMIT :most
    """
)


def usage_after(
    connection: Connection, wanted: Wanted, by: str, after: UsagePlace | None, most: int
) -> Piece[UsagePlace]:
    """Sums of each metric and hour, day or month of UTC in which anything changed: metric, start, entries, used (by
    how much it changed in all), consumed, given_back. `wanted` must name a subject and both instants."""
    assert wanted.from_ms is not None and wanted.to_ms is not None, "usage is summed up between two instants"
    after = after or UsagePlace("", wanted.from_ms)
    words = {"tenant": wanted.tenant, "subject": wanted.subject, "metric": wanted.metric, "by": by, "most": most}
    instants = {"from": to_timestamp(wanted.from_ms), "to": to_timestamp(wanted.to_ms)}
    more = {"after_metric": after.metric, "after": to_timestamp(after.end_ms)}
    rows = connection.execute(_usage, words | instants | more).all()
    return Piece(rows, place_of_usage(rows[-1], by) if len(rows) == most else None)


def place_of_usage(row: Any, by: str) -> UsagePlace:
    return UsagePlace(row.metric, usage_end_ms(by, from_timestamp(row.start)))


def usage_end_ms(by: str, start_ms: int) -> int:
    """When the hour, day or month that begins then ends."""
    end_ms = start_ms + HOUR_MS if by == "hour" else period_at(PeriodKind(by), start_ms).end_ms
    assert end_ms is not None, "days and months have an end"
    return end_ms
