"""The journal as the workers see it: each shard's stream of entries that wait for the ledger.

An entry has two fields. `line` is the script's: kind, instant, amount, change, used after it, its place among the
entries of one receipt, what it refers to, the buckets and capped windows that it counts in, the account's key, and the
account's window. `about` is the caller's JSON: everything that only people ask for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from redis import Redis

from quota import keys, protocol
from quota.formats import NONE, Part, Window, number, parsed_cap_windows, parsed_parts
from quota.keys import AccountName
from quota.scripts import run

KINDS = (
    *("consume", "refund", "hold", "commit", "release", "expire", "grant", "gift", "override", "set", "correct"),
    *("open", "close", "denied", "warned"),
)
"""What an entry may be."""
_KNOWN = frozenset(KINDS)


class About(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Why an entry was made. `attempt` names one try of one request, where its id may name several; `at_ms` is the
    instant of the request, where it was charged later; `route` is the scope of the idempotency key; `origin` says from
    where an operator asked."""

    request_id: str | None = None
    attempt: str | None = None
    idempotency_key: str | None = None
    route: str | None = None
    operation: str | None = None
    reason: str | None = None
    actor: str | None = None
    origin: str | None = None
    at_ms: int | None = None
    metadata: dict[str, str | int | float] | None = None


Item = tuple[bytes, Mapping[bytes, bytes]]
"""An entry as the stream has it: its id, and its fields."""
NO_ABOUT = About()
encode_about = msgspec.json.Encoder().encode
decode_about = msgspec.json.Decoder(About).decode


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where in a shard's journal: `n` counts up by one within an epoch."""

    epoch: int
    n: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"

    @classmethod
    def parsed(cls, text: str) -> "Place":
        epoch, n = text.split("-")
        return cls(int(epoch), int(n))

    def follows(self, other: "Place") -> bool:
        """Whether nothing can be missing between the two."""
        return self.n == (other.n + 1 if self.epoch == other.epoch else 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One immutable line of the ledger, as the journal tells it.

    `used_after` None: it was booked into a period that is over, and only the ledger knows that balance. `detail` is
    what it refers to: the place of the hold or entry that it settles or gives back, a hold's expiry, the cap that a
    denial ran into, `sum:<n>` denials, `grant:<id>`; of units that were taken for another subject, `gift:<id>`; of a
    `close`, `rollover:<left>:<most>:<until_ms>`: what may go on into the period that follows, with `:unseen` where one
    between passed unseen; of a consume that leaves more used than the limit, `over:<n>`; of a reconciliation's
    `correct`, which changes nothing in the ledger, `was:<n>`, and `,<cap>:<n>`: what the counter said before (decision
    013). A person's `correct` has none.
    """

    shard: int
    place: Place
    occurred_at_ms: int
    kind: str
    amount: int
    change: int
    used_after: int | None
    receipt_first_n: int
    receipt_count: int
    detail: str | None
    parts: tuple[Part, ...]
    cap_windows: tuple[tuple[str, int], ...]
    account: AccountName
    window: Window
    about: About


def parsed_entry(shard: int, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    """An Entry from a stream's item; ValueError when it is not one."""
    place = Place.parsed(entry_id.decode())
    try:
        words = fields[b"line"].decode().split(" ", 11)
        kind, at, amount, change, used_after, part, count, detail, parts, caps, account_key, window = words
        if kind not in _KNOWN:
            raise ValueError(f"{kind!r} is no kind of entry")
        about = fields[b"about"]
        return Entry(
            shard,
            place,
            int(at),
            kind,
            int(amount),
            int(change),
            number(used_after),
            place.n - int(part) + 1,
            int(count),
            None if detail == NONE else detail,
            parsed_parts(parts),
            parsed_cap_windows(caps),
            keys.account_of(account_key)[1],
            Window.parsed(window),
            decode_about(about) if about else NO_ABOUT,
        )
    except (LookupError, ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"entry {shard}.{place} cannot be read: {error}") from error


class Journal:
    """Reads and trims the streams of one Redis. Blocking; for workers."""

    def __init__(self, connection: "Redis") -> None:
        self._connection = connection

    @property
    def connection(self) -> "Redis":
        """For what is asked of the same Redis besides its journals."""
        return self._connection

    def foreign(self, shards: Sequence[int], store: str) -> list[int]:
        """Those of the shards that belong to another ledger."""
        pipeline = self._connection.pipeline(transaction=False)
        for shard in shards:
            pipeline.hget(keys.head(shard), "store")
        names = pipeline.execute()
        return [shard for shard, name in zip(shards, names, strict=True) if name and name.decode() != store]

    def wait(self, after: Mapping[int, Place], block_ms: int) -> list[int]:
        """The shards that have an entry after the given place, as soon as one has, else [] after `block_ms`."""
        streams: dict[Any, Any] = {keys.journal(shard): str(place) for shard, place in after.items()}
        found: Any = self._connection.xread(streams, count=1, block=block_ms) or []
        names = {name.decode() for name, _ in (found.items() if isinstance(found, dict) else found)}
        return [shard for shard in after if keys.journal(shard) in names]

    def beginnings(self, shards: Sequence[int]) -> dict[int, Place]:
        """The oldest entry that each shard's journal still has, of those that have one."""
        pipeline = self._connection.pipeline(transaction=False)
        for shard in shards:
            pipeline.xrange(keys.journal(shard), count=1)
        replies = zip(shards, pipeline.execute(), strict=True)
        return {shard: Place.parsed(items[0][0].decode()) for shard, items in replies if items}

    def read(self, shard: int, after: Place, count: int) -> list[Item]:
        """Up to `count` items after a place, oldest first."""
        found: Any = self._connection.xrange(keys.journal(shard), min=f"({after}", count=count)
        return [(item[0], item[1]) for item in found]

    def at(self, places: Mapping[int, Place]) -> dict[int, Mapping[bytes, bytes]]:
        """What stands in each shard's journal at a place, of those where something does."""
        pipeline = self._connection.pipeline(transaction=False)
        for shard, place in places.items():
            pipeline.xrange(keys.journal(shard), min=str(place), max=str(place))
        replies = zip(places, pipeline.execute(), strict=True)
        return {shard: items[0][1] for shard, items in replies if items}

    def trim(self, shard: int, last: Item) -> bool:
        """Forgets what the ledger holds, if the journal still has the last item of it; whether it did. By id and never
        by length, which would drop what was not delivered."""
        through = Place.parsed(last[0].decode())
        return int(run(self._connection, protocol.trim(shard, *last, f"{through.epoch}-{through.n + 1}"))) >= 0

    def waiting(self, after: Mapping[int, Place]) -> int:
        """How many entries the ledger has not got. Trimming lags behind by one batch at the most, so this may count a
        few that it has."""
        pipeline = self._connection.pipeline(transaction=False)
        for shard in after:
            pipeline.xlen(keys.journal(shard))
        return int(sum(pipeline.execute()))

    def oldest_ms(self, after: Mapping[int, Place]) -> int | None:
        """The instant of the oldest entry that the ledger has not got."""
        pipeline = self._connection.pipeline(transaction=False)
        for shard, place in after.items():
            pipeline.xrange(keys.journal(shard), min=f"({place}", count=1)
        instants = [
            parsed_entry(shard, items[0][0], items[0][1]).occurred_at_ms
            for shard, items in zip(after, pipeline.execute(), strict=True)
            if items
        ]
        return min(instants, default=None)

    def now_ms(self) -> int:
        """Redis's clock, which is the one that counts."""
        seconds, microseconds = self._connection.time()
        return int(seconds) * 1000 + int(microseconds) // 1000
