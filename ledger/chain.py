"""A hash chain over each shard's entries, made off the hot path.

Whoever edits, deletes or inserts an entry in the past, as the tables' owner can, breaks it at that entry, unless every
link from there on is made anew; heads that were kept elsewhere show that, too.

A link is over a run of entries that follow the link before, or over a fork: entries at places that the ledger had
passed (workers/drain.py), which are no part of any run. `ledger verify` goes through it (ledger/chain_verification.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, insert, select, text

from ledger import shards
from ledger.link_table import links
from quota.errors import Conflict
from quota.journal import Place

MAX_ENTRIES = 20_000
DIGEST_BYTES = 8
"""Of each entry: enough, because the hash of a link is over all of them."""
NO_HASH = bytes(32)

# Every column, in a form that does not change with the session's settings. Without those that the caller leaves out,
# so that `most` is of those that it takes; NOT IN, because Postgres looks that up in a hash table, however few entries
# it expects.
_entries = text(
    """
    SELECT epoch, n, CAST(extract(epoch FROM occurred_at) * 1000000 AS bigint) AS at_us,
           substr(sha256(convert_to(CAST(jsonb_build_array(
               shard, epoch, n, extract(epoch FROM occurred_at), tenant, subject, metric, kind, amount, change,
               used_after, plan, period_kind, extract(epoch FROM period_start), extract(epoch FROM period_end),
               receipt_first_n, receipt_count, request_id, idempotency_key, operation, reason, metadata, detail,
               parts, caps, attempt, route, actor, is_late
           ) AS text), 'UTF8')), 1, 8) AS digest
    FROM entries
    WHERE shard = :shard AND (epoch, n) > (:after_epoch, :after_n) AND (epoch, n) <= (:through_epoch, :through_n)
      AND (epoch, n, CAST(extract(epoch FROM occurred_at) * 1000000 AS bigint)) NOT IN (
          SELECT * FROM unnest(CAST(:epochs AS bigint[]), CAST(:ns AS bigint[]), CAST(:instants AS bigint[]))
      )
    ORDER BY epoch, n, occurred_at LIMIT :most
    """
)

Instant = tuple[int, int, int]
"""Epoch, n and microseconds: what tells a forked entry from the one whose place it has."""

Number = Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)]
"""Beyond it there is no epoch, no n, and no instant that a `datetime` could hold."""
Ranges = Annotated[tuple[tuple[Number, Number, Number], ...], Meta(min_length=1)]
Instants = tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """`ranges` are epoch, first and last n of neighbours; `digests` those of its entries, in their order. It has no
    ranges where those that it was found with cannot be of so many digests: the tables' owner may write anything."""

    shard: int
    seq: int
    kind: str
    ranges: tuple[tuple[int, int, int], ...]
    instants: tuple[int, ...]
    digests: bytes
    hash: bytes

    @property
    def places(self) -> list[Place]:
        return [Place(epoch, n) for epoch, first, last in self.ranges for n in range(first, last + 1)]

    @property
    def before(self) -> Place:
        """Behind this place its first entry stands."""
        epoch, first, _ = min(self.ranges)
        return Place(epoch, first - 1)

    @property
    def through(self) -> Place:
        epoch, _, last = self.ranges[-1]
        return Place(epoch, last)

    def hashed(self, before: bytes) -> bytes:
        """What its hash must be, after a link with that hash."""
        words = msgspec.json.encode([self.shard, self.seq, self.kind, self.ranges, self.instants])
        return sha256(before + words + self.digests).digest()


def extend(connection: Connection, shard: int, most: int = MAX_ENTRIES) -> int:
    """Links the next entries that nothing has linked yet; how many: fewer than `most` if there are no more. Conflict
    where `linked_through` says so."""
    connection.execute(_one_at_a_time, {"shard": shard})
    last = _last(connection, shard)
    after = linked_through(connection, shard) or Place(0, -1)
    offset = shards.offsets(connection)[shard]
    others = sorted(each for each in forked(connection, shard) if Place(*each[:2]) > after)
    rows = read_entries(connection, shard, after, offset, most, left_out=others)
    if rows:
        add_link(connection, shard, "run", rows, last)
    return len(rows)


def link_fork(connection: Connection, shard: int, instants: Sequence[Instant]) -> None:
    """Links entries at places that the ledger had passed, in the transaction that writes them."""
    connection.execute(_one_at_a_time, {"shard": shard})
    wanted = set(instants)
    first, final = min(wanted), max(wanted)
    found = read_entries(connection, shard, Place(first[0], first[1] - 1), Place(final[0], final[1]), None)
    rows = [row for row in found if instant_of(row) in wanted]
    if rows:
        add_link(connection, shard, "fork", rows, _last(connection, shard))


def linked_through(connection: Connection, shard: int) -> Place | None:
    """Up to where a shard's entries are linked; None if none is. Conflict if the link that would tell cannot."""
    last = _last(connection, shard, "run")
    if last is not None and not last.ranges:
        raise Conflict(
            f"the link {last.seq} of shard {shard} is not as it was made, and nobody can tell what it links: "
            "`quotagate ledger verify` names what was changed"
        )
    return None if last is None else last.through


def links_of(connection: Connection, shard: int, after_seq: int, most: int) -> list[Link]:
    """The next links of a shard."""
    query = select(links).where(links.c.shard == shard, links.c.seq > after_seq).order_by(links.c.seq).limit(most)
    return [_link(row) for row in connection.execute(query)]


_one_at_a_time = text("SELECT pg_advisory_xact_lock(7261003, :shard)")


def read_entries(
    connection: Connection,
    shard: int,
    after: Place,
    through: Place,
    most: int | None,
    *,
    left_out: Sequence[Instant] = (),
) -> Sequence[Any]:
    """Rows of epoch, n, `at_us` and digest, by their places, up to `most`; those of `left_out` are not among them."""
    wanted = {
        "shard": shard,
        "after_epoch": after.epoch,
        "after_n": after.n,
        "through_epoch": through.epoch,
        "through_n": through.n,
        "most": most,
        "epochs": [epoch for epoch, _, _ in left_out],
        "ns": [n for _, n, _ in left_out],
        "instants": [at_us for _, _, at_us in left_out],
    }
    return connection.execute(_entries, wanted).all()


def instant_of(row: Any) -> Instant:
    return (row.epoch, row.n, row.at_us)


def _last(connection: Connection, shard: int, kind: str | None = None) -> Link | None:
    query = select(links).where(links.c.shard == shard).order_by(links.c.seq.desc()).limit(1)
    row = connection.execute(query if kind is None else query.where(links.c.kind == kind)).one_or_none()
    return None if row is None else _link(row)


def forked(connection: Connection, shard: int) -> set[Instant]:
    """The entries of all forks: few, because Redis is looked at before it is used. A link that can be none tells of
    none."""
    query = select(links).where(links.c.shard == shard, links.c.kind == "fork")
    return {
        (place.epoch, place.n, at)
        for link in map(_link, connection.execute(query))
        if link.ranges
        for place, at in zip(link.places, link.instants, strict=True)
    }


def _link(row: Any) -> Link:
    digests = bytes(row.digests)
    ranges, instants = _shaped(row.ranges, row.instants or ())
    linked = sum(last - first + 1 for _, first, last in ranges)
    fits = linked * DIGEST_BYTES == len(digests) and len(instants) == (linked if row.kind == "fork" else 0)
    return Link(row.shard, row.seq, row.kind, ranges if fits else (), instants, digests, bytes(row.hash))


def _shaped(ranges: Any, instants: Any) -> tuple[Ranges, Instants]:
    """What the database has, if each range goes forward; nothing if it is anything else."""
    try:
        shaped = msgspec.convert(ranges, Ranges), msgspec.convert(instants, Instants)
    except msgspec.ValidationError:
        return (), ()
    return shaped if all(first <= last for _, first, last in shaped[0]) else ((), ())


def add_link(connection: Connection, shard: int, kind: str, rows: Sequence[Any], last: Link | None) -> None:
    link = Link(
        shard,
        1 if last is None else last.seq + 1,
        kind,
        tuple(_ranges(rows)),
        tuple(row.at_us for row in rows) if kind == "fork" else (),
        b"".join(bytes(row.digest) for row in rows),
        b"",
    )
    connection.execute(
        insert(links).values(
            shard=shard,
            seq=link.seq,
            kind=kind,
            ranges=link.ranges,
            instants=list(link.instants) or None,
            digests=link.digests,
            hash=link.hashed(NO_HASH if last is None else last.hash),
        )
    )


def _ranges(rows: Sequence[Any]) -> Iterator[tuple[int, int, int]]:
    epoch, first, last = rows[0].epoch, rows[0].n, rows[0].n
    for row in rows[1:]:
        if (row.epoch, row.n) != (epoch, last + 1):
            yield epoch, first, last
            epoch, first = row.epoch, row.n
        last = row.n
    yield epoch, first, last
