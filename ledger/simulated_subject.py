"""One subject's history, decided again by the rules of quota/model.py under another catalog.

What was charged before the stretch counts as it was; in the stretch every request is asked again. A request that the
history allowed and the rules deny is a new denial; what followed from it (its refund, its commit) did not happen. One
that the history denied and the rules allow is no denial any more, and what it asked for is used.

What the ledger does not know, it cannot ask again: a denied operation is asked for in those metrics alone that had no
room; denials that were summed up are asked one by one, for equal amounts, when their sum was told; amounts are the
history's, whatever the catalog's operations cost; add-ons and the anchor are those that the subject has today.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ledger.instants import from_timestamp
from ledger.simulated_receipts import receipts
from quota import buckets
from quota.buckets import Cap, Entry, Grant, Taking
from quota.catalog import Catalog
from quota.entitlement import Entitlement, Subscription, entitlement
from quota.model import Account, consume_all
from quota.periods import PeriodKind, period_at, to_rfc3339

MAX_TRIES_OF_A_SUM = 10_000
"""Of denials that were summed up: the rest of the sum is taken for denied."""


class Forgotten(list[Entry]):
    """What the model writes down is counted, because it numbers takings by it, and not kept."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def append(self, entry: Entry) -> None:
        self._count += 1

    def __len__(self) -> int:
        return self._count


@dataclass(slots=True)
class Denials:
    """By one limit of one metric."""

    count: int = 0
    units: int = 0
    first_at_ms: int = 0
    last_at_ms: int = 0

    def add(self, count: int, units: int, at_ms: int) -> None:
        self.first_at_ms = self.first_at_ms if self.count else at_ms
        self.count, self.units, self.last_at_ms = self.count + count, self.units + units, at_ms


@dataclass
class SimulatedSubject:
    """`granted` finds a grant's priority and expiry by its id. `is_refunded` says of which entries something was given
    back later: only their takings are remembered."""

    catalog: Catalog
    subscription: Subscription | None
    from_ms: int
    granted: Callable[[int], tuple[int, int | None]]
    is_refunded: Callable[[str], bool]
    entries: int = 0
    denied: dict[tuple[str, str], Denials] = field(default_factory=dict)
    denied_before: int = 0
    allowed_now: int = 0
    allowed_now_units: int = 0
    _accounts: dict[str, Account] = field(default_factory=dict)
    _plans: dict[str, str | None] = field(default_factory=dict)
    _holds: dict[str, int] = field(default_factory=dict)
    _takings: dict[str, Taking] = field(default_factory=dict)
    _never_done: set[str] = field(default_factory=set)
    _now_ms: int = 0

    def __post_init__(self) -> None:
        """Of the other kinds the model knows by itself: windows are closed and opened, warnings told, by its rules."""
        self._doing: dict[str, Callable[[Any], None]] = {
            "denied": self._denied,
            "hold": self._hold,
            "commit": self._commit,
            "release": self._release,
            "expire": self._expire,
            "refund": self._refund,
            "set": self._set,
            "correct": self._correct,
            "gift": self._gift,
            "grant": self._grant,
        }

    def begin(self, metric: str, plan: str | None, at_ms: int, grants: Sequence[Grant]) -> None:
        """The account as it stood at an instant, with the grants that had something left."""
        account = self._account(metric, plan, at_ms)
        account.grants = sorted([*account.grants, *grants], key=buckets.order)

    def run(self, rows: Iterable[Any]) -> None:
        """Goes through the subject's entries, in the order of their instants and places."""
        for group in receipts(rows):
            self.entries += len(group)
            self._now_ms = max(self._now_ms, from_timestamp(group[0].occurred_at))
            for row in group:
                self._account(row.metric, row.plan, self._now_ms)
            if group[0].kind == "consume":
                self._consume(group)
            elif group[0].kind in self._doing:
                self._doing[group[0].kind](group[0])

    def _account(self, metric: str, plan: str | None, now_ms: int) -> Account:
        """The account with its windows of now, on the plan that the history names."""
        account = self._accounts.get(metric)
        if account is None or self._plans[metric] != plan:
            granted = self._granted(metric, plan)
            terms = buckets.Terms(granted.limit, granted.enforcement == "soft", granted.nature == "level")
            period = period_at(granted.kind, now_ms, granted.anchor_ms)
            caps = {kind: Cap(period_at(PeriodKind(kind), now_ms), limit) for kind, limit in granted.caps.items()}
            if account is None:
                account = self._accounts[metric] = Account(terms, period, caps, entries=Forgotten())
            else:
                account.enter(terms, period, caps, [], now_ms)
            self._plans[metric] = plan
        if account.is_over(now_ms):
            granted = self._granted(metric, plan)
            windows = {kind: period_at(PeriodKind(kind), now_ms) for kind in account.caps}
            account.roll(now_ms, period_at(granted.kind, now_ms, granted.anchor_ms), windows)
        account.let_go(now_ms)
        return account

    def _granted(self, metric: str, plan: str | None) -> Entitlement:
        today = self.subscription
        anchor_ms, add_ons = (None, {}) if today is None else (today.anchor_ms, today.add_ons)
        subscription = None if plan is None else Subscription(plan, "active", anchor_ms, add_ons)
        return entitlement(self.catalog, subscription, metric)

    def _is_asked(self) -> bool:
        return self._now_ms >= self.from_ms

    def _deny(self, metric: str, bound: str, units: int, count: int = 1) -> None:
        self.denied.setdefault((metric, bound), Denials()).add(count, units, self._now_ms)

    def _consume(self, group: Sequence[Any]) -> None:
        if group[0].is_late:
            return  # its period is over, here too
        amounts: dict[str, int] = {}
        for row in group:
            amounts[row.metric] = amounts.get(row.metric, 0) + row.amount
        charges = [(self._accounts[metric], amount) for metric, amount in amounts.items()]
        if self._is_asked():
            taken = consume_all(charges, self._now_ms)
        else:
            taken = [account.take(amount, account.cap_windows()) for account, amount in charges]
        if taken is None:
            for (metric, amount), (account, _) in zip(amounts.items(), charges, strict=True):
                if bound := account.bound_by(amount):
                    self._deny(metric, bound, amount)
        takings = dict(zip(amounts, taken or (), strict=False))
        for row in group:
            if self.is_refunded(place := f"{row.epoch}-{row.n}"):
                self._remember(place, takings.get(row.metric))

    def _remember(self, place: str, taking: Taking | None) -> None:
        if taking is None:
            self._never_done.add(place)
        else:
            self._takings[place] = taking

    def _denied(self, row: Any) -> None:
        if not self._is_asked():
            return
        account = self._accounts[row.metric]
        is_sum = row.detail is not None and row.detail.startswith("sum:")
        count = int(row.detail[4:]) if is_sum else 1
        self.denied_before += count
        left, units = count, row.amount
        if is_sum and account.bound_by(units) is None:
            consume_all([(account, units)], self._now_ms)
            left = 0
        each = max(1, units // count)
        for _ in range(min(left, MAX_TRIES_OF_A_SUM)):
            if consume_all([(account, each if is_sum else units)], self._now_ms) is None:
                break
            left -= 1
        allowed = count - left
        self.allowed_now += allowed
        self.allowed_now_units += allowed * each if left else (units if allowed else 0)

    def _hold(self, row: Any) -> None:
        account, place = self._accounts[row.metric], f"{row.epoch}-{row.n}"
        bound = account.bound_by(row.amount) if self._is_asked() else None
        hold = account.hold(row.amount, int(row.detail), self._now_ms)
        if hold is not None:
            self._holds[place] = hold.number
        elif bound is not None:
            self._deny(row.metric, bound, row.amount)
            self._never_done.add(place)

    def _commit(self, row: Any) -> None:
        account, place = self._accounts[row.metric], f"{row.epoch}-{row.n}"
        if row.detail in self._never_done:
            self._never_done.discard(row.detail)
            taken = None
        elif (number := self._holds.pop(row.detail, None)) is None or number not in account.holds:
            if row.is_late:
                return
            taken = account.take(row.amount, account.cap_windows())  # held before the stretch, or for longer than here
        else:
            more = max(0, row.amount - account.holds[number].amount)
            bound = account.bound_by(more) if more else None
            taken = account.commit(number, row.amount, self._now_ms)
            if taken is None:
                self._deny(row.metric, bound or "limit", row.amount)
                account.release(number, self._now_ms)
        if self.is_refunded(place):
            self._remember(place, taken)

    def _release(self, row: Any) -> None:
        account = self._accounts[row.metric]
        if row.detail is None:
            account.give_back(min(row.amount, account.used), self._now_ms)
            return
        self._never_done.discard(row.detail)
        if (number := self._holds.pop(row.detail, None)) in account.holds:
            account.release(number, self._now_ms)

    def _expire(self, row: Any) -> None:
        # The model lets go of what has expired by itself; here it is only forgotten.
        self._holds.pop(row.detail or "", None)
        self._never_done.discard(row.detail or "")

    def _refund(self, row: Any) -> None:
        if row.detail in self._never_done:
            return
        account = self._accounts[row.metric]
        if taking := self._takings.get(row.detail):
            account.refund(taking, row.amount, self._now_ms)
        elif not row.is_late:
            account.used -= min(account.used, -row.change)  # taken before anything that was read

    def _set(self, row: Any) -> None:
        self._accounts[row.metric].set(row.amount, self._now_ms)

    def _correct(self, row: Any) -> None:
        account = self._accounts[row.metric]
        account.correct(max(row.change, -account.used), self._now_ms)  # a reconciliation's change is 0

    def _gift(self, row: Any) -> None:
        if row.detail.startswith("grant:"):  # received
            self._grant(row)
            return
        account = self._accounts[row.metric]
        account.give_away(min(row.amount, account.spare_of_grants()))

    def _grant(self, row: Any) -> None:
        grant_id = int(row.detail.removeprefix("grant:"))
        account = self._accounts[row.metric]
        if grant_id not in {grant.id for grant in account.grants}:
            priority, expires_ms = self.granted(grant_id)
            grant = Grant(grant_id, priority, expires_ms, row.amount)
            account.enter(account.terms, account.period, account.caps, [grant], self._now_ms)

    def document(self, tenant: str, subject: str) -> dict[str, Any] | None:
        """What would have been another way; None if nothing would."""
        if not self.denied and not self.allowed_now:
            return None
        limits = [
            {
                "metric": metric,
                "limit": "period" if bound == "limit" else bound,
                "denied": each.count,
                "units": each.units,
                "first_at": to_rfc3339(each.first_at_ms),
                "last_at": to_rfc3339(each.last_at_ms),
            }
            for (metric, bound), each in sorted(self.denied.items())
        ]
        return {
            "tenant": tenant,
            "subject": subject,
            "denied": sum(each.count for each in self.denied.values()),
            "limits": limits,
            "denied_before": self.denied_before,
            "denied_no_more": self.allowed_now,
            "denied_no_more_units": self.allowed_now_units,
        }
