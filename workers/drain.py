"""The drain: moves entries from the journal into the ledger, exactly once.

The offset lives in the ledger and moves in the transaction that writes the entries; only after the commit is the
journal trimmed. So a drain may die anywhere, run twice or run beside another one. A shard's row lock makes one drain at
a time the only one for that shard, and is taken before the journal is read.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.exceptions import ResponseError
from sqlalchemy import Connection, Engine

from ledger import chain, entries, holds, losses, reconciliations, shards
from ledger.staging import stage, unstage
from ledger.store import ALL_TENANTS, transaction
from quota.account_reading import Accounts
from quota.errors import Unsafe, first_line
from quota.journal import Entry, Item, Journal, Place
from workers.reading_ahead import BEGINNING, ReadingAhead, lines_after

MAX_BATCH_ENTRIES = 20_000
"""Entries in one transaction: beyond this a larger COPY is no faster, and a lost one costs more to repeat."""
MAX_SINGLE_ENTRIES = 1_000
TIDY_EVERY_S = 1.0
WAIT_MS = 250
"""How long one blocking read may hold on, so that a stop is heard soon."""
REFUSED = re.compile("(MISCONF|NOREPLICAS) ")
"""How Redis says that it takes no writes: it cannot write to its disk, or has not enough replicas."""
LOCKED_PAUSE_S = 0.02
"""Another drain holds every shard that has something: it will be through in about this time."""
KEY_RETENTION_S = 86_400
"""How long a second use of an idempotency key is a repeat, unless the settings say otherwise."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Found:
    """What the journals of some shards held: the `batch` that follows their offsets, and its `rows`, `through` which it
    brings them, `forked` entries before those, and the last item that was `looked_at`."""

    batch: list[Entry] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    forked: list[Entry] = field(default_factory=list)
    through: dict[int, Place] = field(default_factory=dict)
    looked_at: dict[int, Item] = field(default_factory=dict)


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
        self._ahead = ReadingAhead(journal)
        self._accounts = Accounts(journal.connection)
        self._untrimmed: dict[int, Item] = {}
        with transaction(engine, ALL_TENANTS) as connection:
            self._offsets = shards.offsets(connection)
            self._store_id = shards.store_id(connection)
        self._tidy_at = 0.0

    def run_once(self, wait_ms: int = 0) -> Drained:
        """One bounded batch of whatever waits in any shard; nothing, if nothing comes within `wait_ms`."""
        waiting = self._leftovers() or self._journal.wait(self._offsets, max(wait_ms, 1))
        if not waiting:
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

    def _leftovers(self) -> list[int]:
        """The shards whose journal begins with what the ledger should have already: whoever drained it was killed after
        its commit and before it trimmed, or Redis went back in time. Looked for once a second."""
        if time.monotonic() < self._tidy_at:
            return []
        self._tidy_at = time.monotonic() + TIDY_EVERY_S
        found = self._journal.beginnings(list(self._offsets))
        return [shard for shard, first in found.items() if first <= self._offsets[shard]]

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
            found = self._read(connection, locked, most)
            if found.forked:
                self._take_in(connection, found.forked)
            inserted = self._write(connection, found) if found.batch else 0
            lost = self._advance(connection, found.through)
        for each in lost:
            each.log()
        self._offsets |= found.through
        self._tidy_at, tidy_at = 0.0, self._tidy_at  # should this be killed before it has trimmed
        self._trim(found.looked_at)
        self._tidy_at = tidy_at
        if not found.looked_at:
            return None
        now_ms = self._journal.now_ms()
        return Drained(inserted, max((now_ms - entry.occurred_at_ms for entry in found.batch), default=0))

    def _move_singly(self, waiting: Sequence[int]) -> Drained:
        """One entry a transaction, so that the one which the ledger cannot take is found, and only it is set aside."""
        inserted = lag_ms = 0
        for shard in waiting:
            for _ in range(MAX_SINGLE_ENTRIES):
                first = next((Place.parsed(name.decode()) for name, _ in self._next(shard)), None)
                try:
                    drained = self._move([shard], 1)
                except entries.Unacceptable as error:
                    self._skip(shard, first, first_line(error))
                    continue
                if drained is None:
                    break
                inserted, lag_ms = inserted + drained.entries, max(lag_ms, drained.lag_ms)
        return Drained(inserted, lag_ms)

    def _skip(self, shard: int, first: Place | None, reason: str) -> None:
        """Sets aside the first entry of a journal, unless another drain has dealt with it meanwhile."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            offset = shards.lock(connection, [shard]).get(shard)
            items = self._next(shard)
            if offset is None or not items or Place.parsed(items[0][0].decode()) != first:
                return
            place = self._set_aside(connection, shard, items[0], reason)
            lost = self._advance(connection, {shard: max(place, offset)})
        for each in lost:
            each.log()
        self._offsets[shard] = max(place, offset)
        self._trim({shard: items[0]})

    def _trim(self, looked_at: dict[int, Item]) -> None:
        """Forgets what was looked at, or keeps in mind how far that is, where Redis takes no writes: what follows is
        read and booked all the same, since all of it may be lost with that Redis."""
        for shard, item in (self._untrimmed | looked_at).items():
            try:
                self._journal.trim(shard, item)
            except ResponseError as error:
                if not REFUSED.match(str(error)):
                    raise
                if not self._untrimmed:
                    log.warning("what the ledger has cannot be trimmed", reason=first_line(error))
                self._untrimmed[shard] = item
            else:
                self._untrimmed.pop(shard, None)

    def _looked_through(self, shard: int) -> Place:
        """After which place a journal is to be read: normally it begins with the first entry that is not in the ledger,
        or with what Redis gave out again at places before."""
        item = self._untrimmed.get(shard)
        return BEGINNING if item is None else Place.parsed(item[0].decode())

    def _next(self, shard: int) -> list[Item]:
        return self._journal.read(shard, self._looked_through(shard), 1)

    def _advance(self, connection: Connection, through: dict[int, Place]) -> list[losses.Loss]:
        """Moves the offsets of shards. An epoch that the ledger has not heard of began in Redis, and what gave it out
        did not live to commit it: what had been lost before it is told here, in its place."""
        if not through:
            return []
        begun = losses.begun_unheard(connection, through)
        lost = losses.tell_of_begun(connection, begun, self._accounts.standings(list(begun)), {}) if begun else []
        shards.advance(connection, through)
        return lost

    def _read(self, connection: Connection, offsets: dict[int, Place], most: int) -> "_Found":
        found = _Found()
        # Each shard has its share, so that a busy one does not keep the others waiting.
        share = max(1, most // len(offsets))
        ahead, goes_on = self._ahead.taken(offsets), {}
        for shard, offset in offsets.items():
            last, old = offset, []
            aside: set[str] | None = None  # asked for only where something lies at places that were passed
            lines = ahead.get(shard) or lines_after(self._journal, shard, self._looked_through(shard), share)
            if len(lines) >= share > 1:
                goes_on[shard] = lines[share - 1].place
            for place, item, entry, row in lines[:share]:
                found.looked_at[shard] = item
                if isinstance(entry, ValueError):
                    if place <= offset and aside is None:
                        aside = reconciliations.set_aside(connection, shard)
                    if str(place) not in (aside or ()):
                        self._set_aside(connection, shard, item, str(entry))
                    last = max(last, place)
                    continue
                if place <= offset:
                    old.append(entry)
                    continue
                if not place.follows(last):
                    self._tell_of_loss(connection, shard, "gap", place, {"after": str(last), "found": str(place)})
                found.batch.append(entry)
                found.rows.append(row)
                last = place
            if old:
                aside = reconciliations.set_aside(connection, shard) if aside is None else aside
                found.forked += [each for each in entries.unknown(connection, old) if str(each.place) not in aside]
            if last != offset:
                found.through[shard] = last
        self._ahead.begin(goes_on, share)
        return found

    def _tell_of_loss(self, connection: Connection, shard: int, kind: str, seen: Place, detail: dict[str, Any]) -> None:
        """What Redis counts is not what the ledger can know: the shard begins an epoch, and its accounts are brought in
        anew. The gateways see that within two seconds (gateway/epochs.py)."""
        log.error("the journal is not what the ledger must follow", shard=shard, kind=kind, **detail)
        reconciliations.add_incidents(connection, shard, kind, [detail])
        shards.leave_epoch(connection, shard, seen.epoch)

    def _take_in(self, connection: Connection, forked: Sequence[Entry]) -> None:
        """Entries at places that the ledger has passed, and which it has not got: Redis went back in time, and gave out
        those places again. They are real, and count; what they say of balances does not."""
        for shard in sorted({entry.shard for entry in forked}):
            places = [entry.place for entry in forked if entry.shard == shard]
            detail = {"from": str(min(places)), "through": str(max(places)), "entries": len(places)}
            self._tell_of_loss(connection, shard, "fork", max(places), detail)
        stage(connection, forked)
        entries.book(connection, forked, self._key_retention_s)
        unstage(connection)
        for hold in holds.passed_over(connection, forked):
            # Its id names another hold, and only one of two can be settled by it.
            detail = {"hold": str(hold.place), "amount": hold.amount, **hold.account._asdict()}
            log.error("a reservation was lost: Redis had given its place to another", shard=hold.shard, **detail)
            reconciliations.add_incidents(connection, hold.shard, "lost_hold", [detail])
        for shard in sorted({entry.shard for entry in forked}):
            instants = [
                (entry.place.epoch, entry.place.n, entry.occurred_at_ms * 1000)
                for entry in forked
                if entry.shard == shard
            ]
            chain.link_fork(connection, shard, instants)

    def _set_aside(self, connection: Connection, shard: int, item: Item, reason: str) -> Place:
        entry, fields = item[0].decode(), item[1]
        log.error("an entry cannot be read and was set aside", shard=shard, entry=entry, reason=reason)
        detail = {"entry": entry, "reason": reason, "fields": repr(fields)}
        reconciliations.add_incidents(connection, shard, "unreadable", [detail])
        return Place.parsed(entry)

    def _write(self, connection: Connection, found: _Found) -> int:
        stage(connection, found.batch, found.rows)
        for wrong in entries.wrong_arithmetic(connection):
            log.error("an entry does not follow from the one before", **wrong)
            reconciliations.add_incidents(connection, wrong["shard"], "arithmetic", [wrong])
        return entries.book(connection, found.batch, self._key_retention_s)
