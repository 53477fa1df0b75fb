"""What receipts charged: the accounts and amounts of one, and those of requests whose callers were never told."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from ledger.accounts import names_of
from ledger.repeats import NO_CALLER_WAS_TOLD, TakeBack
from quota.keys import AccountName

_of_receipt = text(
    """
    SELECT subject, metric, amount FROM entries
    WHERE tenant = :tenant AND shard = :shard AND epoch = :epoch AND n >= :first_n AND n < :first_n + :count
      AND receipt_first_n = :first_n AND receipt_count = :count AND kind = :kind
    ORDER BY n
    """
)


def of_receipt(connection: Connection, receipt: TakeBack) -> list[tuple[AccountName, int]]:
    """The accounts of a receipt with their amounts, in order."""
    wanted = {name: getattr(receipt, name) for name in ("tenant", "shard", "epoch", "first_n", "count", "kind")}
    rows = connection.execute(_of_receipt, wanted)
    return [(AccountName(receipt.tenant, row.subject, row.metric), row.amount) for row in rows]


# Only of the accounts' last minutes: whoever looks does so seconds after the request.
_of_requests = text(
    """
    SELECT DISTINCT e.tenant, e.shard, e.epoch, e.receipt_first_n, e.receipt_count, e.kind
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
         AS wanted (tenant, subject, metric)
    JOIN entries e USING (tenant, subject, metric)
    JOIN unnest(CAST(:request_ids AS text[]), CAST(:attempts AS text[])) AS lost (request_id, attempt)
      ON e.request_id = lost.request_id AND e.attempt IS NOT DISTINCT FROM lost.attempt
    WHERE e.shard = :shard
      AND (e.kind IN ('consume', 'hold') OR (e.kind = 'release' AND e.detail IS NULL))
      AND e.occurred_at > now() - interval '1 hour'
    """
)


def of_requests(
    connection: Connection, shard: int, accounts: Sequence[AccountName], requests: Sequence[tuple[str, str | None]]
) -> list[TakeBack]:
    """The receipts of consumes, holds and releases of levels that were made for these requests, which are given as
    (request_id, attempt)."""
    rows = connection.execute(
        _of_requests,
        names_of(accounts)
        | {
            "shard": shard,
            "request_ids": [request_id for request_id, _ in requests],
            "attempts": [attempt for _, attempt in requests],
        },
    )
    return [
        TakeBack(row.tenant, row.shard, row.epoch, row.receipt_first_n, row.receipt_count, row.kind, NO_CALLER_WAS_TOLD)
        for row in rows
    ]
