"""The rules of counting in plain Python: the specification that the scripts in `lua/` are held against, step by step.

Tests drive both side by side (tests/integration/test_model.py); simulations run it. One account, no network, no text
formats, no speed. `now_ms` is Redis's clock. Windows come from the caller, because calendars are the caller's, and so
does the roll: whoever asks rolls first when a window is over. How much a machine can hold (2^53 - 1 units charged by
force, 1000 holds) is the scripts' affair.

Where units come from and go back to stands in quota/buckets.py.
"""

from copy import deepcopy
from dataclasses import dataclass, field, replace

from quota.buckets import Buckets, Cap, Entry, Grant, Part, Taking, Terms, contains, is_past, last, order, split
from quota.denials import NONE_DENIED, Denials
from quota.periods import Period


@dataclass
class Account(Buckets):
    """An account's buckets, and what callers, operators and time do with them."""

    warned: int = 0
    holds: dict[int, Taking] = field(default_factory=dict)
    refunded: dict[int, int] = field(default_factory=dict)
    seals: list[tuple[int, Period]] = field(default_factory=list)  # the number of each `close`, and what it closed
    cut: list[Period] = field(default_factory=list)  # windows whose place the running one took before they were over
    denials: Denials = NONE_DENIED
    entries: list[Entry] = field(default_factory=list)

    def is_over(self, now_ms: int) -> bool:
        """Whether a window has ended. Then nothing is decided before `roll`."""
        return any(is_past(each.end_ms, now_ms) for each in (self.period, *self.cap_windows()))

    # What callers do

    def checked(self, now_ms: int) -> "Account":
        """The account as a check sees it: nothing changes."""
        seen = deepcopy(self)
        seen.let_go(now_ms)
        return seen

    def consume(self, amount: int, now_ms: int) -> Taking | None:
        """None is a denial, which moves no counter."""
        taken = consume_all([(self, amount)], now_ms)
        return taken[0] if taken else None

    def hold(self, amount: int, expires_ms: int, now_ms: int) -> Taking | None:
        """Sets units aside: nobody else can use them until they are committed, released or expired."""
        self.let_go(now_ms)
        if bound := self.bound_by(amount):
            self.deny(amount, bound, now_ms)
            return None
        parts = self.draw(amount)
        hold = Taking(len(self.entries), amount, parts, self.cap_windows(), expires_ms)
        self.spend(hold.caps, amount)
        self.held += amount
        for grant, units in self.live(parts):
            grant.held += units
        self._journal("hold", amount, 0, about=str(expires_ms))
        self.holds[hold.number] = hold
        return hold

    def commit(self, number: int, amount: int, now_ms: int) -> Taking | None:
        """None: more than was held, and the rest does not fit; the hold stays. KeyError: not held, or not any more."""
        self.let_go(now_ms)
        hold = self.holds[number]
        more = max(0, amount - hold.amount)
        if more and (bound := self.bound_by(more) or (None if self.may_grow(hold) else "limit")):
            self.deny(amount, bound, now_ms)
            return None
        kept, rest = split(hold.parts, amount)
        if more:  # drawn while the hold still counts, or the plan's allowance would be given out twice
            kept += (Part(more),) if hold.sealed else self.draw(more)
            self.spend(hold.caps, more)
        self._unhold(hold, rest, now_ms)
        taking = Taking(len(self.entries), amount, kept, hold.caps, sealed=hold.sealed)
        self._book("commit", taking, number)
        if not hold.sealed:
            self.warn()
        return taking

    def release(self, number: int, now_ms: int) -> None:
        """KeyError: not held, or not any more."""
        self.let_go(now_ms)
        hold = self.holds[number]
        self._unhold(hold, hold.parts, now_ms)
        self._journal("release", hold.amount, 0, hold.sealed, number)

    def refund(self, taking: Taking, amount: int, now_ms: int) -> int | None:
        """Gives back at most what is left of a taking, to the buckets and the period that it came from; how much.
        None: the account would stand below zero."""
        self.let_go(now_ms)
        left = taking.amount - self.refunded.get(taking.number, 0)
        amount = min(amount, left)
        _, returned = split(split(taking.parts, left)[0], left - amount)
        sealed = taking.sealed or next((period for seal, period in self.seals if seal > taking.number), None)
        change = self.worth(returned, sealed)
        if not sealed and (change > self.used or not self.are_taken(returned)):
            return None
        if amount == 0:
            return 0
        self.refunded[taking.number] = taking.amount - left + amount
        for part in returned:
            if grant := self.grant_of(part, now_ms):
                grant.left += part.units
                grant.taken -= 0 if sealed else part.units
        self.spend(taking.caps, -amount)
        self.used -= 0 if sealed else change
        self._journal("refund", amount, -change, sealed, taking.number)
        return amount

    def give_back(self, amount: int, now_ms: int) -> bool:
        """Of a level. False: below zero."""
        self.let_go(now_ms)
        if amount > self.used:
            return False
        self.used -= amount
        self._journal("release", amount, -amount)
        return True

    def set(self, used: int, now_ms: int) -> None:
        """Of a level, by an operator."""
        self.let_go(now_ms)
        change, self.used = used - self.used, used
        self._journal("set", used, change)
        self.warn()

    def correct(self, change: int, now_ms: int) -> bool:
        """By an operator, up or down, even above the limit; caps are left alone. False: below zero."""
        self.let_go(now_ms)
        if change > 0:
            self._book("correct", Taking(len(self.entries), change, self.draw(change), ()))
            self.warn()
        elif -change > self.used:
            return False
        else:
            self.put_back(-change)
            self.used += change
            self._journal("correct", -change, change)
        return True

    def gift(self, amount: int, gift_id: int | str, now_ms: int) -> bool:
        """Out of what grants have left, for another subject. False: the account has not so much to spare."""
        self.let_go(now_ms)
        if amount > self.spare_of_grants():
            return False
        self.give_away(amount)
        self._journal("gift", amount, 0, about=f"gift:{gift_id}")
        self.warn()
        return True

    def charge(self, amount: int, at_ms: int, window: Period, now_ms: int) -> Taking:
        """Units let through while nobody could count: even above the limit, in the windows of their instant. `window`
        is the one that today's terms say, for an instant of which the account remembers nothing."""
        self.let_go(now_ms)
        if closed := self._closed_at(at_ms, window):
            return self._book("consume", Taking(len(self.entries), amount, (Part(amount),), (), sealed=closed))
        taking = self.take(amount, tuple(cap for cap in self.cap_windows() if contains(cap, at_ms)))
        self.warn()
        return taking

    # What time and operators do

    def roll(self, now_ms: int, period: Period, caps: dict[str, Period]) -> None:
        """Closes each window that is over and opens the one that holds now, at zero."""
        if was_over := is_past(self.period.end_ms, now_ms):
            self._close(period)
        self.let_go(now_ms)
        if was_over:
            self.open()
        self.roll_caps(now_ms, caps)

    def enter(self, terms: Terms, period: Period, caps: dict[str, Cap], granted: list[Grant], now_ms: int) -> None:
        """New terms, by a plan change, an override or a grant. What was used is kept, also when the window changes."""
        if has_opened := is_past(self.period.end_ms, now_ms):
            self._close(period)
        self.let_go(now_ms)
        before, is_first = self.limit, self.terms.rollover is None
        if last(period.end_ms) <= max(self.period.start_ms, *(seal.end_ms or 0 for _, seal in self.seals[-1:]), 0):
            period = self.period  # the clock stepped back: what was sealed is not opened again
        if period != self.period:
            self.cut.append(self.period)
        if (period.kind, period.start_ms) != (self.period.kind, self.period.start_ms) and self.used:
            moved, self.used = self.used, 0
            self._journal("close", 0, -moved)
            self.period, self.used = period, moved
            self._journal("open", 0, moved)
        self.terms, self.period = terms, period
        if has_opened or is_first:
            self.open()
        self.enter_caps(caps)
        for grant in granted:
            self.grants = sorted([*self.grants, grant], key=order)
            self._journal("grant", grant.left, 0, about=f"grant:{grant.id}")
        if last(self.limit) > last(before):
            self.warned = min(self.warned, self.reached())

    # How

    def let_go(self, until_ms: int) -> None:
        """Holds and grants that have expired count for nothing from that instant, with no job having run."""
        for number, hold in sorted(self.holds.items()):
            if hold.expires_ms <= until_ms:
                self._unhold(hold, hold.parts, until_ms)
                self._journal("expire", hold.amount, 0, hold.sealed, number)
        for grant in [each for each in self.grants if is_past(each.expires_ms, until_ms)]:
            self.drop(grant)
            self._journal("expire", grant.left, -grant.taken, about=f"grant:{grant.id}")

    def _close(self, period: Period) -> None:
        assert self.period.end_ms is not None, "only a period that ends can be over"
        self.let_go(self.period.end_ms - 1)  # what expires at its very end was still there in it
        self._tell_denials()
        self.seals.append((len(self.entries), self.period))
        self._journal("close", 0, 0, about=self.rolled_over(period))
        self.holds = {number: replace(hold, sealed=hold.sealed or self.period) for number, hold in self.holds.items()}
        self.grants = [replace(grant, taken=0, held=0) for grant in self.grants if grant.left]
        self.used = self.held = self.warned = 0
        self.period, self.cut = period, []

    def open(self) -> None:
        """Notes a period of which something may go on, though nobody is seen in it."""
        if self.terms.rollover is not None:
            self._journal("open", 0, 0)

    def counted_from_ms(self) -> int:
        """Since when the running period counts: windows that it took the place of left it what they had counted."""
        return min(window.start_ms for window in (*self.cut, self.period))

    def _closed_at(self, at_ms: int, window: Period) -> Period | None:
        """The window that is over in which an instant lies; None: what was used then counts in the running one."""
        if at_ms >= self.period.start_ms:
            return None
        sealed = self.seals[-1][1] if self.seals else None
        if sealed and contains(sealed, at_ms):
            return sealed
        is_older = sealed is not None and at_ms < sealed.start_ms
        return window if is_older or at_ms < self.counted_from_ms() else None

    def take(self, amount: int, caps: tuple[Period, ...]) -> Taking:
        """Takes without asking."""
        taking = Taking(len(self.entries), amount, self.draw(amount), caps)
        self.spend(taking.caps, amount)
        return self._book("consume", taking)

    def _book(self, kind: str, taking: Taking, about: int | str | None = None) -> Taking:
        change = self.worth(taking.parts, taking.sealed)
        if not taking.sealed:
            self.used += change
            for grant, units in self.live(taking.parts):
                grant.taken += units
            about = f"over:{self.overage}" if kind == "consume" and self.overage else about
        self._journal(kind, taking.amount, change, taking.sealed, about)
        return taking

    def _unhold(self, hold: Taking, returned: tuple[Part, ...], now_ms: int) -> None:
        del self.holds[hold.number]
        self.set_free(hold, returned, now_ms)

    def warn(self) -> None:
        """Once a period a level; armed again when the limit rises."""
        if self.reached() > self.warned:
            self.warned = self.reached()
            self._journal("warned", self.warned, 0)

    def deny(self, amount: int, bound: str, now_ms: int) -> None:
        if not self.denials.is_open(now_ms):
            self._tell_denials()
        self.denials, is_told = self.denials.counted(amount, now_ms)
        if is_told:
            self._journal("denied", amount, 0, about=bound)

    def _tell_denials(self) -> None:
        if self.denials.untold:
            self._journal("denied", self.denials.units, 0, about=f"sum:{self.denials.untold}")
        self.denials = self.denials.summed_up()

    def _journal(
        self, kind: str, amount: int, change: int, sealed: Period | None = None, about: int | str | None = None
    ) -> None:
        used_after = None if sealed else self.used
        self.entries.append(Entry(kind, amount, change, used_after, sealed or self.period, about))


def consume_all(charges: list[tuple[Account, int]], now_ms: int) -> list[Taking] | None:
    """All of them or none: None when one does not fit, which those tell that had no room."""
    for account, _ in charges:
        account.let_go(now_ms)
    bounds = [account.bound_by(amount) for account, amount in charges]
    for (account, amount), bound in zip(charges, bounds, strict=True):
        if bound:
            account.deny(amount, bound, now_ms)
    if any(bounds):
        return None
    taken = [account.take(amount, account.cap_windows()) for account, amount in charges]
    for account, _ in charges:
        account.warn()
    return taken
