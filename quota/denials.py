"""Denials as an account remembers them, in plain Python: ten a minute are told one by one, the others as one sum, when
the next denial or the period's end comes. The other half of `lua/rules/denials.lua`.
"""

from dataclasses import dataclass, replace

from quota.identifiers import MAX_AMOUNT

DENIALS_A_MINUTE = 10
MINUTE_MS = 60_000


@dataclass(frozen=True)
class Denials:
    """Of the minute that began at `since_ms`: how many were told, how many were not, and of how many units those."""

    since_ms: int = 0
    told: int = 0
    untold: int = 0
    units: int = 0

    def is_open(self, now_ms: int) -> bool:
        return self.since_ms <= now_ms < self.since_ms + MINUTE_MS

    def counted(self, amount: int, now_ms: int) -> tuple["Denials", bool]:
        """With one more, and whether that one is told by itself."""
        counting = self if self.is_open(now_ms) else Denials(now_ms)
        if counting.told < DENIALS_A_MINUTE:
            return replace(counting, told=counting.told + 1), True
        return replace(counting, untold=counting.untold + 1, units=min(MAX_AMOUNT, counting.units + amount)), False

    def summed_up(self) -> "Denials":
        return replace(self, untold=0, units=0)


NONE_DENIED = Denials()
