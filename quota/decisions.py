"""Decisions: what came of a request, in the words that callers get. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from quota.demands import Demand
from quota.entitlement import Need, warning_level
from quota.formats import CapState
from quota.handles import Receipt
from quota.periods import Period
from quota.replies import AccountState, LiveGrant, Outcome, Reply, Verdict


class Bound(NamedTuple):
    """The window that a charge did not fit into: the period's own, or that of a cap."""

    limit: int | None
    used: int
    held: int
    period: Period


@dataclass(frozen=True, slots=True)
class Charged:
    """One metric of a decision, as it is after it. `limit` None is unlimited; `plan_limit` is without grants.
    `of_hold`: how much of `amount` the hold that was to be settled has in `held`, and in its caps, already."""

    metric: str
    amount: int
    fits: bool
    plan: str | None
    limit: int | None
    used: int
    held: int
    enforcement: str
    period: Period
    warning: int | None
    plan_limit: int | None = None
    caps: tuple[CapState, ...] = ()
    grants: tuple[LiveGrant, ...] = ()
    refunded: int | None = None
    of_hold: int = 0

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used - self.held)

    @property
    def overage(self) -> int:
        """What a soft limit let through above the limit."""
        return 0 if self.limit is None or self.enforcement != "soft" else max(0, self.used - self.limit)

    @property
    def more(self) -> int:
        """What it would use beyond what counts already."""
        return max(0, self.amount - self.of_hold)

    @property
    def could_fit(self) -> bool:
        """Whether it would fit into unused windows; if not, waiting for the next ones does not help."""
        if self.enforcement == "soft":
            return True
        limits = [cap.limit for cap in self.caps]
        if self.limit is not None:
            # What was drawn from a grant is gone, and so is what ends before the window does.
            end_ms = self.bound.period.end_ms or 0
            left = sum(each.left for each in self.grants if each.expires_ms is None or each.expires_ms > end_ms)
            limits.append((self.limit if self.plan_limit is None else self.plan_limit) + left)
        return self.amount <= min(limits, default=self.amount)

    @property
    def cap(self) -> CapState | None:
        """The cap that it ran into, when it fitted into the period; of several the one that ends last."""
        if self.fits or (self.limit is not None and self.used + self.held + self.more > self.limit):
            return None
        full = (cap for cap in self.caps if cap.spent + self.more > cap.limit)
        return max(full, key=lambda cap: cap.period.end_ms or 0, default=None)

    @property
    def bound(self) -> Bound:
        """What it ran into."""
        cap = self.cap
        if cap is None:
            return Bound(self.limit, self.used, self.held, self.period)
        return Bound(cap.limit, cap.spent, 0, cap.period)

    @property
    def need(self) -> Need:
        """What a plan would have to allow."""
        granted = 0 if self.limit is None or self.plan_limit is None else self.limit - self.plan_limit
        caps = {cap.period.kind.value: cap.spent + self.more for cap in self.caps}
        return Need(max(0, self.used + self.held + self.more - granted), self.amount, caps)


@dataclass(frozen=True, slots=True)
class Decision:
    """`receipt` names the entries; None where nothing was charged."""

    allowed: bool
    subject: str
    charges: tuple[Charged, ...]
    now_ms: int
    receipt: str | None = None
    replayed: bool = False
    operation: str | None = None

    @property
    def binding(self) -> Charged:
        """The charge that people are told of: the first that did not fit, else the first."""
        return next((charge for charge in self.charges if not charge.fits), self.charges[0])

    @property
    def lacks_plan(self) -> bool:
        """Whether it was denied because the subject is on no plan at all, and has nothing else."""
        return not self.allowed and all(charge.plan is None and not charge.limit for charge in self.charges)


def charged(state: AccountState) -> Charged:
    """One account of a reply."""
    return Charged(
        state.metric,
        state.amount or 0,
        state.verdict is Verdict.FITS,
        state.window.terms.plan,
        state.limit,
        state.used,
        state.held,
        state.enforcement,
        state.period,
        warning_level(state.used, state.limit, state.window.terms.warn_at_pct),
        state.plan_limit,
        state.caps,
        state.grants,
        state.refunded,
    )


def decision(demand: Demand, shard: int, reply: Reply) -> Decision:
    """The decision that an `allowed` or `denied` reply stands for."""
    charges = tuple(map(charged, reply.accounts))
    receipt = None if reply.first_n is None else str(Receipt(shard, reply.epoch, reply.first_n, len(charges)))
    return Decision(
        reply.outcome is Outcome.ALLOWED,
        demand.subject,
        charges,
        reply.now_ms,
        receipt,
        reply.replayed,
        demand.operation,
    )
