"""What Redis has lost, and the epochs that begin because of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, text

from ledger import entries, reconciliations, shards
from ledger.plans import led_by_index
from quota.acknowledged import Told
from quota.journal import Place
from quota.keys import AccountName
from quota.lives import NOWHERE, Standing
from quota.periods import to_rfc3339

MAX_REPORTED_ACCOUNTS = 100
MAX_COUNTED_ENTRIES = 50_000
"""Of all shards together: nobody is served until the epochs have begun, and a file of last week lacks millions."""

log = structlog.get_logger()

# What the ledger has and Redis had forgotten: its counters were too low by so much. Each row has the sums of all.
_forgotten = text(
    """
    SELECT tenant, subject, metric, sum(change) AS units, CAST(sum(count(*)) OVER () AS bigint) AS all_entries,
           sum(sum(change)) OVER () AS all_units, min(min(occurred_at)) OVER () AS since,
           max(max(occurred_at)) OVER () AS until
    FROM (
        SELECT tenant, subject, metric, change, occurred_at FROM entries
        WHERE shard = :shard AND (epoch, n) > (:epoch, :n) AND (epoch, n) <= (:last_epoch, :last_n)
        ORDER BY epoch, n LIMIT :most
    ) AS forgotten
    GROUP BY tenant, subject, metric
    ORDER BY abs(sum(change)) DESC, tenant, subject, metric LIMIT :accounts
    """
)


def begins_in(standing: Standing, epoch: int, offset: Place, told: Place) -> int | None:
    """The epoch that a shard begins: the next one, where Redis is behind what the ledger has or what callers were told,
    or has no journal but something else in its place;
    the one that Redis is in already, where the ledger has not heard of that. None where neither is so. Pure."""
    in_redis = standing.epoch or 0
    if in_redis > epoch and not standing.is_damaged:
        return in_redis
    is_behind = standing.is_behind(epoch, offset) or standing.is_behind(0, told)
    return max(epoch, told.epoch, in_redis) + 1 if is_behind else None


class Loss(NamedTuple):
    """What a shard had lost when an epoch began, as its incident says it. `kind`: lost, or rewound."""

    shard: int
    kind: str
    detail: dict[str, Any]

    def log(self) -> None:
        """Once it is committed: what is written down again by the next look would be logged again as well."""
        log.error(f"the counters of a shard were {self.kind}", shard=self.shard, **self.detail)


def begin_epochs(
    connection: Connection, found: Mapping[int, Standing], told: Mapping[int, Place]
) -> tuple[dict[int, int], list[Loss]]:
    """Takes the next epoch for each of these shards in which Redis is behind what the ledger knows, or what callers
    were told, and writes down what it had lost: nothing, where nothing was. The rows must be locked by this
    transaction. Shard -> the epoch that begins; and the losses."""
    led_by_index(connection)
    begun: dict[int, int] = {}
    for shard, (epoch, offset) in shards.standings(connection, list(found)).items():
        begins = begins_in(found[shard], epoch, offset, told[shard])
        if begins is not None:
            begun[shard] = begins
    lost = tell_of_begun(connection, begun, found, told)
    for shard, epoch in begun.items():
        shards.take_epoch(connection, shard, epoch)
    return begun, lost


def begun_unheard(connection: Connection, through: Mapping[int, Place]) -> dict[int, int]:
    """The epochs of these places that the ledger has not heard of, by shard: those that nobody has told of yet."""
    known = shards.standings(connection, list(through))
    return {shard: place.epoch for shard, place in through.items() if place.epoch > known[shard][0] > 0}


def tell_of_begun(
    connection: Connection, begun: Mapping[int, int], found: Mapping[int, Standing], told: Mapping[int, Place]
) -> list[Loss]:
    """Writes down what shards had lost in which these epochs begin, or have begun without the ledger's having heard of
    it. Whoever raises a shard's epoch calls this before, in the transaction that has locked its row."""
    lost: list[Loss] = []
    left_to_count = MAX_COUNTED_ENTRIES
    for shard, (epoch, offset) in shards.standings(connection, list(begun)).items():
        of_callers = told.get(shard, NOWHERE)
        if epoch == 0 or offset == of_callers == NOWHERE:
            continue  # the store's first start, or a shard that nobody has used; whoever told others tells it himself
        detail: dict[str, Any] = {"lost_epoch": epoch, "epoch": begun[shard], "ledger_has": str(offset)}
        if of_callers.epoch == epoch:
            detail["callers_were_told"] = str(of_callers)
        had = found[shard].had_of(epoch)
        if had is not None:
            forgotten = _what_was_forgotten(connection, shard, had, offset, left_to_count)
            left_to_count -= forgotten["entries"]
            detail |= {"counters_had": str(had), **forgotten}
        lost.append(Loss(shard, "lost" if had is None else "rewound", detail))
    for each in lost:
        reconciliations.add_incidents(connection, each.shard, each.kind, [each.detail])
    return lost


def _what_was_forgotten(connection: Connection, shard: int, last: Place, offset: Place, most: int) -> dict[str, Any]:
    """Of so many entries at most, the first: with `and_more`, if there are others."""
    wanted = {"shard": shard, "epoch": last.epoch, "n": last.n, "last_epoch": offset.epoch, "last_n": offset.n}
    rows = connection.execute(_forgotten, wanted | {"most": most, "accounts": MAX_REPORTED_ACCOUNTS}).all()
    found: dict[str, Any] = {
        "entries": rows[0].all_entries if rows else 0,
        "units": int(rows[0].all_units) if rows else 0,
        "since": rows[0].since.isoformat() if rows else None,
        "until": rows[0].until.isoformat() if rows else None,
        "accounts": [
            {"tenant": row.tenant, "subject": row.subject, "metric": row.metric, "units": int(row.units)}
            for row in rows
        ],
    }
    return found | ({"and_more": True} if found["entries"] >= most else {})


_last_of = text("SELECT max(n) FROM entries WHERE shard = :shard AND epoch = :epoch")


def tell_of_lost(
    connection: Connection, shard: int, epoch: int, told: Sequence[Told], dropped_n: int | None = None
) -> int:
    """Writes down which entries of an epoch callers were told of and the ledger has not got; how many there are. What
    the journal had of that epoch must be drained. Up to `dropped_n` nobody remembers whose they were: of those that the
    ledger lacks there, the number is told."""
    lost, unnamed = entries.unknown(connection, told), 0
    if dropped_n is not None:
        last_n = connection.execute(_last_of, {"shard": shard, "epoch": epoch}).scalar_one()
        unnamed = max(dropped_n - (-1 if last_n is None else last_n), 0)
    if not lost and not unnamed:
        return 0
    units: Counter[AccountName] = Counter()
    for each in lost:
        units[each.account] += each.amount
    instants = [each.occurred_at_ms for each in lost]
    detail: dict[str, Any] = {
        "epoch": epoch,
        "entries": len(lost),
        "units": sum(units.values()),
        "since": to_rfc3339(min(instants)) if instants else None,
        "until": to_rfc3339(max(instants)) if instants else None,
        "accounts": [
            {"tenant": account.tenant, "subject": account.subject, "metric": account.metric, "units": amount}
            for account, amount in units.most_common(MAX_REPORTED_ACCOUNTS)
        ],
    }
    if unnamed:
        detail |= {"and_more": True, "unnamed_at_most": unnamed}
    log.error("entries that callers were told of were lost with Redis", shard=shard, **detail)
    reconciliations.add_incidents(connection, shard, "lost_entries", [detail])
    return len(lost) + unnamed
