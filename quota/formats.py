"""The texts that an account's hash, the journal and the scripts' replies are made of; `lua/rules/account.lua` is the
other half of this page. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from quota.entitlement import Entitlement
from quota.periods import Period, PeriodKind

NONE = "-"
UP, DOWN = "up", "down"
"""Which way `modes.adjust` moves a counter."""
NO_PLAN = "~"
"""Not a character of an identifier, so no plan can have this name."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account carries along for people and for the next period; scripts read the warning levels alone."""

    plan: str | None
    kind: PeriodKind
    anchor_ms: int | None
    warn_at_pct: tuple[int, ...]

    @classmethod
    def of(cls, entitlement: Entitlement) -> "Terms":
        return cls(entitlement.plan, entitlement.kind, entitlement.anchor_ms, entitlement.warn_at_pct)


@dataclass(frozen=True, slots=True)
class Window:
    """A period of an account with its terms: `<start_ms> <end_ms | -> <plan> <kind> <anchor_ms | -> <levels | ->`."""

    period: Period
    terms: Terms

    def __str__(self) -> str:
        period, terms = self.period, self.terms
        levels = ",".join(map(str, terms.warn_at_pct)) or NONE
        end, anchor = word(period.end_ms), word(terms.anchor_ms)
        return f"{period.start_ms} {end} {terms.plan or NO_PLAN} {terms.kind} {anchor} {levels}"

    @staticmethod
    @lru_cache(maxsize=4096)  # few plans and calendar periods, many accounts
    def parsed(text: str) -> "Window":
        start, end, plan, kind, anchor, levels = text.split(" ")
        period_kind = PeriodKind(kind)
        return Window(
            Period(period_kind, int(start), number(end)),
            Terms(
                None if plan == NO_PLAN else plan,
                period_kind,
                number(anchor),
                () if levels == NONE else tuple(map(int, levels.split(","))),
            ),
        )


LIFETIME = Window(Period(PeriodKind.LIFETIME, 0, None), Terms(None, PeriodKind.LIFETIME, None, ()))


@dataclass(frozen=True, slots=True)
class CapState:
    """A shorter window inside the period; `spent` is used and held together: `<kind> <start> <end> <limit> <spent>`."""

    period: Period
    limit: int
    spent: int = 0

    def __str__(self) -> str:
        return f"{self.period.kind} {self.period.start_ms} {self.period.end_ms} {self.limit} {self.spent}"

    @classmethod
    def parsed(cls, text: str) -> "CapState":
        kind, start, end, limit, spent = text.split(" ")
        return cls(Period(PeriodKind(kind), int(start), int(end)), int(limit), int(spent))


@dataclass(frozen=True, slots=True)
class GrantState:
    """Bonus units: `left` is neither used nor held, `taken` was used in the running period.
    `<id> <priority> <expires_ms | -> <left> <taken> <held>`."""

    id: int
    priority: int
    expires_ms: int | None
    left: int
    taken: int = 0

    def __str__(self) -> str:
        return f"{self.id} {self.priority} {word(self.expires_ms)} {self.left} {self.taken} 0"


@dataclass(frozen=True, slots=True)
class Part:
    """Units of one bucket: the plan's allowance (`<units>`) or a grant (`<id>:<priority>:<expires_ms | ->:<units>`)."""

    units: int
    grant: int | None = None
    priority: int = 0
    expires_ms: int | None = None

    def __str__(self) -> str:
        if self.grant is None:
            return str(self.units)
        return f"{self.grant}:{self.priority}:{word(self.expires_ms)}:{self.units}"


def parsed_parts(text: str) -> tuple[Part, ...]:
    """Of an entry: empty where all of it is the plan's."""
    return () if text == NONE else tuple(map(_parsed_part, text.split(",")))


def _parsed_part(text: str) -> Part:
    words = text.split(":")
    if len(words) == 1:
        return Part(int(text))
    return Part(int(words[3]), int(words[0]), int(words[1]), number(words[2]))


def parsed_cap_windows(text: str) -> tuple[tuple[str, int], ...]:
    """Kind and start of each capped window that an entry counts in: `day:<start_ms>,week:<start_ms>`, or `-`."""
    if text == NONE:
        return ()
    pairs = (window.split(":") for window in text.split(","))
    return tuple((kind, int(start)) for kind, start in pairs)


def detail_of_charge(at_ms: int, window: Window) -> str:
    """What `modes.charge` reads: the instant of the request, and the window that it lies in by today's terms."""
    return f"{at_ms} {window}"


CORRECTED = "corrected"
"""In place of the words of a sealed period in which a person put units back."""


def detail_of_refund(
    place: str, taken: int, *, refunded: int, epoch: int, parts: str, caps: str, sealed: str | None
) -> str:
    """What `modes.refund` reads of one entry: where it stands and what it took; how much of that was given back, as the
    ledger knew it in this `epoch`; its parts and capped windows, as in the journal; and the words of the window that it
    is sealed in, None as far as the ledger knows of none, or CORRECTED."""
    return f"{place} {taken} {refunded} {epoch} {parts} {caps} {sealed or ''}"


def joined(texts: Iterable[object], separator: str = ",") -> str:
    """As the scripts read a list; `-` cannot be in one, so an empty list of parts or windows is written as it."""
    return separator.join(map(str, texts))


def number(text: str) -> int | None:
    return None if text == NONE else int(text)


def word(value: int | None) -> str:
    return NONE if value is None else str(value)
