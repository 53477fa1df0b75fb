"""Where units come from and go back to, in plain Python: the half of quota/model.py that knows no journal.

Units come from buckets: the plan's allowance of the period first, then grants, lowest priority number first, then the
earliest to expire. Whatever was taken remembers its parts, so that it can go back to where it came from.
"""

from dataclasses import dataclass, field, replace

from quota.entitlement import warning_level
from quota.identifiers import MAX_AMOUNT
from quota.periods import Period


@dataclass(frozen=True)
class Terms:
    """`limit` None is unlimited. A level is held and given back: grants widen it and are not used up. Of what was not
    used at most `rollover` units go on into the next period."""

    limit: int | None
    is_soft: bool = False
    is_level: bool = False
    warn_at_pct: tuple[int, ...] = (80, 95)
    rollover: int | None = None


@dataclass
class Grant:
    """`left` is neither used nor held; `taken` and `held` are this period's. `expires_ms` None is never."""

    id: int
    priority: int
    expires_ms: int | None
    left: int
    taken: int = 0
    held: int = 0


@dataclass
class Cap:
    """A shorter window inside the period; `spent` is used and held together."""

    window: Period
    limit: int
    spent: int = 0


@dataclass(frozen=True)
class Part:
    """Units of one bucket; `grant` None is the plan's allowance."""

    units: int
    grant: tuple[int, int, int | None] | None = None  # id, priority, expires_ms


@dataclass(frozen=True)
class Taking:
    """What a consume, a hold or a commit took. `number` is that of its entry; `sealed` the period that it is booked in
    when it was booked after that period's end."""

    number: int
    amount: int
    parts: tuple[Part, ...]
    caps: tuple[Period, ...]
    expires_ms: int = 0
    sealed: Period | None = None


@dataclass(frozen=True)
class Entry:
    """`used_after` None: booked into a period that is over, whose balance the ledger knows. `about` is the number of
    the entry that it settles or gives back, or a word: `grant:<id>`, a hold's expiry, what a denial ran into, `sum:<n>`
    denials, `over:<n>`: how far above the limit a consume left the account, `rollover:<left>:<most>:<until_ms>`: what
    may go on into the period that follows."""

    kind: str
    amount: int
    change: int
    used_after: int | None
    period: Period
    about: int | str | None = None


@dataclass
class Buckets:
    """What an account may draw from. `expired_ms` is the last expiry of a grant that has expired: when the clock steps
    back, it stays expired."""

    terms: Terms
    period: Period
    caps: dict[str, Cap] = field(default_factory=dict)
    grants: list[Grant] = field(default_factory=list)
    used: int = 0
    held: int = 0
    expired_ms: int = 0

    @property
    def limit(self) -> int | None:
        """All that may be used in this period: the plan's, and every live grant's."""
        if self.terms.limit is None:
            return None
        return min(MAX_AMOUNT, self.terms.limit + sum(grant.left + grant.taken + grant.held for grant in self.grants))

    @property
    def overage(self) -> int:
        """What is used above the limit."""
        return max(0, self.used - last(self.limit))

    def bound_by(self, amount: int) -> str | None:
        """What has no room for the amount: `limit`, or a cap's kind."""
        total = self.used + self.held + amount
        if total > (MAX_AMOUNT if self.terms.is_soft else last(self.limit)):
            return "limit"
        full = (kind for kind, cap in self.caps.items() if cap.spent + amount > cap.limit)
        return None if self.terms.is_soft else next(full, None)

    def draw(self, amount: int) -> tuple[Part, ...]:
        """Takes the units out of the grants; whoever calls says whether they are used or held."""
        if self.terms.limit is None or self.terms.is_level:
            return (Part(amount),)
        from_plan = min(amount, max(0, self.left_of_plan()))
        parts, missing = [], amount - from_plan
        for grant in self.grants:
            if units := min(missing, grant.left):
                parts.append(Part(units, (grant.id, grant.priority, grant.expires_ms)))
                grant.left, missing = grant.left - units, missing - units
        # What a soft limit lets through above everything is the plan's.
        return (Part(from_plan + missing), *parts)

    def left_of_plan(self) -> int:
        """What is neither used nor held of the plan's allowance; below zero when more is than it gives."""
        of_plan = self.used + self.held - sum(grant.taken + grant.held for grant in self.grants)
        return last(self.terms.limit) - of_plan

    def rolled_over(self, following: Period) -> str | None:
        """What may go on into the period that follows, at most `rollover` of it: what the plan has left, or all that it
        gives when nobody was seen in the period between. Nothing goes where it would never end."""
        if not self.terms.rollover or self.terms.limit is None or following.end_ms is None:
            return None
        if following.start_ms > last(self.period.end_ms):
            return f"rollover:{self.terms.limit}:{self.terms.rollover}:{following.end_ms}:unseen"
        return f"rollover:{self.left_of_plan()}:{self.terms.rollover}:{following.end_ms}"

    def worth(self, parts: tuple[Part, ...], sealed: Period | None) -> int:
        """What parts count for in `used`: units of a grant that has expired went when it did. One that expires at the
        very end of a period counts in it."""
        if sealed:
            last_ms = last(sealed.end_ms) - 1
            return sum(part.units for part in parts if part.grant is None or not is_past(part.grant[2], last_ms))
        return sum(part.units for part in parts if part.grant is None) + sum(units for _, units in self.live(parts))

    def live(self, parts: tuple[Part, ...]) -> list[tuple[Grant, int]]:
        by_id = {grant.id: grant for grant in self.grants}
        return [(by_id[part.grant[0]], part.units) for part in parts if part.grant and part.grant[0] in by_id]

    def grant_of(self, part: Part, now_ms: int) -> Grant | None:
        """The grant that units go back to; one that was used up and put away comes back, one that has expired not."""
        if part.grant is None or is_past(part.grant[2], max(now_ms, self.expired_ms)):
            return None
        if part.grant[0] not in {grant.id for grant in self.grants}:
            self.grants = sorted([*self.grants, Grant(*part.grant, left=0)], key=order)
        return next(grant for grant in self.grants if grant.id == part.grant[0])

    def are_taken(self, parts: tuple[Part, ...]) -> bool:
        """Whether so much of each grant counts in `used`: a correction may have put some of it back already."""
        units_of: dict[int, int] = {}
        for grant, units in self.live(parts):
            units_of[grant.id] = units_of.get(grant.id, 0) + units
        return all(units_of.get(grant.id, 0) <= grant.taken for grant in self.grants)

    def put_back(self, amount: int) -> tuple[Part, ...]:
        """Into the buckets, what was drawn last first: grants in the turned order of their use, then the plan's."""
        parts, missing = [], amount
        for grant in reversed(self.grants):
            if units := min(missing, grant.taken):
                parts.append(Part(units, (grant.id, grant.priority, grant.expires_ms)))
                grant.left, grant.taken, missing = grant.left + units, grant.taken - units, missing - units
        return (Part(missing), *parts)

    def spare_of_grants(self) -> int:
        """What grants have left, but for units that the account needs itself: it may have used more than its plan gives
        now."""
        left = sum(grant.left for grant in self.grants)
        return left if self.limit is None else max(0, min(left, self.limit - self.used - self.held))

    def give_away(self, amount: int) -> None:
        """Out of what grants have left, in the order in which they would be used."""
        for grant in self.grants:
            units = min(amount, grant.left)
            grant.left, amount = grant.left - units, amount - units

    def drop(self, grant: Grant) -> None:
        """One that has expired, with the units of it that were used or held."""
        self.grants.remove(grant)
        self.expired_ms = max(self.expired_ms, grant.expires_ms or 0)
        self.held -= grant.held
        self.used -= grant.taken

    def enter_caps(self, caps: dict[str, Cap]) -> None:
        """New ones. A window that runs already goes on, with what was spent in it."""
        for kind, cap in caps.items():
            known = self.caps.get(kind)
            if known and known.window.start_ms >= cap.window.start_ms:
                cap.window, cap.spent = known.window, known.spent
        self.caps = caps

    def roll_caps(self, now_ms: int, windows: dict[str, Period]) -> None:
        """Windows that are over begin anew at zero."""
        for kind, cap in self.caps.items():
            if is_past(cap.window.end_ms, now_ms):
                self.caps[kind] = Cap(windows[kind], cap.limit)

    def may_grow(self, hold: Taking) -> bool:
        """More than was held counts in the windows of the hold, so a limited one must still be running."""
        is_bounded = not self.terms.is_soft and (self.terms.limit is not None or self.caps)
        return not is_bounded or (not hold.sealed and set(self.cap_windows()) <= set(hold.caps))

    def set_free(self, hold: Taking, returned: tuple[Part, ...], now_ms: int) -> None:
        """What a hold set aside counts as held no more; what was not used of it goes back."""
        if not hold.sealed:
            self.held -= self.worth(hold.parts, None)
            for grant, units in self.live(hold.parts):
                grant.held -= units
        for part in returned:
            if found := self.grant_of(part, now_ms):
                found.left += part.units
        self.spend(hold.caps, -sum(part.units for part in returned))

    def reached(self) -> int:
        """The highest warning level that `used` has reached."""
        return warning_level(self.used, self.limit, self.terms.warn_at_pct) or 0

    def cap_windows(self) -> tuple[Period, ...]:
        return tuple(cap.window for cap in self.caps.values())

    def spend(self, windows: tuple[Period, ...], units: int) -> None:
        for cap in self.caps.values():
            if cap.window in windows:
                cap.spent = max(0, cap.spent + units)  # a cap that was taken away and came back has forgotten some


def split(parts: tuple[Part, ...], units: int) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """The first `units` of some parts, and the rest of them."""
    first, rest = [], []
    for part in parts:
        taken = min(units, part.units)
        units -= taken
        first.append(replace(part, units=taken))
        rest.append(replace(part, units=part.units - taken))
    return tuple(part for part in first if part.units), tuple(part for part in rest if part.units)


def order(grant: Grant) -> tuple[int, int, int]:
    return grant.priority, last(grant.expires_ms), grant.id


def last(number: int | None) -> int:
    """A number to compare with, where None means that there is no bound."""
    return MAX_AMOUNT if number is None else number


def contains(window: Period, at_ms: int) -> bool:
    return window.start_ms <= at_ms < last(window.end_ms)


def is_past(instant_ms: int | None, at_ms: int) -> bool:
    return instant_ms is not None and instant_ms <= at_ms
