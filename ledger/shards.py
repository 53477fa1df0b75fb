"""A shard's row: which epoch it is in, and up to which entry its journal is in the ledger."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, func, select, text, update

from ledger.tables import shards
from quota.journal import Place


def count(connection: Connection) -> int:
    """How many shards this store was initialised with."""
    return int(connection.execute(text("SELECT count(*) FROM shards")).scalar_one())


def store_id(connection: Connection) -> str:
    """The name of this ledger, as the shards' heads in Redis repeat it."""
    return str(connection.execute(text("SELECT id FROM store")).scalar_one())


def offsets(connection: Connection) -> dict[int, Place]:
    """The last entry of each shard that the ledger holds."""
    rows = connection.execute(select(shards.c.shard, shards.c.offset_epoch, shards.c.offset_n).order_by(shards.c.shard))
    return {shard: Place(epoch, n) for shard, epoch, n in rows}


_newest_ms = text(
    """
    SELECT coalesce(max(extract(epoch FROM newest.occurred_at)) * 1000, 0)
    FROM shards AS s CROSS JOIN LATERAL (
        SELECT max(e.occurred_at) AS occurred_at FROM entries AS e
        WHERE e.shard = s.shard AND e.epoch = s.offset_epoch AND e.n = s.offset_n
    ) AS newest
    """
)


def newest_ms(connection: Connection) -> int:
    """The latest instant among the last entries of the shards, by Redis's clock of then; 0 without any."""
    return int(connection.execute(_newest_ms).scalar_one())


def lock(connection: Connection, wanted: Sequence[int]) -> dict[int, Place]:
    """Locks those of the wanted shards that nobody else drains, and tells their offsets. Locked until the commit."""
    rows = connection.execute(
        select(shards.c.shard, shards.c.offset_epoch, shards.c.offset_n)
        .where(shards.c.shard.in_(wanted))
        .order_by(shards.c.shard)
        .with_for_update(skip_locked=True)
    )
    return {shard: Place(epoch, n) for shard, epoch, n in rows}


_advance = text(
    """
    UPDATE shards SET offset_epoch = moved.epoch, offset_n = moved.n, epoch = greatest(shards.epoch, moved.epoch)
    FROM unnest(CAST(:shards AS integer[]), CAST(:epochs AS bigint[]), CAST(:ns AS bigint[])) AS moved (shard, epoch, n)
    WHERE shards.shard = moved.shard
    """
)


def advance(connection: Connection, through: Mapping[int, Place]) -> None:
    """Moves the offsets of shards that this transaction has locked."""
    connection.execute(
        _advance,
        {
            "shards": list(through),
            "epochs": [place.epoch for place in through.values()],
            "ns": [place.n for place in through.values()],
        },
    )


def standings(connection: Connection, wanted: Sequence[int]) -> dict[int, tuple[int, Place]]:
    """The epoch that each shard is in, and the last entry of it that the ledger holds."""
    rows = connection.execute(
        select(shards.c.shard, shards.c.epoch, shards.c.offset_epoch, shards.c.offset_n).where(
            shards.c.shard.in_(wanted)
        )
    )
    return {row.shard: (row.epoch, Place(row.offset_epoch, row.offset_n)) for row in rows}


def lock_all(connection: Connection, wanted: Sequence[int]) -> None:
    """Locks the shards' rows. Waits for a drain that holds one of them."""
    connection.execute(
        select(shards.c.shard).where(shards.c.shard.in_(wanted)).order_by(shards.c.shard).with_for_update()
    )


def take_epoch(connection: Connection, shard: int, epoch: int) -> None:
    """Writes down the epoch that a shard begins; the row must be locked by this transaction."""
    connection.execute(update(shards).where(shards.c.shard == shard).values(epoch=epoch))


def leave_epoch(connection: Connection, shard: int, seen: int) -> None:
    """Ends the epoch that a shard is in, or the one that was `seen` in Redis, if that is later: whoever looks at Redis
    next begins another. The row must be locked."""
    ended = func.greatest(shards.c.epoch, seen)
    connection.execute(update(shards).where(shards.c.shard == shard).values(epoch=ended + 1))
