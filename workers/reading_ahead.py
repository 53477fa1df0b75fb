"""What journals hold, read a bounded piece at a time; and the next piece, while Postgres works on the one before.

Only a shard that has more than its share of a batch is read ahead of: after an outage, say, when there is much to catch
up with. What was read ahead is used only if nothing has changed since, which is seen under the shard's lock: its offset
is where the piece began, the journal begins with the piece's first entry, and still has its last one. A Redis that went
back in time meanwhile and counted on has others behind the first.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from redis.exceptions import RedisError

from ledger.staging import row_of
from quota.journal import Entry, Item, Journal, Place, parsed_entry

READ_ENTRIES = 500
"""Entries in one read: Redis serves nobody else meanwhile."""
BEGINNING = Place(0, 0)


class Line(NamedTuple):
    """Where an item of a journal stands, the item, and what it says, also as a `row` for the ledger; or why it cannot
    be read."""

    place: Place
    item: Item
    entry: Entry | ValueError
    row: str = ""


def lines_after(journal: Journal, shard: int, after: Place, most: int) -> list[Line]:
    """Up to so many lines of a shard's journal."""
    found: list[Line] = []
    while len(found) < most:
        wanted = min(READ_ENTRIES, most - len(found))
        items = journal.read(shard, after, wanted)
        for item in items:
            after = Place.parsed(item[0].decode())
            try:
                entry = parsed_entry(shard, *item)
                found.append(Line(after, item, entry, row_of(entry)))
            except (ValueError, OverflowError) as error:  # an instant that no calendar has
                found.append(Line(after, item, ValueError(error)))
        if len(items) < wanted:
            break
    return found


class ReadingAhead:
    """Bound to one journal; one thread."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._thread: ThreadPoolExecutor | None = None
        self._pieces: dict[int, tuple[Place, Future[list[Line]]]] = {}

    def begin(self, wanted: Mapping[int, Place], most: int) -> None:
        """Reads so many lines of each of these shards, after these places."""
        if wanted and self._thread is None:
            self._thread = ThreadPoolExecutor(1, "quotagate-reading-ahead")
        for shard, after in wanted.items():
            assert self._thread is not None, "it was made above"
            self._pieces[shard] = (after, self._thread.submit(lines_after, self._journal, shard, after, most))

    def taken(self, offsets: Mapping[int, Place]) -> dict[int, list[Line]]:
        """What was read of shards that stand, locked, at these offsets, if it holds still; all else is forgotten."""
        pieces, self._pieces = self._pieces, {}
        candidates = {shard: piece for shard, (after, piece) in pieces.items() if offsets.get(shard) == after}
        read = {}
        for shard, piece in candidates.items():
            with suppress(RedisError):
                read[shard] = piece.result()
        read = {shard: lines for shard, lines in read.items() if lines}
        if not read:
            return {}
        firsts = self._journal.beginnings(list(read))
        lasts = self._journal.at({shard: lines[-1].place for shard, lines in read.items()})
        return {
            shard: lines
            for shard, lines in read.items()
            if (firsts.get(shard), lasts.get(shard)) == (lines[0].place, lines[-1].item[1])
        }
