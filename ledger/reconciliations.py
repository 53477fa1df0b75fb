"""What reconciliations found, and incidents of every kind, kept for people on call."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, desc, func, insert, select, text

from ledger.instants import from_timestamp, to_timestamp
from ledger.tables import incidents, reconciliations
from quota.periods import to_rfc3339

KEPT_DAYS = 90
"""Long enough to see when something began, over a quarter of a year."""
MAX_FORGOTTEN = 10_000


class Drift(msgspec.Struct, frozen=True):
    """A counter and the ledger that differ at the same entry. `what`: `used`, or one of the account's buckets (see
    ledger/comparison.py); or `damaged` or `missing`, of an account that says nothing at all, and then the `reason`."""

    tenant: str
    subject: str
    metric: str
    entry: str | None
    counter: int
    ledger: int
    what: str = "used"
    reason: str | None = None


class Reconciliation(msgspec.Struct, frozen=True):
    """One run: how many accounts were compared and what was found. Instants are Unix milliseconds.

    `missing` accounts are not among the `drifted`; `corrected` are of both. `refusal` says why a run has corrected
    nothing although it was asked to.
    """

    run_id: int
    started_at_ms: int
    finished_at_ms: int
    accounts: int
    drifted: int
    corrected: int
    undrained_entries: int
    lag_ms: int
    incidents: int
    drifts: list[Drift]
    missing: int = 0
    refusal: str | None = None

    def to_document(self) -> dict[str, Any]:
        """As `GET /v1/ops/reconciliation` shows it: without the names of any tenant's subjects."""
        return {
            "run_id": self.run_id,
            "started_at": to_rfc3339(self.started_at_ms),
            "finished_at": to_rfc3339(self.finished_at_ms),
            "accounts": self.accounts,
            "drifted": self.drifted,
            "corrected": self.corrected,
            "undrained_entries": self.undrained_entries,
            "lag_ms": self.lag_ms,
            "incidents": self.incidents,
            "missing": self.missing,
            "refusal": self.refusal,
        }


def add(connection: Connection, run: Reconciliation) -> int:
    """Keeps a run; its number."""
    query = insert(reconciliations).values(
        started_at=to_timestamp(run.started_at_ms),
        finished_at=to_timestamp(run.finished_at_ms),
        accounts=run.accounts,
        drifted=run.drifted,
        corrected=run.corrected,
        undrained_entries=run.undrained_entries,
        lag_ms=run.lag_ms,
        incidents=run.incidents,
        drifts=msgspec.to_builtins(run.drifts),
        missing=run.missing,
        refusal=run.refusal,
    )
    return int(connection.execute(query.returning(reconciliations.c.run_id)).scalar_one())


def last(connection: Connection) -> Reconciliation | None:
    """The newest run, None before the first."""
    return next(iter(history(connection, 1)), None)


def history(connection: Connection, most: int) -> list[Reconciliation]:
    """The newest runs; the newest comes last."""
    rows = connection.execute(select(reconciliations).order_by(desc(reconciliations.c.run_id)).limit(most)).all()
    return [
        Reconciliation(
            row.run_id,
            from_timestamp(row.started_at),
            from_timestamp(row.finished_at),
            row.accounts,
            row.drifted,
            row.corrected,
            row.undrained_entries,
            row.lag_ms,
            row.incidents,
            msgspec.convert(row.drifts, list[Drift]),
            row.missing,
            row.refusal,
        )
        for row in reversed(rows)
    ]


_forget = text(
    """
    DELETE FROM reconciliations WHERE run_id IN (
        SELECT run_id FROM reconciliations
        WHERE finished_at < now() - make_interval(days => :days)
          AND run_id < (SELECT max(run_id) FROM reconciliations)
        ORDER BY run_id LIMIT :most
    )
    """
)


def forget(connection: Connection) -> int:
    """Forgets a bounded number of runs of long ago, never the last one; how many."""
    return connection.execute(_forget, {"days": KEPT_DAYS, "most": MAX_FORGOTTEN}).rowcount


def add_incidents(connection: Connection, shard: int, kind: str, details: Sequence[dict[str, Any]]) -> None:
    """Keeps what somebody found that ought not to be."""
    if details:
        connection.execute(insert(incidents), [{"shard": shard, "kind": kind, "detail": each} for each in details])


_set_aside = text("SELECT detail ->> 'entry' FROM incidents WHERE shard = :shard AND kind = 'unreadable'")


def set_aside(connection: Connection, shard: int) -> set[str]:
    """The places of the entries that the ledger could not take."""
    return set(connection.execute(_set_aside, {"shard": shard}).scalars())


def incident_count(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(incidents)).scalar_one())
