"""Which months may leave the ledger: old ones, whose entries nobody needs one by one any more."""

from datetime import date

from sqlalchemy import Connection, text

from ledger import chain, shards
from ledger.archive_files import bounds, month_of, name_of, next_month
from quota.errors import Conflict, InvalidRequest


def months_to_archive(connection: Connection, before: date) -> list[date]:
    """The months before `before` that the ledger has, oldest first. InvalidRequest if the current month or the one
    before it would be among them."""
    this_month = connection.execute(_this_month).scalar_one()
    last = next_month(this_month, -1)
    if before > last:
        raise InvalidRequest(
            f"{name_of(last)} and {name_of(this_month)} are still written and read from: --before can be "
            f"{name_of(last)} at the latest"
        )
    names = connection.execute(_partitions).scalars()
    months = sorted(month_of(name.removeprefix("entries_").replace("_", "-")) for name in names)
    return [month for month in months if month < before]


_this_month = text("SELECT CAST(date_trunc('month', now() AT TIME ZONE 'UTC') AS date)")

_partitions = text(
    """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = CAST('public.entries' AS regclass) AND c.relname ~ '^entries_[0-9]{4}_[0-9]{2}$'
    ORDER BY c.relname
    """
)


def refuse_unready(connection: Connection, month: date) -> None:
    """Conflict, in plain words, while something still needs the month's entries one by one."""
    parameters = bounds(month)
    unsealed = connection.execute(_unsealed, parameters).one()
    if unsealed.balances:
        raise Conflict(
            f"{name_of(month)} cannot be archived yet: {unsealed.balances:,} periods that had ended by then are not "
            f"sealed, that of {unsealed.first} among them (the reset job seals them)"
        )
    holds = connection.execute(_open_holds, parameters).one()
    if holds.holds:
        raise Conflict(
            f"{name_of(month)} cannot be archived yet: {holds.holds:,} of its holds are not settled, one of "
            f"{holds.first} among them (the reset job lets go of those that have expired, and a reconciliation of "
            "those that Redis has lost)"
        )
    unlinked = connection.execute(_unlinked, parameters | _linked_through(connection)).scalar_one()
    if unlinked:
        raise Conflict(
            f"{name_of(month)} cannot be archived yet: {unlinked:,} of its entries are not in the chain (a worker "
            "links them, within a minute of their coming)"
        )


_unsealed = text(
    """
    SELECT count(*) AS balances, min(concat_ws(' ', tenant, subject, metric)) AS first
    FROM balances WHERE NOT is_sealed AND period_end IS NOT NULL AND period_end <= :till
    """
)

_open_holds = text(
    """
    SELECT count(*) AS holds, min(concat_ws(' ', h.tenant, h.subject, h.metric)) AS first
    FROM holds h JOIN entries e USING (shard, epoch, n)
    WHERE h.settled_by IS NULL AND e.kind = 'hold' AND e.occurred_at >= :since AND e.occurred_at < :till
    """
)

_unlinked = text(
    """
    SELECT count(*) FROM entries e
    LEFT JOIN unnest(CAST(:shards AS integer[]), CAST(:epochs AS bigint[]), CAST(:ns AS bigint[]))
         AS linked (shard, epoch, n) USING (shard)
    WHERE e.occurred_at >= :since AND e.occurred_at < :till
      AND (linked.shard IS NULL OR (e.epoch, e.n) > (linked.epoch, linked.n))
    """
)


def _linked_through(connection: Connection) -> dict[str, list[int]]:
    """As arrays, of each shard that has links: up to where its entries are linked."""
    found = [(shard, chain.linked_through(connection, shard)) for shard in shards.offsets(connection)]
    linked = [(shard, place) for shard, place in found if place is not None]
    return {
        "shards": [shard for shard, _ in linked],
        "epochs": [place.epoch for _, place in linked],
        "ns": [place.n for _, place in linked],
    }
