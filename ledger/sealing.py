"""Sealing: a period that is over is held against what its entries add up to, once, and what is left of it goes on.

The counters close a period with a `close` entry (lua/rules/buckets.lua); here the ledger says whether it agrees. A row
of `sealed_periods` is written once and never changed: what is booked into the period afterwards is an adjustment of it
(ledger/sealed_reports.py). A grant of what rolls over is written in the transaction that seals, so there is one,
whoever dies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, text

from ledger import grants
from ledger.accounts import array_text, names_of
from ledger.grants import rolled_over
from ledger.instants import from_timestamp, to_timestamp
from quota.journal import Place
from quota.keys import AccountName


class Due(NamedTuple):
    """A period of an account that is over and not sealed, in the order in which they are looked at."""

    end_ms: int
    tenant: str
    subject: str
    metric: str
    kind: str
    start_ms: int

    @property
    def account(self) -> AccountName:
        return AccountName(self.tenant, self.subject, self.metric)


FIRST = Due(-(2**53), "", "", "", "", 0)
"""Before all that are due."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What was done to one period. `stated` None: nothing closed it. If something of it went on, there is an
    `announcement` that Redis must hear of. `unreadable`: what the entry that closed it says of that, if it is damaged;
    then nothing went on."""

    due: Due
    used: int
    stated: int | None
    rolled_over: int = 0
    announcement: int | None = None
    unreadable: str | None = None

    @property
    def differs(self) -> bool:
        return self.unreadable is not None or (self.stated is not None and self.stated != self.used)


_due = text(
    """
    SELECT period_end, tenant, subject, metric, period_kind, period_start FROM balances
    WHERE NOT is_sealed AND period_end IS NOT NULL AND period_end <= :now
      AND (period_end, tenant, subject, metric, period_kind, period_start)
          > (:after, :after_tenant, :after_subject, :after_metric, :after_kind, :after_start)
    ORDER BY period_end, tenant, subject, metric, period_kind, period_start LIMIT :most
    """
)


def due_after(connection: Connection, after: Due, now_ms: int, most: int) -> list[Due]:
    """The next periods that are over at `now_ms` and not sealed, the one that has waited longest first."""
    wanted = place_of(after) | {"now": to_timestamp(now_ms), "most": most}
    return [
        Due(
            from_timestamp(row.period_end),
            row.tenant,
            row.subject,
            row.metric,
            row.period_kind,
            from_timestamp(row.period_start),
        )
        for row in connection.execute(_due, wanted)
    ]


def place_of(after: Due) -> dict[str, Any]:
    """From where to go on, as the statement names it."""
    return {
        "after": to_timestamp(max(after.end_ms, 0)),
        "after_tenant": after.tenant,
        "after_subject": after.subject,
        "after_metric": after.metric,
        "after_kind": after.kind,
        "after_start": to_timestamp(after.start_ms),
    }


# Whoever seals a period holds its balance until the commit; somebody else who would seal it passes it by.
_hold = text(
    """
    SELECT b.tenant, b.subject, b.metric, b.period_kind, b.period_start, b.period_end, b.plan, b.used, b.shard
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]),
                CAST(:kinds AS text[]), CAST(:starts AS timestamptz[]))
         AS wanted (tenant, subject, metric, period_kind, period_start)
    JOIN balances b USING (tenant, subject, metric, period_kind, period_start)
    WHERE NOT b.is_sealed FOR UPDATE OF b SKIP LOCKED
    """
)

# The entry that closed a period came after its end; where two did, because Redis lost the first, the last one holds.
_closed = text(
    """
    SELECT held.tenant, held.subject, held.metric, held.period_kind, held.period_start, held.period_end, held.shard,
           c.epoch, c.n, c.occurred_at, c.used_after AS stated, c.plan, c.detail, added.used, added.entries,
           (held.epoch, held.n) <= (c.epoch, c.n) AS is_last
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]),
                CAST(:kinds AS text[]), CAST(:starts AS timestamptz[]))
         AS wanted (tenant, subject, metric, period_kind, period_start)
    JOIN balances held USING (tenant, subject, metric, period_kind, period_start) CROSS JOIN LATERAL (
        SELECT e.epoch, e.n, e.occurred_at, e.used_after, e.plan, e.detail FROM entries e
        WHERE (e.tenant, e.subject, e.metric) = (held.tenant, held.subject, held.metric)
          AND e.kind = 'close' AND e.change = 0 AND e.occurred_at >= held.period_end
          AND (e.period_kind, e.period_start) = (held.period_kind, held.period_start)
        ORDER BY e.epoch DESC, e.n DESC LIMIT 1
    ) AS c LEFT JOIN LATERAL (
        SELECT s.epoch, s.n FROM sealed_periods s
        WHERE (s.tenant, s.subject, s.metric, s.period_kind)
            = (held.tenant, held.subject, held.metric, held.period_kind) AND s.period_start < held.period_start
        ORDER BY s.period_start DESC LIMIT 1
    ) AS before ON true CROSS JOIN LATERAL (
        SELECT coalesce(sum(e.change), 0) AS used, count(*) AS entries FROM entries e
        WHERE (e.tenant, e.subject, e.metric) = (held.tenant, held.subject, held.metric)
          AND (e.period_kind, e.period_start) = (held.period_kind, held.period_start)
          AND (e.epoch, e.n) <= (c.epoch, c.n) AND (e.epoch, e.n) > (coalesce(before.epoch, 0), coalesce(before.n, -1))
          AND e.occurred_at >= held.period_start AND NOT (e.is_late AND e.occurred_at > c.occurred_at)
    ) AS added
    """
)

# What the first sum leaves out is there only where Redis went back in time or its clock did, and where something came
# late. Whatever is not late belongs to the period, wherever it stands. Of archived months, the sums are kept.
_all_of_it = text(
    """
    SELECT coalesce(sum(change), 0) AS used, CAST(coalesce(sum(entries), 0) AS bigint) AS entries,
           max(ARRAY[epoch, n]) AS last
    FROM (
        SELECT e.change, 1 AS entries, e.epoch, e.n FROM entries e
        WHERE (e.tenant, e.subject, e.metric) = (:tenant, :subject, :metric)
          AND (e.period_kind, e.period_start) = (:kind, :start)
          AND (NOT e.is_late OR e.occurred_at <= :closed_at
                                AND (CAST(:epoch AS bigint) IS NULL OR (e.epoch, e.n) <= (:epoch, :n)))
        UNION ALL
        SELECT c.change, c.entries, c.epoch, c.n FROM carried c
        WHERE (c.tenant, c.subject, c.metric, c.what) = (:tenant, :subject, :metric, 'period')
          AND (c.period_kind, c.period_start) = (:kind, :start)
    ) AS booked
    """
)

_mark = text(
    """
    UPDATE balances b SET is_sealed = true
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]),
                CAST(:kinds AS text[]), CAST(:starts AS timestamptz[]))
         AS w (tenant, subject, metric, period_kind, period_start)
    WHERE (b.tenant, b.subject, b.metric, b.period_kind, b.period_start)
        = (w.tenant, w.subject, w.metric, w.period_kind, w.period_start)
    """
)


# All of a page at once: a statement a period was a third of what sealing costs. COPY is not for tables under row-level
# security.
_add = text(
    """
    INSERT INTO sealed_periods
        (tenant, subject, metric, period_kind, period_start, period_end, shard, plan, used, entries, stated, epoch, n,
         closed_at, rolled_over, rollover_grant)
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS sealed
        (tenant text, subject text, metric text, period_kind text, period_start timestamptz, period_end timestamptz,
         shard integer, plan text, used bigint, entries bigint, stated bigint, epoch bigint, n bigint,
         closed_at timestamptz, rolled_over bigint, rollover_grant bigint)
    """
)


def seal(connection: Connection, wanted: Sequence[Due], now_ms: int, *, is_last_word: bool = False) -> list[Sealed]:
    """Seals those of the periods that the counters have closed, and gives what is left of them to the next.

    `is_last_word`: nothing will close the others any more, because their accounts have left them and the ledger has all
    that was journalled of that. They are sealed by what their entries say. Of a window that was cut short, whose units
    all went on into the one that took its place, nothing is written.
    """
    held = {_due_of(row): row for row in connection.execute(_hold, _names_of(wanted))}
    sealed, values = _by_their_closes(connection, list(held), now_ms)
    closed, done = {each.due for each in sealed}, [each.due for each in sealed]
    for due, row in held.items() if is_last_word else ():
        if due in closed:
            continue
        done.append(due)
        added = _added_up(connection, due, None, row.period_end)
        if added.used == row.used == 0:
            continue
        # What an outage let through in it, and nothing before: then it has no last entry but later ones.
        epoch, n = added.last or (0, 0)
        sealed.append(Sealed(due, int(added.used), None))
        values.append(
            _row(row, int(added.used), added.entries)
            | {"stated": None, "epoch": epoch, "n": n, "closed_at": row.period_end}
            | {"rolled_over": 0, "rollover_grant": None}
        )
    _write(connection, values, done)
    return sealed


def _by_their_closes(
    connection: Connection, held: Sequence[Due], now_ms: int
) -> tuple[list[Sealed], list[dict[str, Any]]]:
    """Of those that an entry closed: what was done, and the rows that say so."""
    rows = connection.execute(_closed, _names_of(held)).all()
    sums = {
        _due_of(row): row
        if row.used == row.stated and row.is_last
        else _added_up(connection, _due_of(row), Place(row.epoch, row.n), row.occurred_at)
        for row in rows
    }
    rolled, unreadable = {}, set()
    for row in rows:
        due = _due_of(row)
        try:
            roll = rolled_over(row.detail, due.account, due.start_ms, row.stated - int(sums[due].used))
        except ValueError:
            unreadable.add(due)
            continue
        if roll is not None and roll.until_ms > now_ms:
            rolled[due] = roll
    given = dict(zip(rolled, grants.roll_over(connection, list(rolled.values())), strict=True))
    sealed, values = [], []
    for row in rows:
        due = _due_of(row)
        used, entries = int(sums[due].used), sums[due].entries
        grant_id, announcement = given.get(due, (None, None))
        units = rolled[due].units if due in rolled else 0
        sealed.append(Sealed(due, used, row.stated, units, announcement, row.detail if due in unreadable else None))
        values.append(
            _row(row, used, entries)
            | {"stated": row.stated, "epoch": row.epoch, "n": row.n, "closed_at": row.occurred_at}
            | {"rolled_over": units, "rollover_grant": grant_id}
        )
    return sealed, values


def _write(connection: Connection, values: list[dict[str, Any]], done: Sequence[Due]) -> None:
    if values:
        connection.execute(_add, {"rows": msgspec.json.encode(values).decode()})
    if done:
        connection.execute(_mark, _names_of(done))


def _row(row: Any, used: int, entries: int) -> dict[str, Any]:
    names = ("tenant", "subject", "metric", "period_kind", "period_start", "period_end", "shard", "plan")
    return {name: getattr(row, name) for name in names} | {"used": used, "entries": entries}


def _added_up(connection: Connection, due: Due, through: Place | None, closed_at: datetime) -> Any:
    """`used`, `entries`, and the `last` place of all that was booked into a period before it was closed."""
    wanted = {
        "tenant": due.tenant,
        "subject": due.subject,
        "metric": due.metric,
        "kind": due.kind,
        "start": to_timestamp(due.start_ms),
        "epoch": None if through is None else through.epoch,
        "n": None if through is None else through.n,
        "closed_at": closed_at,
    }
    return connection.execute(_all_of_it, wanted).one()


def _due_of(row: Any) -> Due:
    end_ms, start_ms = from_timestamp(row.period_end), from_timestamp(row.period_start)
    return Due(end_ms, row.tenant, row.subject, row.metric, row.period_kind, start_ms)


def _names_of(wanted: Sequence[Due]) -> dict[str, Any]:
    starts = {due.start_ms: to_timestamp(due.start_ms).isoformat() for due in wanted}  # few, of many accounts
    periods = {
        "kinds": array_text([due.kind for due in wanted]),
        "starts": array_text([starts[due.start_ms] for due in wanted]),
    }
    return names_of([due.account for due in wanted]) | periods
