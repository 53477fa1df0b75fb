"""The drain: moves entries from the journal into the ledger, exactly once.

The offset lives in the ledger and moves in the transaction that writes the entries; only after the commit is the
journal trimmed. So a drain may die anywhere, run twice or run beside another one. A shard's row lock makes one drain at
a time the only one for that shard, and is taken before the journal is read.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, Engine

from ledger import entries, reconciliations, shards
from ledger.staging import stage
from ledger.store import ALL_TENANTS, transaction
from quota.errors import Unsafe
from quota.journal import Entry, Journal, Place, parsed_entry

MAX_BATCH_ENTRIES = 20_000
"""Entries in one transaction: beyond this a larger COPY is no faster, and a lost one costs more to repeat."""
READ_ENTRIES = 500
"""Entries in one read: Redis serves nobody else meanwhile."""
MAX_SINGLE_ENTRIES = 1_000
WAIT_MS = 250
"""How long one blocking read may hold on, so that a stop is heard soon."""

LOCKED_PAUSE_S = 0.02
"""Another drain holds every shard that has something: it will be through in about this time."""
KEY_RETENTION_S = 86_400
"""How long a second use of an idempotency key is a repeat, unless the settings say otherwise."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Drained:
    """`entries` were new to the ledger. `lag_ms` is the age of the oldest of them when it was committed."""

    entries: int = 0
    lag_ms: int = 0


class Drain:
    """Bound to one journal and one ledger; knows how far it has come, so that waiting needs no query."""

    def __init__(self, journal: Journal, engine: Engine, key_retention_s: int = KEY_RETENTION_S) -> None:
        self._journal = journal
        self._engine = engine
        self._key_retention_s = key_retention_s
        with transaction(engine, ALL_TENANTS) as connection:
            self._offsets = shards.offsets(connection)
            self._store_id = shards.store_id(connection)
        # Whoever drained before may have been killed after its commit and before it trimmed.
        self._has_leftovers = True

    def run_once(self, wait_ms: int = 0) -> Drained:
        """One bounded batch of whatever waits in any shard; nothing, if nothing comes within `wait_ms`."""
        waiting = self._journal.wait(self._offsets, max(wait_ms, 1))
        if not waiting:
            self._trim_leftovers()
            return Drained()
        try:
            return self._move(waiting, MAX_BATCH_ENTRIES) or Drained()
        except entries.Unacceptable:
            return self._move_singly(waiting)

    def run(self, hold_s: float, stopping: Callable[[], bool], report: Callable[[Drained], None]) -> int:
        """Drains for some seconds; how many entries it moved."""
        moved = 0
        deadline = time.monotonic() + hold_s
        while time.monotonic() < deadline and not stopping():
            drained = self.run_once(WAIT_MS)
            if drained.entries:
                report(drained)
            moved += drained.entries
        return moved

    def _trim_leftovers(self) -> None:
        if self._has_leftovers:
            for shard, offset in self._offsets.items():
                self._journal.trim(shard, offset)
            self._has_leftovers = False

    def _move(self, waiting: Sequence[int], most: int) -> Drained | None:
        """Moves at most so many entries in one transaction; None if there was nothing that nobody else moves."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            locked = shards.lock(connection, waiting)
            if not locked:
                time.sleep(LOCKED_PAUSE_S)
                return None
            self._offsets |= locked
            if foreign := self._journal.foreign(list(locked), self._store_id):
                raise Unsafe(
                    f"shard {foreign[0]} in this Redis belongs to another ledger, and its entries are not taken: "
                    "QUOTAGATE_REDIS_URL and QUOTAGATE_DATABASE_URL do not belong together"
                )
            batch, through = self._read(connection, locked, most)
            inserted = self._write(connection, batch) if batch else 0
            if through:
                shards.advance(connection, through)
        self._offsets |= through
        had_leftovers, self._has_leftovers = self._has_leftovers, True
        for shard, place in through.items():
            self._journal.trim(shard, place)
        self._has_leftovers = had_leftovers
        if not through:
            return None
        now_ms = self._journal.now_ms()
        return Drained(inserted, max((now_ms - entry.occurred_at_ms for entry in batch), default=0))

    def _move_singly(self, waiting: Sequence[int]) -> Drained:
        """One entry a transaction, so that the one which the ledger cannot take is found, and only it is set aside."""
        inserted = lag_ms = 0
        for shard in waiting:
            for _ in range(MAX_SINGLE_ENTRIES):
                try:
                    drained = self._move([shard], 1)
                except entries.Unacceptable as error:
                    self._skip(shard, self._offsets[shard], str(error).splitlines()[0])
                    continue
                if drained is None:
                    break
                inserted, lag_ms = inserted + drained.entries, max(lag_ms, drained.lag_ms)
        return Drained(inserted, lag_ms)

    def _skip(self, shard: int, after: Place, reason: str) -> None:
        """Sets aside the entry that follows a place, unless another drain has dealt with it meanwhile."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            if shards.lock(connection, [shard]).get(shard) != after:
                return
            for entry_id, fields in self._journal.read(shard, after, 1):
                place = self._set_aside(connection, shard, entry_id, fields, reason)
                shards.advance(connection, {shard: place})
                self._offsets[shard] = place

    def _read(
        self, connection: Connection, offsets: dict[int, Place], most: int
    ) -> tuple[list[Entry], dict[int, Place]]:
        batch: list[Entry] = []
        through: dict[int, Place] = {}
        # Each shard has its share, so that a busy one does not keep the others waiting.
        share = max(1, most // len(offsets))
        for shard, offset in offsets.items():
            last = offset
            for entry_id, fields in self._items(shard, offset, share):
                try:
                    entry = parsed_entry(shard, entry_id, fields)
                except ValueError as error:
                    last = self._set_aside(connection, shard, entry_id, fields, str(error))
                    continue
                if not entry.place.follows(last):
                    detail = {"after": str(last), "found": str(entry.place)}
                    log.error("entries are missing from the journal", shard=shard, **detail)
                    reconciliations.add_incidents(connection, shard, "gap", [detail])
                batch.append(entry)
                last = entry.place
            if last != offset:
                through[shard] = last
        return batch, through

    def _items(self, shard: int, after: Place, most: int) -> Iterator[tuple[bytes, Mapping[bytes, bytes]]]:
        while most > 0:
            items = self._journal.read(shard, after, min(READ_ENTRIES, most))
            yield from items
            if len(items) < READ_ENTRIES:
                return
            after = Place.parsed(items[-1][0].decode())
            most -= len(items)

    def _set_aside(self, connection: Connection, shard: int, entry_id: bytes, fields: object, reason: str) -> Place:
        log.error("an entry cannot be read and was set aside", shard=shard, entry=entry_id.decode(), reason=reason)
        detail = {"entry": entry_id.decode(), "reason": reason, "fields": repr(fields)}
        reconciliations.add_incidents(connection, shard, "unreadable", [detail])
        return Place.parsed(entry_id.decode())

    def _write(self, connection: Connection, batch: Sequence[Entry]) -> int:
        stage(connection, batch)
        for wrong in entries.wrong_arithmetic(connection):
            log.error("an entry does not follow from the one before", **wrong)
            reconciliations.add_incidents(connection, wrong["shard"], "arithmetic", [wrong])
        return entries.book(connection, batch, self._key_retention_s)
