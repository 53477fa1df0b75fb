"""What this process has told its callers of late: only whoever told them knows what was lost with Redis."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quota.journal import Place
from quota.keys import AccountName, account_of
from quota.replies import Reply

MAX_RECENT = 20_000
"""Answers of some seconds: what is older is in the ledger, unless that has been away."""


@dataclass(frozen=True, slots=True)
class Told:
    """An entry that a caller was told of."""

    shard: int
    place: Place
    occurred_at_ms: int
    account_key: str
    amount: int

    @property
    def account(self) -> AccountName:
        return account_of(self.account_key)[1]


class Acknowledged:
    """Bound to the answers of one process."""

    def __init__(self) -> None:
        self._last: dict[int, Place] = {}
        # Tuples of plain values, of which the garbage collector takes no notice.
        self._recent: deque[tuple[int, int, int, int, tuple[tuple[str, int | None], ...]]] = deque(maxlen=MAX_RECENT)
        self._dropped: dict[tuple[int, int], int] = {}
        self._unsettled: dict[int, int] = {}

    def heard(self, shard: int, reply: Reply) -> None:
        """Keeps in mind what a caller is told."""
        if reply.first_n is None or reply.replayed:
            return
        last = self._last.get(shard)
        place = Place(reply.epoch, reply.first_n + len(reply.accounts) - 1)
        if last is None or place > last:
            self._last[shard] = place
        self._unsettled.setdefault(shard, place.epoch)
        if len(self._recent) == MAX_RECENT:
            of_shard, epoch, first_n, _, charges = self._recent[0]
            self._dropped[of_shard, epoch] = first_n + len(charges) - 1
        charges = tuple((each.account_key, each.amount) for each in reply.accounts)
        self._recent.append((shard, reply.epoch, reply.first_n, reply.now_ms, charges))

    def last(self, shard: int) -> Place:
        """The last place that a caller was told of."""
        return self._last.get(shard, Place(0, 0))

    def dropped(self, shard: int, epoch: int) -> int | None:
        """The last `n` in an epoch that a caller was told of, and that is not kept in mind any more."""
        return self._dropped.get((shard, epoch))

    def ended(self, epochs: Mapping[int, int]) -> dict[int, list[int]]:
        """The shards in which epochs have ended that callers were told of, and which, the first one first: there may be
        several, where Redis was lost again before all was known of the last time. `epochs` are those that run."""
        found: dict[int, set[int]] = {
            shard: set() for shard, epoch in self._unsettled.items() if shard in epochs and epoch < epochs[shard]
        }
        for shard, epoch, *_ in list(self._recent) if found else ():
            if shard in found and self._unsettled[shard] <= epoch < epochs[shard]:
                found[shard].add(epoch)
        for shard, epoch in self._dropped:
            if shard in found and self._unsettled[shard] <= epoch < epochs[shard]:
                found[shard].add(epoch)
        return {shard: sorted(each) for shard, each in found.items()}

    def settle(self, shard: int, epoch: int) -> None:
        """Says that what was lost before this epoch is known."""
        self._unsettled[shard] = epoch
        for each in [each for each in self._dropped if each[0] == shard and each[1] < epoch]:
            del self._dropped[each]

    def of_epoch(self, shard: int, epoch: int) -> Iterator[Told]:
        """The entries of an epoch that callers were told of, as far as they are kept in mind."""
        for each_shard, each_epoch, first_n, at_ms, charges in list(self._recent):
            if (each_shard, each_epoch) == (shard, epoch):
                for place, (account_key, amount) in enumerate(charges):
                    yield Told(shard, Place(epoch, first_n + place), at_ms, account_key, amount or 0)
