"""Is a counter what the ledger says it is, at the same entry?

No lock and no quiet time are needed: a counter is read together with its last entry, and compared with the ledger's
balance at that very entry, as soon as the ledger has it. What differs is looked at a second time before it is called a
drift.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import Engine

from ledger import comparison, shards
from ledger.comparison import BEFORE_ALL, BEGINNING, Difference, Expected, Known
from ledger.plans import led_by_index
from ledger.store import ALL_TENANTS, transaction
from quota.account_reading import Accounts, Counter, Damaged
from quota.journal import Journal, Place
from workers.drain import Drain

WAIT_FOR_DRAIN_S = 10.0
"""How long a batch waits for its entries to be in the ledger. It drains itself meanwhile: only a busy shard waits."""
DRAIN_WAIT_MS = 20

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sight:
    """A counter, and what the ledger said of it afterwards."""

    counter: Counter
    known: Known
    buckets: tuple[Difference, ...] = ()
    """What differs in them, as the ledger has them now."""

    @property
    def differs(self) -> bool:
        """At the counter's own entry."""
        return self.counter.used != self.known.at_entry

    def is_older_than(self, place: Place | None) -> bool:
        """Whether the counter does not know of that entry."""
        return place is not None and (self.counter.entry or BEFORE_ALL) < place

    @property
    def through(self) -> Place:
        """The last entry of the account's period, as far as the counter or the ledger knows."""
        return max(self.counter.entry or BEFORE_ALL, self.known.place or BEFORE_ALL)

    @property
    def is_suspect(self) -> bool:
        """Whether it must be looked at again: it differs, or the ledger has entries that it may not know of. It has
        moved on since, mostly."""
        return (
            self.differs
            or bool(self.buckets)
            or (self.is_older_than(self.known.place) and self.counter.used != self.known.used)
        )


def right_balance(now: Sight, before: Sight) -> int | None:
    """What a counter must say that was seen twice; None when nothing is wrong with it, or not for sure."""
    if now.is_older_than(before.known.place):
        # The ledger had that entry before the counter was read again, and still the counter does not know of it: its
        # hash was lost or put back. All that the ledger has is missing in it, not what it had at the counter's entry.
        is_sure = now.known.place == before.known.place and now.counter.used != now.known.used
        return now.known.used if is_sure else None
    return now.known.at_entry if now.differs and before.differs else None


@dataclass(frozen=True, slots=True)
class Drifted:
    """A counter that differs from the ledger, seen twice: the balance that it must have, and which of its buckets
    differ."""

    sight: Sight
    balance: int
    buckets: tuple[Difference, ...] = ()

    @property
    def lacks(self) -> int:
        """Of `used`."""
        return self.balance - self.sight.counter.used

    @property
    def is_more_than_numbers(self) -> bool:
        """Whether holds or grants differ: no difference puts those right."""
        return any(not each.what.startswith("cap ") for each in self.buckets)

    @property
    def caps_lack(self) -> dict[tuple[str, int], int]:
        """Of capped windows, by kind and start_ms."""
        found = {}
        for each in self.buckets:
            if each.what.startswith("cap "):
                _, kind, start_ms = each.what.split(" ")
                found[kind, int(start_ms)] = each.ledger - each.counter
        return found


def drift(now: Sight, before: Sight) -> Drifted | None:
    """What is wrong with a counter that was seen twice; None when nothing is, or not for sure."""
    balance = right_balance(now, before)
    known_before = {(each.what, each.ledger - each.counter) for each in before.buckets}
    buckets = tuple(each for each in now.buckets if (each.what, each.ledger - each.counter) in known_before)
    if not _are_sure(now, before):
        buckets = ()
    if balance is None and not buckets:
        return None
    return Drifted(now, now.counter.used if balance is None else balance, buckets)


def _are_sure(now: Sight, before: Sight) -> bool:
    """Whether what differs in the buckets of both is a difference, and not what came meanwhile: the ledger had nothing
    of which the counter did not know, or both times the same, of which it ought to have known."""
    if now.is_older_than(now.known.place):
        return now.is_older_than(before.known.place) and now.known.place == before.known.place
    return not before.is_older_than(before.known.place)


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of one batch: those that were `compared`, and of them those that differ or are damaged."""

    compared: list[Counter]
    drifted: list[Drifted]
    damaged: list[Damaged]


class Comparing:
    """Bound to one Redis and one ledger."""

    def __init__(self, accounts: Accounts, journal: Journal, engine: Engine, drain: Drain) -> None:
        self._accounts = accounts
        self._journal = journal
        self._engine = engine
        # What several statements say of an account must be of one instant of the ledger.
        self._snapshots = engine.execution_options(isolation_level="REPEATABLE READ")
        self._drain = drain

    def compare(self, names: Sequence[str]) -> Compared:
        """Looks at some accounts, by their keys, and a second time at those that differ."""
        first, damaged = self.look(names)
        suspects = {each.counter.key: each for each in first if each.is_suspect}
        again = [*suspects, *(each.key for each in damaged)]
        if not again:
            return Compared([each.counter for each in first], [], [])
        second, still_damaged = self.look(again)
        drifted = [
            found
            for each in second
            if (before := suspects.get(each.counter.key)) and (found := drift(each, before)) is not None
        ]
        behind = self._shards_behind({each.sight.counter.shard for each in drifted})
        return Compared(
            [each.counter for each in first],
            [each for each in drifted if each.sight.counter.shard not in behind],
            still_damaged,
        )

    def look(self, names: Sequence[str]) -> tuple[list[Sight], list[Damaged]]:
        """What Redis says now, and then the ledger. Those of an older epoch are left out: their next touch brings them
        in anew, whatever they say."""
        counters, damaged = self._accounts.read(names)
        settled = self._settled(counters)
        if not settled:
            return [], damaged
        now_ms = self._journal.now_ms()
        with transaction(self._snapshots, ALL_TENANTS) as connection:
            led_by_index(connection)
            known = comparison.known(connection, settled)
            sights = {each.key: Sight(each, said) for each, said in zip(settled, known, strict=True)}
            asked = [(each.counter, each.through) for each in sights.values()]
            differing = comparison.buckets(connection, asked, now_ms)
        for counter, found in differing:
            sights[counter.key] = replace(sights[counter.key], buckets=found)
        return list(sights.values()), damaged

    def missing(self, batch_size: int, now_ms: int) -> Iterator[list[Expected]]:
        """The accounts that the ledger says Redis must have, and which it has not got, a batch at a time."""
        after = BEGINNING
        while True:
            with transaction(self._engine, ALL_TENANTS) as connection:
                led_by_index(connection)
                page = comparison.expected(connection, after, batch_size, now_ms)
            if page:
                by_name = {each.account.key(each.shard): each for each in page}
                absent = [by_name[name] for name in self._accounts.missing(list(by_name))]
                behind = self._shards_behind({each.shard for each in absent})
                yield [each for each in absent if each.shard not in behind]
            if len(page) < batch_size:
                return
            after = page[-1].after

    def drained_through(self, wanted: Mapping[int, Place]) -> set[int]:
        """Waits until the ledger has these places, and drains meanwhile; the shards of which it has all that there is.
        What it has not got and no journal holds will never come, and is not waited for."""
        deadline = time.monotonic() + WAIT_FOR_DRAIN_S
        nothing_after: dict[int, Place] = {}
        while True:
            with transaction(self._engine, ALL_TENANTS) as connection:
                offsets = shards.offsets(connection)
            # Nothing waited after this very offset: had another drain taken it meanwhile, the offset would have moved.
            lacking = {shard for shard, place in wanted.items() if offsets[shard] < place}
            lacking = {shard for shard in lacking if nothing_after.get(shard) != offsets[shard]}
            if not lacking or time.monotonic() > deadline:
                return wanted.keys() - lacking
            waiting = self._journal.wait({shard: offsets[shard] for shard in lacking}, 1)
            nothing_after = {shard: offsets[shard] for shard in lacking if shard not in waiting}
            self._drain.run_once(DRAIN_WAIT_MS)

    def _settled(self, counters: Sequence[Counter]) -> list[Counter]:
        """Those of the epoch that their shard is in whose last entry is in the ledger, after waiting for it."""
        last: dict[int, Place] = {}
        for each in counters:
            last[each.shard] = max(last.get(each.shard, BEFORE_ALL), each.entry or BEFORE_ALL)
        drained = self.drained_through(last)
        with transaction(self._engine, ALL_TENANTS) as connection:
            standings = shards.standings(connection, list(last))
        living = [each for each in counters if each.epoch >= standings[each.shard][0]]
        settled = [each for each in living if each.shard in drained]
        if late := len(living) - len(settled):
            log.warning("accounts were not compared, because their entries are not in the ledger", accounts=late)
        return settled

    def _shards_behind(self, wanted: set[int]) -> set[int]:
        """Those of the shards in which Redis has lost something, and the gateways are about to begin an epoch: nothing
        is to be said of them, and nothing to be written."""
        if not wanted:
            return set()
        with transaction(self._engine, ALL_TENANTS) as connection:
            known = shards.standings(connection, sorted(wanted))
        behind = {
            shard
            for shard, standing in self._accounts.standings(sorted(wanted)).items()
            if standing.is_behind(*known[shard])
        }
        if behind:
            log.warning("shards were not compared, because Redis has lost something of them", shards=len(behind))
        return behind
