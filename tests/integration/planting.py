"""Plants faults in the counters and in the journal, one at a time, and says whether they were found.

Found is: told with the account by a reconciliation, or with the place by an incident of the drain.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ledger import shards
from quota import keys, protocol
from quota.journal import Place
from tests.integration.accounts_apart import Members
from tests.integration.pipeline import Pipeline
from workers.guard import Guard
from workers.rebuild import Rebuild, Scope
from workers.reconcile import Reconcile

FIELDS = ("state", "rule", "window", "warned", "denials", "seal", "caps", "grants", "held")
CHANGE, USED_AFTER = 3, 4
LEFT = 3


@dataclass(frozen=True)
class Fault:
    """What was planted, in which account, and at which place of the journal, if in the journal."""

    kind: str
    number: int
    place: Place | None = None


@dataclass
class Planter:
    """A seed repeats what it does."""

    pipeline: Pipeline
    seed: int
    count: int = 40
    planted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.members = Members.opened(self.pipeline, self.count, used=5)
        self._reconcile = Reconcile(self.pipeline.journal, self.pipeline.engine, self.pipeline.drain(), Guard())
        self._rebuild = Rebuild(self.pipeline.connection, self.pipeline.engine)
        self._told = 0

    @property
    def kinds(self) -> list[Callable[[int], Fault]]:
        return [
            self.counter_one_more,
            self.counter_one_less,
            self.counter_put_back,
            self.account_deleted,
            self.text_damaged,
            self.hold_lost,
            self.hold_not_there,
            self.grant_changed,
            self.entry_changed,
            self.entry_unreadable,
            self.entry_missing,
            self.last_entry_missing,
            self.entry_doubled,
        ]

    def plant(self, turn: int) -> Fault:
        """The next fault: each kind in its turn, in any account, with traffic of the others around it."""
        number = self.random.randrange(self.count)
        self.members.consume(self.random.sample(range(self.count), 3))
        fault = self.kinds[turn % len(self.kinds)](number)
        self.planted[fault.kind] += 1
        return fault

    def is_found(self, fault: Fault) -> bool:
        """Drains and reconciles once."""
        self.pipeline.drained()
        run = self._reconcile.run_once()
        subject = self.members.name(fault.number).subject
        incidents = self.pipeline.incidents()
        fresh, self._told = incidents[self._told :], len(incidents)
        return any(drift.subject == subject for drift in run.drifts) or any(
            fault.place is not None and _names(kind, detail, fault.place) for _, kind, detail in fresh
        )

    def heal(self, fault: Fault) -> None:
        """What goes on in a system: an epoch that was left begins, everything is rebuilt, the account is charged."""
        self._begin_epoch_if_left()
        self.members.consume([fault.number])
        self.pipeline.drained()
        self._reconcile.run_once()
        self._begin_epoch_if_left()
        self._told = len(self.pipeline.incidents())

    def left(self) -> list[Any]:
        """What a run finds in a store that is whole again."""
        run = self._reconcile.run_once()
        return [*run.drifts, *self.pipeline.incidents()[self._told :]]

    def _begin_epoch_if_left(self) -> None:
        epoch, _ = self.pipeline.call(shards.standings, [3])[3]
        if self.pipeline.shard.run(protocol.begin_epoch(3, epoch, "")) == "begun":
            self.pipeline.drained()
            assert self._rebuild.run(Scope()).is_complete

    # Faults of counters

    def counter_one_more(self, number: int) -> Fault:
        self.members.tamper(number, 1)
        return Fault("counter +1", number)

    def counter_one_less(self, number: int) -> Fault:
        self.members.tamper(number, -1)
        return Fault("counter -1", number)

    def counter_put_back(self, number: int) -> Fault:
        self.members.put_back(number)
        return Fault("account put back", number)

    def account_deleted(self, number: int) -> Fault:
        self.members.consume([number])
        self.pipeline.connection.delete(self.members.key(number))
        return Fault("account deleted", number)

    def text_damaged(self, number: int) -> Fault:
        name = self.random.choice(FIELDS)
        text = self.members.field(number, name) or "1 2 3"
        # A plan by another name that could be one is no damage that anybody could see.
        place = self.random.randrange(len(text.partition(" ")[0]) if name == "window" else len(text))
        damaged = f"{text[:place]}{chr(ord(text[place]) ^ 0x40)}{text[place + 1 :]}"
        self.members.put(number, name, damaged)
        return Fault("text damaged", number)

    # Faults of what a counter holds, and of what it was given: an account may have some of an earlier fault already

    def hold_lost(self, number: int) -> Fault:
        place = self.members.hold(number)
        self.pipeline.drained()
        self.pipeline.connection.hdel(self.members.key(number), f"h:{place}")
        self._tamper_held(number, -1)
        return Fault("hold lost", number)

    def hold_not_there(self, number: int) -> Fault:
        expires_ms = self.pipeline.shard.now_ms() + 3_600_000
        self._tamper_held(number, 1, expires_ms)
        self.members.put(number, "h:1-999999999", f"1 {expires_ms} 1 -")
        return Fault("hold not there", number)

    def grant_changed(self, number: int) -> Fault:
        self.members.give(number)
        words = self.members.field(number, "grants").split(" ")
        words[LEFT] = str(int(words[LEFT]) + self.random.choice((1, -1)))
        self.members.put(number, "grants", " ".join(words))
        return Fault("grant's remainder changed", number)

    def _tamper_held(self, number: int, by: int, expires_ms: int = 0) -> None:
        """One hold of one unit more, or less."""
        held, holds, first_ms = (int(word) for word in (self.members.field(number, "held") or "0 0 0").split(" "))
        if holds + by:
            self.members.put(number, "held", f"{held + by} {holds + by} {first_ms or expires_ms}")
        else:
            self.pipeline.connection.hdel(self.members.key(number), "held")

    # Faults of the journal

    def entry_changed(self, number: int) -> Fault:
        place = self._entry(number)
        word = self.random.choice((CHANGE, USED_AFTER))

        def more(line: str) -> str:
            words = line.split(" ")
            words[word] = str(int(words[word]) + 1)
            return " ".join(words)

        self._rewrite(place, more)
        return Fault("entry changed", number, place)

    def entry_unreadable(self, number: int) -> Fault:
        place = self._entry(number)
        self._rewrite(place, lambda line: line[: len(line) // 2])
        return Fault("entry unreadable", number, place)

    def entry_missing(self, number: int) -> Fault:
        place = self._entry(number)
        self.members.consume([(number + 1) % self.count])
        self.pipeline.connection.xdel(keys.journal(3), str(place))
        return Fault("entry missing", number, place)

    def last_entry_missing(self, number: int) -> Fault:
        place = self._entry(number)
        self.pipeline.connection.xdel(keys.journal(3), str(place))
        return Fault("last entry missing", number, place)

    def entry_doubled(self, number: int) -> Fault:
        place = self._entry(number)
        ((_, fields),) = self._items(place)
        again: Any = self.pipeline.connection.xadd(keys.journal(3), fields, id=f"{place.epoch}-*")
        return Fault("entry doubled", number, Place.parsed(again.decode()))

    def _entry(self, number: int) -> Place:
        """The place of a new entry of an account, which nobody has drained."""
        self.pipeline.drained()
        self.members.consume([number])
        return Place.parsed(self.members.field(number, "state").split(" ")[1])

    def _items(self, place: Place) -> Any:
        return self.pipeline.connection.xrange(keys.journal(3), str(place), str(place))

    def _rewrite(self, place: Place, change: Callable[[str], str]) -> None:
        items: Any = self.pipeline.connection.xrange(keys.journal(3))
        for name, fields in items:
            if Place.parsed(name.decode()) == place:
                fields[b"line"] = change(fields[b"line"].decode()).encode()
            self.pipeline.connection.xadd("again", fields, id=name)
        self.pipeline.connection.rename("again", keys.journal(3))


def _names(kind: str, detail: dict[str, Any], place: Place) -> bool:
    """Whether an incident says that place."""
    if kind == "gap":
        return Place.parsed(detail["after"]) < place < Place.parsed(detail["found"])
    if kind == "arithmetic":
        return (detail["epoch"], detail["n"]) == (place.epoch, place.n)
    return detail.get("entry") == str(place)
