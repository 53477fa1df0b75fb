"""Accounts that live at random, by the rules: the same catalog decides their history again as it was decided."""

from collections.abc import Iterable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from ledger.instants import to_timestamp
from ledger.simulated_subject import SimulatedSubject
from quota import buckets
from quota.buckets import Cap, Grant, Taking
from quota.catalog import parse_toml
from quota.model import Account
from quota.periods import DAY_MS, PeriodKind, from_rfc3339, period_at

BEGAN_MS = from_rfc3339("2026-11-10T12:00:00Z")
SECOND_MS = 1_000
LIMIT, CAP = 60, 25
ACTIONS = 120
SEEDS = range(40)
CATALOG = f"""
default_plan = "free"
metrics.m = {{}}
plans.free.limits.m = {{ limit = {LIMIT}, period = "month", caps = {{ day = {CAP} }} }}
"""


class Lived:
    """An account of the model that lives at random, under the catalog's own terms, and writes down a history."""

    def __init__(self, seed: int) -> None:
        self.random, self.now_ms = Random(seed), BEGAN_MS
        month, day = period_at(PeriodKind.MONTH, BEGAN_MS), period_at(PeriodKind.DAY, BEGAN_MS)
        self.account = Account(buckets.Terms(LIMIT), month, {"day": Cap(day, CAP)})
        self.takings: list[Taking] = []
        self.instants: list[int] = []
        self.grants = 0

    def live(self, actions: int) -> None:
        for _ in range(actions):
            self.now_ms += self.random.choice((7 * SECOND_MS, 60 * SECOND_MS, DAY_MS // 3, DAY_MS))
            if self.account.is_over(self.now_ms):
                day = period_at(PeriodKind.DAY, self.now_ms)
                self.account.roll(self.now_ms, period_at(PeriodKind.MONTH, self.now_ms), {"day": day})
            self.act(self.random.choice(("consume", "consume", "hold", "settle", "refund", "grant")))
            self.instants += [self.now_ms] * (len(self.account.entries) - len(self.instants))

    def act(self, what: str) -> None:
        account, now_ms, amount = self.account, self.now_ms, self.random.randint(1, 20)
        open_holds = [number for number, hold in account.holds.items() if hold.expires_ms > now_ms]
        taking = None
        if what == "consume":
            taking = account.consume(amount, now_ms)
        elif what == "hold":
            account.hold(amount, now_ms + self.random.choice((60, 80_000)) * SECOND_MS, now_ms)
        elif what == "settle" and open_holds:
            number = self.random.choice(open_holds)
            if self.random.random() < 0.3:
                account.release(number, now_ms)
            else:
                taking = account.commit(number, self.random.randint(0, account.holds[number].amount), now_ms)
        elif what == "refund" and self.takings:
            account.refund(self.random.choice(self.takings), amount, now_ms)
        elif what == "grant" and self.grants < 5:
            self.grants += 1
            grant = Grant(self.grants, 0, None, amount)
            account.enter(account.terms, account.period, account.caps, [grant], now_ms)
        self.takings += [taking] if taking else []

    def rows(self) -> Iterable[Any]:
        for number, (entry, at_ms) in enumerate(zip(self.account.entries, self.instants, strict=True)):
            detail = f"1-{entry.about}" if isinstance(entry.about, int) else entry.about
            yield SimpleNamespace(
                epoch=1, n=number, occurred_at=to_timestamp(at_ms), metric="m", kind=entry.kind, amount=entry.amount,
                change=entry.change, plan="free", receipt_first_n=number, receipt_count=1, detail=detail,
                is_late=entry.used_after is None,
            )  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_by_the_same_catalog_a_history_comes_out_as_it_was(seed: int) -> None:
    lived = Lived(seed)
    lived.live(ACTIONS)
    rows = list(lived.rows())
    refunded = {row.detail for row in rows if row.kind == "refund"}
    subject = SimulatedSubject(parse_toml(CATALOG), None, BEGAN_MS, lambda _: (0, None), refunded.__contains__)
    subject.run(rows)
    assert (subject.denied, subject.allowed_now) == ({}, 0)
    assert subject.document("t", "u") is None
    account = subject._accounts["m"]
    assert (account.used, account.held, account.period) == (
        lived.account.used,
        lived.account.held,
        lived.account.period,
    )


def test_these_histories_have_everything_in_them() -> None:
    kinds = set()
    for seed in SEEDS:
        lived = Lived(seed)
        lived.live(ACTIONS)
        kinds |= {row.kind + ("-late" if row.is_late else "") for row in lived.rows()}
    assert kinds >= {"consume", "denied", "hold", "commit", "release", "expire", "refund", "close", "grant", "warned"}
    assert "refund-late" in kinds
