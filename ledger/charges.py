"""What receipts charged: the accounts and amounts of some, and those of steps whose callers were never told."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from ledger.accounts import names_of
from ledger.instants import to_timestamp
from ledger.outages import LostReply
from ledger.repeats import NO_CALLER_WAS_TOLD, TakeBack
from quota.keys import AccountName

_of_receipts = text(
    """
    SELECT wanted.place, e.tenant, e.subject, e.metric, e.amount
    FROM unnest(CAST(:tenants AS text[]), CAST(:shards AS integer[]), CAST(:epochs AS bigint[]),
                CAST(:firsts AS bigint[]), CAST(:counts AS integer[]), CAST(:kinds AS text[]))
         WITH ORDINALITY AS wanted (tenant, shard, epoch, first_n, count, kind, place)
    JOIN entries e ON e.shard = wanted.shard AND e.epoch = wanted.epoch
                  AND e.n >= wanted.first_n AND e.n < wanted.first_n + wanted.count
                  AND (e.tenant, e.receipt_first_n, e.receipt_count, e.kind)
                    = (wanted.tenant, wanted.first_n, wanted.count, wanted.kind)
    ORDER BY wanted.place, e.n
    """
)


def of_receipts(connection: Connection, receipts: Sequence[TakeBack]) -> list[list[tuple[AccountName, int]]]:
    """The accounts of each receipt with their amounts, in order; [] of one that the ledger has not got."""
    found: list[list[tuple[AccountName, int]]] = [[] for _ in receipts]
    wanted = {
        "tenants": [each.tenant for each in receipts],
        "shards": [each.shard for each in receipts],
        "epochs": [each.epoch for each in receipts],
        "firsts": [each.first_n for each in receipts],
        "counts": [each.count for each in receipts],
        "kinds": [each.kind for each in receipts],
    }
    for row in connection.execute(_of_receipts, wanted):
        found[row.place - 1].append((AccountName(row.tenant, row.subject, row.metric), row.amount))
    return found


_of_lost = text(
    """
    SELECT DISTINCT e.tenant, e.shard, e.epoch, e.receipt_first_n, e.receipt_count, e.kind
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]),
                CAST(:request_ids AS text[]), CAST(:attempts AS text[]))
         AS lost (tenant, subject, metric, request_id, attempt)
    JOIN entries e USING (tenant, subject, metric)
    WHERE e.request_id = lost.request_id AND e.attempt IS NOT DISTINCT FROM lost.attempt AND e.shard = :shard
      AND (e.kind IN ('consume', 'hold') OR (e.kind IN ('release', 'correct') AND e.detail IS NULL))
      AND e.occurred_at BETWEEN :from_instant AND :till_instant
    """
)


def of_lost(
    connection: Connection, shard: int, lost: Sequence[LostReply], from_ms: int, till_ms: int
) -> list[TakeBack]:
    """The receipts that were made for these steps between two instants: of consumes and holds, of levels that
    were given back, and of people's corrections."""
    rows = connection.execute(
        _of_lost,
        names_of([AccountName(each.tenant, each.subject, each.metric) for each in lost])
        | {
            "shard": shard,
            "request_ids": [each.request_id for each in lost],
            "attempts": [each.attempt for each in lost],
            "from_instant": to_timestamp(from_ms),
            "till_instant": to_timestamp(till_ms),
        },
    )
    return [
        TakeBack(row.tenant, row.shard, row.epoch, row.receipt_first_n, row.receipt_count, row.kind, NO_CALLER_WAS_TOLD)
        for row in rows
    ]
