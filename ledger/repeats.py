"""Repeats of idempotency keys that Redis no longer knew, and the receipts whose charge must go back.

Redis answers a repeat without charging it. When it has lost its records it charges again; the drain finds that here, by
the receipt that each key was used for first, and a worker takes the second charge back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from ledger.claims import claiming
from ledger.tables import take_backs

MAX_FORGOTTEN = 10_000
"""Rows of a table deleted in one run; the next run takes the next ones."""

NO_CALLER_WAS_TOLD = "no caller was told"

# One row a receipt, however many entries it has; `use` counts the receipts of one key in the order of the journal.
_make_keyed = text(
    """
    CREATE TEMPORARY TABLE IF NOT EXISTS keyed ON COMMIT DELETE ROWS
    AS SELECT *, CAST(NULL AS bigint) AS use FROM idempotency_keys WITH NO DATA
    """
)

_collect = text(
    """
    INSERT INTO keyed (tenant, subject, route, key, shard, epoch, first_n, receipt_count, kind, occurred_at, use)
    SELECT *, row_number() OVER (PARTITION BY tenant, subject, route, key ORDER BY epoch, first_n)
    FROM (
        SELECT DISTINCT tenant, subject, coalesce(route, '') AS route, idempotency_key AS key, shard, epoch,
               receipt_first_n AS first_n, receipt_count, kind, occurred_at
        FROM staging
        WHERE idempotency_key IS NOT NULL
          AND (kind IN ('consume', 'hold', 'commit', 'refund') OR kind IN ('release', 'correct') AND detail IS NULL)
    ) AS receipts
    """
)

# Most batches have nothing but keys that are used for the first time.
_note_new = text(
    """
    INSERT INTO idempotency_keys
        (tenant, subject, route, key, shard, epoch, first_n, receipt_count, kind, occurred_at)
    SELECT tenant, subject, route, key, shard, epoch, first_n, receipt_count, kind, occurred_at
    FROM keyed WHERE use = 1 ORDER BY tenant, subject, route, key
    ON CONFLICT DO NOTHING
    """
)

_most_uses_of_a_key = text("SELECT coalesce(max(use), 0) FROM keyed")

# Each key is looked up by itself: Postgres cannot know that a batch is small, and would read every key for each.
# Whatever comes under a key that has a first receipt is a repeat, while that one is kept in mind. Not by their places:
# a Redis that went back in time gives places out again.
_note_repeats = text(
    """
    INSERT INTO take_backs (tenant, shard, epoch, first_n, receipt_count, kind, reason)
    SELECT DISTINCT ON (later.shard, later.epoch, later.first_n) later.tenant, later.shard, later.epoch, later.first_n,
           later.receipt_count, later.kind, 'repeated idempotency key'
    FROM keyed later CROSS JOIN LATERAL (
        SELECT * FROM idempotency_keys WHERE (tenant, subject, route, key)
                                           = (later.tenant, later.subject, later.route, later.key) LIMIT 1
    ) first
    LEFT JOIN keyed known
        ON (known.tenant, known.subject, known.route, known.key) = (first.tenant, first.subject, first.route, first.key)
       AND (known.epoch, known.first_n, known.occurred_at) = (first.epoch, first.first_n, first.occurred_at)
    WHERE later.use > coalesce(known.use, 0)
      AND later.occurred_at <= first.occurred_at + make_interval(secs => :retention_s)
    ORDER BY later.shard, later.epoch, later.first_n
    ON CONFLICT DO NOTHING
    """
)

# For each key that has no first receipt, or one too old to be kept in mind: the next receipt after that.
_note_firsts = text(
    """
    INSERT INTO idempotency_keys
        (tenant, subject, route, key, shard, epoch, first_n, receipt_count, kind, occurred_at)
    SELECT DISTINCT ON (k.tenant, k.subject, k.route, k.key)
           k.tenant, k.subject, k.route, k.key, k.shard, k.epoch, k.first_n, k.receipt_count, k.kind, k.occurred_at
    FROM keyed k LEFT JOIN LATERAL (
        SELECT * FROM idempotency_keys
        WHERE (tenant, subject, route, key) = (k.tenant, k.subject, k.route, k.key) LIMIT 1
    ) old ON true
    LEFT JOIN keyed known
        ON (known.tenant, known.subject, known.route, known.key) = (old.tenant, old.subject, old.route, old.key)
       AND (known.epoch, known.first_n, known.occurred_at) = (old.epoch, old.first_n, old.occurred_at)
    WHERE old.key IS NULL OR (k.use > coalesce(known.use, 0)
                              AND k.occurred_at > old.occurred_at + make_interval(secs => :retention_s))
    ORDER BY k.tenant, k.subject, k.route, k.key, k.epoch, k.first_n
    ON CONFLICT ON CONSTRAINT an_idempotency_key_names_one_receipt DO UPDATE
    SET shard = excluded.shard, epoch = excluded.epoch, first_n = excluded.first_n,
        receipt_count = excluded.receipt_count, kind = excluded.kind, occurred_at = excluded.occurred_at
    """
)


def find_staged(connection: Connection, retention_s: int) -> None:
    """Keeps the first receipt of each key among the staged entries, and notes the later ones, to be taken back.

    A use of a key past the retention of the one before is a first one again, so a batch that has several of one key is
    gone through once for each.
    """
    connection.execute(_make_keyed)
    receipts = connection.execute(_collect).rowcount
    if connection.execute(_note_new).rowcount == receipts:
        return
    most_uses = connection.execute(_most_uses_of_a_key).scalar_one()
    retention = {"retention_s": retention_s}
    for _ in range(most_uses):
        connection.execute(_note_repeats, retention)
        if connection.execute(_note_firsts, retention).rowcount == 0:
            return
    if most_uses > 1:
        connection.execute(_note_repeats, retention)


@dataclass(frozen=True, slots=True)
class TakeBack:
    """A receipt whose charge must go back, and why. `kind` is that of its entries."""

    tenant: str
    shard: int
    epoch: int
    first_n: int
    count: int
    kind: str
    reason: str


_claim = claiming(
    take_backs,
    take_backs.c.done_at.is_(None),
    *("tenant", "shard", "epoch", "first_n", "receipt_count", "kind", "reason"),
)


def claim(connection: Connection, most: int) -> list[TakeBack]:
    """Some of the receipts that are still to be taken back, for whoever asks to do it now."""
    return [TakeBack(*row) for row in connection.execute(_claim, {"most": most})]


_done = text(
    """
    UPDATE take_backs SET done_at = now()
    FROM unnest(CAST(:shards AS integer[]), CAST(:epochs AS bigint[]), CAST(:firsts AS bigint[]))
         AS done (shard, epoch, first_n)
    WHERE (take_backs.shard, take_backs.epoch, take_backs.first_n) = (done.shard, done.epoch, done.first_n)
      AND done_at IS NULL
    """
)


def done(connection: Connection, receipts: Sequence[TakeBack]) -> None:
    """Notes that receipts were taken back; none is taken back a second time, whoever asks."""
    places = {
        "shards": [each.shard for each in receipts],
        "epochs": [each.epoch for each in receipts],
        "firsts": [each.first_n for each in receipts],
    }
    connection.execute(_done, places)


# Whatever the drain holds at this moment is left for the next run, so that neither waits for the other.
_forget_keys = text(
    """
    DELETE FROM idempotency_keys WHERE (tenant, subject, route, key) IN (
        SELECT tenant, subject, route, key FROM idempotency_keys
        WHERE occurred_at < now() - make_interval(secs => :age_s)
        ORDER BY occurred_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    """
)

_forget_take_backs = text(
    """
    DELETE FROM take_backs WHERE (shard, epoch, first_n) IN (
        SELECT shard, epoch, first_n FROM take_backs
        WHERE done_at < now() - make_interval(secs => :age_s)
        LIMIT :most FOR UPDATE SKIP LOCKED
    )
    """
)


def forget(connection: Connection, older_than_s: int) -> int:
    """Deletes keys, and receipts that were taken back, of longer ago; how many rows, at most MAX_FORGOTTEN of each."""
    bounds = {"age_s": older_than_s, "most": MAX_FORGOTTEN}
    return sum(connection.execute(each, bounds).rowcount for each in (_forget_keys, _forget_take_backs))
