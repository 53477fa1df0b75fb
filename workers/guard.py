"""When drift is too much to be corrected: whatever causes it would go on, or it is the ledger that is wrong. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.comparing import Compared

LEAST_DRIFTED = 10
"""Fewer than this say nothing of a share, nor of a direction: a shard may have three accounts."""


@dataclass(slots=True)
class Tally:
    """How many accounts of each shard were compared, differ in either direction, or are damaged."""

    compared: Counter[int] = field(default_factory=Counter)
    too_high: Counter[int] = field(default_factory=Counter)
    too_low: Counter[int] = field(default_factory=Counter)
    damaged: Counter[int] = field(default_factory=Counter)

    @property
    def drifted(self) -> int:
        return self.too_high.total() + self.too_low.total() + self.damaged.total()

    def add(self, batch: Compared) -> None:
        self.compared.update(each.shard for each in batch.compared)
        self.damaged.update(each.shard for each in batch.damaged)
        for each in batch.drifted:
            counter = each.sight.counter
            lacks = each.lacks or sum(bucket.ledger - bucket.counter for bucket in each.buckets)
            (self.too_high if lacks < 0 else self.too_low)[counter.shard] += 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing is corrected, and the shard that most of it is in."""

    shard: int
    reason: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Guard:
    """`most` accounts, and `most_pct` percent of those that were compared, may drift and be corrected."""

    most: int = 100
    most_pct: int = 10

    def refusal(self, tally: Tally) -> Refusal | None:
        """None: correct it."""
        drifted, compared = tally.drifted, tally.compared.total()
        if not drifted:
            return None
        worst = (tally.too_high + tally.too_low + tally.damaged).most_common(1)[0][0]
        numbers = {"drifted": drifted, "compared": compared}
        if drifted > self.most:
            return Refusal(worst, f"{drifted} accounts drifted, and at most {self.most} are corrected", numbers)
        if drifted >= LEAST_DRIFTED and drifted * 100 > self.most_pct * compared:
            reason = f"{drifted} of {compared} accounts drifted, and at most {self.most_pct} % of them are corrected"
            return Refusal(worst, reason, numbers)
        return next(filter(None, (self._one_sided(tally, shard) for shard in _shards(tally))), None)

    def _one_sided(self, tally: Tally, shard: int) -> Refusal | None:
        """A shard that has lost something, or was counted twice, is wrong in one direction."""
        high, low, compared = tally.too_high[shard], tally.too_low[shard], tally.compared[shard]
        if (high and low) or high + low < LEAST_DRIFTED or (high + low) * 2 < compared:
            return None
        direction = "too high" if high else "too low"
        reason = f"{high + low} of {compared} accounts of shard {shard} are {direction}, and none the other way"
        return Refusal(shard, reason, {"drifted": high + low, "compared": compared, "direction": direction})


def _shards(tally: Tally) -> Sequence[int]:
    return sorted(tally.too_high.keys() | tally.too_low.keys())
