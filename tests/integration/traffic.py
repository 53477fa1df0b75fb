"""Everything that callers, operators and time do to some accounts of one shard, in a random order that a seed repeats.

What a gateway does is done here in the plainest way: accounts that are unready are provisioned from the ledger or
rolled, refunds are put together from what the ledger says of a receipt.
"""

import random
from dataclasses import dataclass, field, replace

from ledger import accounts, gifts, grants, holds, receipts, shards
from ledger.acts import By
from ledger.store import ALL_TENANTS, transaction
from quota import keys, protocol
from quota.entitlement import Entitlement
from quota.formats import DOWN, NONE, UP, CapState, GrantState, Terms, Window
from quota.journal import NO_ABOUT, encode_about
from quota.keys import AccountName
from quota.periods import DAY_MS, PeriodKind, period_at
from quota.protocol import Charge, Mode, Opening, Step
from quota.replies import Outcome, Reply, Verdict
from tests.integration.pipeline import Pipeline

LEVELS = (80, 95)
OFFERS = {
    "plain": Entitlement("free", 12, "hard", PeriodKind.MONTH, None, LEVELS),
    "capped": Entitlement("free", 30, "hard", PeriodKind.MONTH, None, LEVELS, caps={"day": 9, "week": 20}),
    "soft": Entitlement("free", 5, "soft", PeriodKind.WEEK, None, LEVELS),
    "unlimited": Entitlement("free", None, "hard", PeriodKind.DAY, None, LEVELS, caps={"week": 40}),
    "level": Entitlement("free", 20, "hard", PeriodKind.LIFETIME, None, LEVELS, "level"),
}
GRANTED = ("plain", "capped", "soft")
COUNTED = ("plain", "capped", "soft", "unlimited")
MAX_TRIES = 6


@dataclass
class Traffic:
    pipeline: Pipeline
    seed: int
    epoch: int = 1
    offers: dict[str, Entitlement] = field(default_factory=lambda: dict(OFFERS))
    receipts: list[tuple[int, int, int]] = field(default_factory=list)  # epoch, first_n, count
    open_holds: list[tuple[str, str]] = field(default_factory=list)  # metric, place
    done: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.shard = self.pipeline.clocked
        self.shard.now_ms()
        self.shard.run(protocol.begin_epoch(3, self.epoch, ""))

    def go_on(self, steps: int) -> None:
        acts = [self.consume] * 6 + [self.hold] * 3 + [self.commit] * 3 + [self.release, self.refund, self.refund]
        acts += [self.give, self.set, self.charge, self.grant, self.change_plan, self.wait, self.wait, self.drain]
        acts += [self.correct, self.gift, self.gift]
        for _ in range(steps):
            act = self.random.choice(acts)
            act()
            self.done[act.__name__] = self.done.get(act.__name__, 0) + 1

    # What callers do

    def consume(self) -> None:
        metrics = self.random.sample(COUNTED, self.random.choice((1, 1, 2, 3)))
        reply = self._decide(Mode.CONSUME, *[self._charge(metric, self.random.randint(0, 6)) for metric in metrics])
        if reply.first_n is not None:
            self.receipts.append((self.epoch, reply.first_n, len(metrics)))

    def hold(self) -> None:
        metric = self.random.choice(COUNTED)
        ttl_ms = self.random.choice((60_000, DAY_MS, 40 * DAY_MS))
        reply = self._decide(Mode.HOLD, self._charge(metric, self.random.randint(1, 5), str(ttl_ms)))
        if reply.first_n is not None:
            self.open_holds.append((metric, f"{self.epoch}-{reply.first_n}"))

    def commit(self) -> None:
        if self.open_holds:
            metric, place = self.random.choice(self.open_holds)
            reply = self._decide(Mode.COMMIT, self._charge(metric, self.random.choice((None, 0, 1, 3, 7)), place))
            if reply.first_n is not None:
                self.receipts.append((self.epoch, reply.first_n, 1))

    def release(self) -> None:
        if self.open_holds:
            metric, place = self.random.choice(self.open_holds)
            self._decide(Mode.RELEASE, self._charge(metric, None, place))

    def refund(self) -> None:
        if not self.receipts:
            return
        self.drain()
        epoch, first_n, count = self.random.choice(self.receipts)
        with transaction(self.pipeline.engine, "t") as connection:
            found = receipts.find(connection, "t", 3, epoch, first_n, count)
        assert len(found) == count
        charges = []
        for taken in found:
            words = (taken.place, taken.amount, taken.refunded, self.epoch, taken.parts, taken.caps)
            detail = " ".join(map(str, words)) + " " + (taken.late or taken.sealed or "")
            charges.append(self._charge(taken.account.metric, self.random.randint(0, taken.amount), detail))
        self._decide(Mode.REFUND, *charges, refunds_key=keys.refunds(3, epoch, first_n))

    def give(self) -> None:
        self._decide(Mode.GIVE, self._charge("level", self.random.randint(0, 4)))

    def set(self) -> None:
        self._decide(Mode.SET, self._charge("level", self.random.randint(0, 25), ""))

    def charge(self) -> None:
        metric = self.random.choice(COUNTED)
        at_ms = self.shard.now_ms() - self.random.choice((0, 0, 8, 35)) * DAY_MS
        detail = f"{at_ms} {self._window(metric, at_ms)}"
        reply = self._decide(Mode.CHARGE, self._charge(metric, self.random.randint(1, 4), detail))
        if reply.first_n is not None:
            self.receipts.append((self.epoch, reply.first_n, 1))

    # What operators and time do

    def grant(self) -> None:
        metric, now_ms = self.random.choice(GRANTED), self.shard.now_ms()
        days = self.random.choice((None, 1, 12, 45))
        with transaction(self.pipeline.engine, "t") as connection:
            grants.add(
                connection,
                *("t", "u", metric),
                amount=self.random.randint(1, 9),
                priority=self.random.randint(-1, 1),
                expires_ms=None if days is None else now_ms + days * DAY_MS,
                by=By("k", reason=None),
            )
        self._publish(metric)
        self.touch(metric)

    def correct(self) -> None:
        """Up, and down again in part: what was used before stays, or a refund of it would find nothing."""
        metric = self.random.choice((*COUNTED, "level"))
        up = self.random.randint(1, 4)
        self._decide(Mode.ADJUST, self._charge(metric, up, UP))
        self._decide(Mode.ADJUST, self._charge(metric, self.random.randint(1, up), DOWN))

    def gift(self) -> None:
        metric, receiver = self.random.choice(GRANTED), f"w{self.random.randint(0, 9)}"
        wanted = gifts.Wanted("u", receiver, metric, self.random.randint(1, 4))
        words = {"by": By("k"), "idempotency_key": None, "caps": None, "now_ms": self.shard.now_ms()}
        with transaction(self.pipeline.engine, "t") as connection:
            gift, _ = gifts.ask(connection, "t", wanted, **words)
        self._decide(Mode.GIFT, self._charge(metric, gift.amount, f"gift:{gift.id}"))

    def change_plan(self) -> None:
        kind = self.random.choice((PeriodKind.DAY, PeriodKind.WEEK, PeriodKind.MONTH, PeriodKind.YEAR))
        self.offers["soft"] = replace(self.offers["soft"], kind=kind, limit=self.random.randint(3, 9))
        self._publish("soft")

    def wait(self) -> None:
        self.shard.set_clock(self.shard.now_ms() + self.random.choice((1_000, 61_000, DAY_MS, 3 * DAY_MS)))

    def drain(self) -> None:
        self.pipeline.drained()

    def touch(self, metric: str) -> None:
        """Brings an account up to date: windows that are over are rolled, what has expired is let go."""
        self._decide(Mode.CONSUME, self._charge(metric, 0))

    def settle(self) -> None:
        for metric in self.offers:
            self.touch(metric)
        self.drain()

    def lose_redis(self) -> None:
        """Everything in Redis is gone but its clock; every account is made again from the ledger."""
        now_ms = self.shard.now_ms()
        self.pipeline.connection.flushall()
        self.shard.set_clock(now_ms)
        self.epoch += 1
        self.pipeline.call(shards.take_epoch, 3, self.epoch)
        self.shard.run(protocol.begin_epoch(3, self.epoch, ""))
        for metric in self.offers:
            assert self.shard.provision(self.opening(metric), epoch=self.epoch) == "provisioned"

    # How a gateway does it

    def opening(self, metric: str) -> Opening:
        account, now_ms, granted = AccountName("t", "u", metric), self.shard.now_ms(), self.offers[metric]
        period = period_at(granted.kind, now_ms)
        with transaction(self.pipeline.engine, ALL_TENANTS) as connection:
            running = accounts.running_balances(connection, [account], now_ms).get(account, [])
            spent = accounts.cap_spent(connection, [account], now_ms).get(account, {})
            of_account = grants.of_accounts(connection, [account], now_ms).get(account, [])
            held = holds.open_of(connection, [account]).get(account, {})
            seal = accounts.seals(connection, [account]).get(account)
        same = next((balance for balance in running if balance.period == period), None)
        other = next((balance for balance in running if balance.used and balance is not same), None)
        found = same if other is None or (same and same.used) else other
        counted_in = found.period if found else period
        window = (counted_in.kind.value, counted_in.start_ms)
        caps = {kind: period_at(PeriodKind(kind), now_ms) for kind in granted.caps}
        return Opening(
            account,
            1,
            granted,
            period,
            caps=tuple(
                CapState(cap, granted.caps[kind], spent.get((kind, cap.start_ms), 0)) for kind, cap in caps.items()
            ),
            grants=tuple(
                GrantState(each.id, each.priority, each.expires_ms, each.left, each.taken.get(window, 0))
                for each in of_account
            ),
            journalled_grant=max((each.id for each in of_account if each.journalled), default=0),
            used=found.used if found else 0,
            entry=str(found.place) if found else NONE,
            seal=None if seal is None else str(seal),
            cut=Window(found.period, Terms(found.plan, found.period.kind, None, ()))
            if found and found.period != period
            else None,
            holds=held,
        )

    def _window(self, metric: str, at_ms: int) -> Window:
        offer = self.offers[metric]
        return Window(period_at(offer.kind, at_ms), Terms.of(offer))

    def _charge(self, metric: str, amount: int | None, detail: str = "") -> Charge:
        return Charge(self.shard.key(metric), amount, detail)

    def _publish(self, metric: str) -> None:
        self.shard.run(protocol.publish(3, "t", 1, [self.shard.key(metric)]))

    def _decide(self, mode: Mode, *charges: Charge, refunds_key: str | None = None) -> Reply:
        step = Step(3, mode, keys.catalog_field("t"), 1, charges, encode_about(NO_ABOUT), refunds_key=refunds_key)
        for _ in range(MAX_TRIES):
            (reply,) = self.shard.consume(step)
            assert reply.outcome is not Outcome.FAILED, reply.reason
            if reply.outcome is not Outcome.UNREADY:
                return reply
            for account in reply.accounts:
                metric, now_ms = account.metric, self.shard.now_ms()
                if account.verdict in {Verdict.UNKNOWN, Verdict.STALE}:
                    self.shard.provision(self.opening(metric), epoch=self.epoch, fence=reply.fence)
                elif account.verdict is Verdict.PERIOD_OVER:
                    windows = {cap.period.kind: period_at(cap.period.kind, now_ms) for cap in account.caps}
                    caps = tuple(CapState(windows[cap.period.kind], cap.limit) for cap in account.caps)
                    window = self._window(metric, now_ms)
                    self.shard.run(protocol.roll(3, account.account_key, account.period, window, caps))
        raise AssertionError(f"not ready after {MAX_TRIES} tries: {reply}")
