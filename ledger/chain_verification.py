"""Going through the chains of all shards: is every entry as it was when it was linked, and is there no other one?

What is found is named by its shard and place: an entry that was `changed`, `deleted` or `inserted`, or a `link` that
does not follow from the one before it. An entry of an archived month is not there and not deleted; one that nothing has
linked yet can be neither.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from ledger import chain, shards
from ledger.chain import DIGEST_BYTES, NO_HASH, Instant, Link
from quota.journal import Place

BEFORE_ALL = Place(-(1 << 62), 0)
"""Before every place that there could be: whoever inserts an entry may have given it any."""
MAX_BREAKS_A_LINK = 1_000
"""More than anyone reads; all of them are counted as differences up to here, and one is enough."""
LINKS_AT_ONCE = 10


class Head(msgspec.Struct, frozen=True):
    """A shard's last link: its number, and its hash as hexadecimal digits."""

    seq: int
    hash: str


class Walked(msgspec.Struct, kw_only=True):
    """How far it has come: after which link of which shard, and after which place; `is_lost` behind a link that does
    not hold, because nobody knows where its entries end. `linked` entries were compared, `archived` ones are not there,
    `unlinked` ones are in no link yet."""

    shard: int = 0
    seq: int = 0
    hash: str = NO_HASH.hex()
    epoch: int = BEFORE_ALL.epoch
    n: int = BEFORE_ALL.n
    is_lost: bool = False
    links: int = 0
    linked: int = 0
    archived: int = 0
    unlinked: int = 0
    heads: dict[str, Head] = {}

    def result(self) -> dict[str, Any]:
        names = ("links", "linked", "archived", "unlinked", "heads")
        return {name: msgspec.to_builtins(getattr(self, name)) for name in names}


@dataclass(frozen=True, slots=True)
class Archived:
    """Which places are in archives that are not read with the ledger."""

    ranges: Mapping[int, Sequence[tuple[int, int, int]]]
    months: frozenset[tuple[int, int]]

    @classmethod
    def read(cls, connection: Connection) -> "Archived":
        ranges: dict[int, list[tuple[int, int, int]]] = {}
        months = set()
        for row in connection.execute(text("SELECT month, places FROM archives ORDER BY month")):
            months.add((row.month.year, row.month.month))
            for shard, found in row.places.items():
                ranges.setdefault(int(shard), []).extend((epoch, first, last) for epoch, first, last in found)
        return cls({shard: sorted(found) for shard, found in ranges.items()}, frozenset(months))

    def has(self, shard: int, place: Place) -> bool:
        """An entry of a run."""
        ranges = self.ranges.get(shard, ())
        number = bisect_right(ranges, (place.epoch, place.n, 1 << 62))
        return number > 0 and ranges[number - 1][0] == place.epoch and place.n <= ranges[number - 1][2]

    def has_instant(self, at_us: int) -> bool:
        """An entry of a fork."""
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
        return (at.year, at.month) in self.months


@dataclass(frozen=True, slots=True)
class Break:
    """`what` is not as it was when it was linked; the instant tells which entry of a place is meant, if it is there."""

    what: str
    place: Place
    at_us: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a shard before its links are gone through: which of its entries are in archives or in forks, and
    the head that was kept elsewhere, if one was."""

    archived: Archived
    forked: set[Instant]
    kept: Head | None


@dataclass(slots=True)
class Checked:
    """What one link was found to be."""

    breaks: list["Break"] = field(default_factory=list)
    present: int = 0
    archived: int = 0

    def add(self, what: str, place: Place, at_us: int | None = None) -> None:
        if len(self.breaks) < MAX_BREAKS_A_LINK:
            self.breaks.append(Break(what, place, at_us))


def check(connection: Connection, link: Link, before: bytes, after: Place, known: Known) -> Checked:
    """Compares a link with the one before it, whose hash is `before`, and with the entries that it is over. Those of a
    run are all that stand behind `after`, where the run before it ended."""
    checked = Checked()
    # Its shape before anything else: what does not fit its digests could be of any length.
    if not link.ranges or link.hash != link.hashed(before):
        checked.add("link", _end_of(link))
        return checked
    places, is_fork = link.places, link.kind == "fork"
    own = {(place.epoch, place.n, at) for place, at in zip(places, link.instants, strict=is_fork)}
    if is_fork:
        after = link.before
    found: dict[Place, list[tuple[bytes, int]]] = {}
    for row in chain.read_entries(connection, link.shard, after, max(places), None):
        instant = chain.instant_of(row)
        if instant in own if is_fork else instant not in known.forked:
            found.setdefault(Place(row.epoch, row.n), []).append((bytes(row.digest), row.at_us))
    for position, place in enumerate(places):
        digest = link.digests[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]
        there = found.get(place, [])
        if there:
            checked.present += 1
            # Of two at one place, that which was linked is the one that has been there.
            same = next((number for number, each in enumerate(there) if each[0] == digest), None)
            _, at_us = there.pop(same or 0)
            if same is None:
                checked.add("changed", place, at_us)
        elif known.archived.has_instant(link.instants[position]) if is_fork else known.archived.has(link.shard, place):
            checked.archived += 1
        else:
            checked.add("deleted", place)
    for place, others in found.items():
        for _, at_us in others:
            checked.add("inserted", place, at_us)
    return checked


def walk(
    connection: Connection, walked: Walked, kept: Mapping[str, Any], most_entries: int
) -> tuple[list[dict[str, Any]], bool]:
    """Goes on by links with about so many entries, and says what it found, and whether that was all. `kept` are heads
    that were kept elsewhere: `{"<shard>": {"seq", "hash"}}`."""
    offsets, archived = shards.offsets(connection), Archived.read(connection)
    differences: list[dict[str, Any]] = []
    done = 0
    for shard, offset in offsets.items():
        if shard < walked.shard:
            continue
        if shard > walked.shard:
            _begin(walked, shard)
        head = msgspec.convert(kept[str(shard)], Head) if str(shard) in kept else None
        known = Known(archived, chain.forked(connection, shard), head)
        while links := chain.links_of(connection, shard, walked.seq, LINKS_AT_ONCE):
            for link in links:
                differences += _take(connection, walked, link, known)
                done += len(link.digests) // DIGEST_BYTES
                if done >= most_entries:
                    return differences, False
        differences += _end(connection, walked, offset, known)
        _begin(walked, shard + 1)
    return differences, True


def _begin(walked: Walked, shard: int) -> None:
    walked.shard, walked.seq, walked.hash = shard, 0, NO_HASH.hex()
    walked.epoch, walked.n, walked.is_lost = BEFORE_ALL.epoch, BEFORE_ALL.n, False


def _take(connection: Connection, walked: Walked, link: Link, known: Known) -> list[dict[str, Any]]:
    after = link.before if walked.is_lost and link.ranges else Place(walked.epoch, walked.n)
    checked = check(connection, link, bytes.fromhex(walked.hash), after, known)
    does_hold = all(each.what != "link" for each in checked.breaks)
    if known.kept is not None and known.kept.seq == link.seq and known.kept.hash != link.hash.hex():
        checked.breaks = [Break("link", _end_of(link)), *(each for each in checked.breaks if each.what != "link")]
    walked.seq, walked.hash = link.seq, link.hash.hex()
    walked.links += 1
    walked.linked += checked.present
    walked.archived += checked.archived
    if link.kind == "run" and link.ranges:
        walked.epoch, walked.n = link.through.epoch, link.through.n
    if link.kind == "run" or not does_hold:
        walked.is_lost = not does_hold
    walked.heads[str(link.shard)] = Head(link.seq, link.hash.hex())
    return [_difference(connection, link.shard, each, link.seq) for each in checked.breaks]


def _end_of(link: Link) -> Place:
    """Before all, which names no entry, where nobody can tell."""
    return link.through if link.ranges else BEFORE_ALL


def _end(connection: Connection, walked: Walked, offset: Place, known: Known) -> list[dict[str, Any]]:
    """What stands behind a shard's last link: entries that wait for theirs; and behind the offset none."""
    after = Place(walked.epoch, walked.n)
    places = {"epoch": after.epoch, "n": after.n, "offset_epoch": offset.epoch, "offset_n": offset.n}
    row = connection.execute(_behind, places | {"shard": walked.shard, "most": MAX_BREAKS_A_LINK}).one()
    walked.unlinked += row.waiting - sum(after < Place(epoch, n) <= offset for epoch, n, _ in known.forked)
    breaks = [Break("inserted", Place(epoch, n), at_us) for epoch, n, at_us in row.inserted or ()]
    found = [_difference(connection, walked.shard, each, None) for each in breaks]
    if known.kept is not None and known.kept.seq > walked.seq:
        found.append(_difference(connection, walked.shard, Break("link", after), known.kept.seq))
    return found


_behind = text(
    """
    SELECT (
        SELECT count(*) FROM entries
        WHERE shard = :shard AND (epoch, n) > (:epoch, :n) AND (epoch, n) <= (:offset_epoch, :offset_n)
    ) AS waiting, (
        SELECT array_agg(ARRAY[epoch, n, CAST(extract(epoch FROM occurred_at) * 1000000 AS bigint)]) FROM (
            SELECT epoch, n, occurred_at FROM entries WHERE shard = :shard AND (epoch, n) > (:offset_epoch, :offset_n)
            ORDER BY epoch, n LIMIT :most
        ) AS behind
    ) AS inserted
    """
)

_account = text(
    """
    SELECT tenant, subject, metric FROM entries
    WHERE (shard, epoch, n) = (:shard, :epoch, :n)
      AND CAST(extract(epoch FROM occurred_at) * 1000000 AS bigint) = :at_us
    """
)


def _difference(connection: Connection, shard: int, found: Break, seq: int | None) -> dict[str, Any]:
    account, place = None, found.place
    if found.at_us is not None:
        wanted = {"shard": shard, "epoch": place.epoch, "n": place.n, "at_us": found.at_us}
        account = connection.execute(_account, wanted).one_or_none()
    tenant, subject, metric = account or (None, None, None)
    return {
        "what": found.what,
        "tenant": tenant,
        "subject": subject,
        "metric": metric,
        "shard": shard,
        "entry": f"{shard}.{place}" if place > BEFORE_ALL else None,
        "link": seq,
    }
