"""The plain case of consume.lua decides as the rules do: whatever is done is done in two databases of one server, in
one by the script as it is, in the other by one whose requests all go the way of the rules."""

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from quota import keys, protocol
from quota.entitlement import Entitlement
from quota.formats import CapState, GrantState, Terms, Window
from quota.identifiers import MAX_AMOUNT
from quota.keys import AccountName
from quota.periods import DAY_MS, PeriodKind, period_at
from quota.protocol import NEVER_MS, Bringing, Call, Charge, Mode, Opening, Step
from quota.replies import Reply, Verdict, parsed_reply
from tests.conftest import Stores
from tests.integration.shard import SHARD, ClockedShard
from tests.integration.side_by_side import START_MS

SEEDS, ACTS = 6, 150
HOUR_MS, MINUTE_MS = 3_600_000, 60_000
TTL_MS = HOUR_MS  # of records and notes, by the server's own clock: longer than any run
METRICS = ("m", "m2", "m3", "m4")
KINDS = (PeriodKind.DAY, PeriodKind.MONTH, PeriodKind.LIFETIME)
LIMITS = (None, 0, 1, 5, 10, 20, MAX_AMOUNT - 1, MAX_AMOUNT)
AMOUNTS = (0, 1, 1, 2, 3, 5, 30, 30, 30, 50, 2**52, MAX_AMOUNT - 1, MAX_AMOUNT)
CLOCK_STEPS_MS = (1, 1000, 30_000, MINUTE_MS - 1, MINUTE_MS, HOUR_MS, DAY_MS, 40 * DAY_MS, -1, -1000, -MINUTE_MS - 1)
WAYS = ("plainly", "by the rules")
WHAT_IS_SEEN = {
    *(f"{way} {mode} {outcome}" for way in WAYS for mode in ("consume", "check") for outcome in ("allowed", "denied")),
    *(f"{way} consume {outcome} under a key" for way in WAYS for outcome in ("allowed", "denied")),
    *(f"by the rules consume {outcome}" for outcome in ("unready", "late", "key_reused", "catalog_changed")),
    *("replayed", *(f"by the rules {mode} allowed" for mode in ("hold", "commit", "release", "set"))),
}


class RulesAlone(ClockedShard):
    """A shard whose consume knows no plain case."""

    def source(self, script: str) -> str:
        text = super().source(script)
        without = text.replace("reply = decide_plainly(mode)", "reply = nil")
        assert script != "consume" or without != text, "the plain case was not switched off"
        return without


def spelled_out(found: Any) -> Any:
    """With the limit in the place of `=`, by which the plain case says that it is the one that follows."""
    if isinstance(found, list):
        return [spelled_out(each) for each in found]
    return re.sub(rb" = (\S+)", rb" \1 \1", found) if isinstance(found, bytes) else found


def contents(shard: ClockedShard) -> dict[bytes, Any]:
    """Every key, and whether it goes away by itself."""
    found, pipeline = shard.everything(), shard.connection.pipeline(transaction=False)
    for name in found:
        pipeline.pttl(name)
    return {
        name: (spelled_out(each), left_ms > 0)
        for (name, each), left_ms in zip(found.items(), pipeline.execute(), strict=True)
    }


class Twice:
    """What callers, operators and time do to the accounts of one subject, in both databases."""

    def __init__(self, plain: ClockedShard, rules: ClockedShard, seed: int, seen: "Counter[str]") -> None:
        self.plain, self.rules, self.random, self.seen = plain, rules, random.Random(seed), seen
        self.now_ms, self.version, self.granted = START_MS, 1, 0
        self.offers: dict[str, Entitlement] = {}
        self.grants: dict[str, list[GrantState]] = {metric: [] for metric in METRICS}
        self.holds: list[tuple[str, str]] = []
        self.run(protocol.begin_epoch(SHARD, 1, ""))
        for metric in METRICS:
            self.offers[metric] = self.offer()
            self.provision(metric, "0")

    def go_on(self, acts: int) -> None:
        does = [self.ask] * 8 + [self.hold, self.hold, self.settle, self.settle, self.set, self.forget]
        does += [self.change_plan, self.grant, self.publish, self.wait, self.wait, self.wait, self.wait_for_an_end]
        for _ in range(acts):
            self.random.choice(does)()
            if self.random.random() < 0.8:
                self.make_ready()
            assert contents(self.plain) == contents(self.rules)

    def run(self, call: Call) -> Any:
        replies = []
        for shard in (self.plain, self.rules):
            shard.set_clock(self.now_ms)
            replies.append(shard.run(call))
        assert spelled_out(replies[0]) == spelled_out(replies[1]), call
        return replies[0]

    def decide(self, steps: list[Step], not_after_ms: int = NEVER_MS) -> list[Reply]:
        texts = [text.decode() for text in self.run(protocol.consume(steps, TTL_MS, not_after_ms))]
        replies = [parsed_reply(text) for text in texts]
        for step, text, reply in zip(steps, texts, replies, strict=True):
            way = "plainly" if " = " in text else "by the rules"
            name = "replayed" if reply.replayed else f"{way} {step.mode} {reply.outcome}"
            self.seen.update((name, f"{name} under a key") if step.record_key else (name,))
        return replies

    def do(self, mode: Mode, metric: str, amount: int | None, detail: str = "") -> Reply:
        charges = (Charge(self.plain.key(metric), amount, detail),)
        (reply,) = self.decide([self.plain.step(0, mode=mode, charges=charges, catalog_version=self.version)])
        return reply

    # What callers do

    def ask(self) -> None:
        """Some requests in one call, often behind a run of copies, which may all be denied; some come too late."""
        steps = [self.step() for _ in range(self.random.choice((1, 1, 3, 12)))]
        if self.random.random() < 0.4:
            steps = [self.step()] * self.random.randint(9, 16) + steps
        self.decide(steps, self.now_ms + self.random.choice((-1, 0, *[DAY_MS] * 8)))

    def step(self) -> Step:
        metrics = self.random.sample(METRICS, self.random.choice((1, 1, 1, 1, 1, 2)))
        charges = tuple(Charge(self.plain.key(metric), self.random.choice(AMOUNTS)) for metric in metrics)
        mode = self.random.choice((Mode.CONSUME, Mode.CONSUME, Mode.CONSUME, Mode.CHECK))
        has_key = mode is Mode.CONSUME and self.random.random() < 0.4
        key = f"k{self.random.randrange(20)}" if has_key else None
        version = self.version + self.random.choice((0,) * 12 + (1, -1))
        body = self.random.choice("bbbc")
        return self.plain.step(0, key=key, body=body, mode=mode, charges=charges, catalog_version=version)

    def hold(self) -> None:
        metric, ttl_ms = self.random.choice(METRICS), self.random.choice((1000, MINUTE_MS, DAY_MS))
        reply = self.do(Mode.HOLD, metric, self.random.choice((0, 1, 2, 9)), str(ttl_ms))
        if reply.first_n is not None:
            self.holds.append((metric, f"{reply.epoch}-{reply.first_n}"))

    def settle(self) -> None:
        if self.holds:
            metric, place = self.holds.pop(self.random.randrange(len(self.holds)))
            mode, amount = self.random.choice(((Mode.RELEASE, None), (Mode.COMMIT, None), (Mode.COMMIT, 3)))
            self.do(mode, metric, amount, place)

    def set(self) -> None:
        for metric in METRICS:
            if self.offers[metric].nature == "level":
                self.do(Mode.SET, metric, self.random.choice((0, 1, 4, 12)))

    # What operators and time do

    def offer(self) -> Entitlement:
        kind, limit = self.random.choice(KINDS), self.random.choice(LIMITS)
        if self.random.random() < 0.2:
            return Entitlement(None, self.random.choice((0, 0, 3)), "hard", PeriodKind.LIFETIME, None, (80, 95))
        enforcement = self.random.choice(("hard", "hard", "hard", "soft"))
        levels = self.random.choice(((80, 95), (), (50,)))
        nature = "level" if kind is PeriodKind.LIFETIME and self.random.random() < 0.5 else "counter"
        caps = {"day": self.random.randint(0, 8)} if kind is PeriodKind.MONTH and self.random.random() < 0.3 else {}
        return Entitlement("plan", limit, enforcement, kind, None, levels, nature, caps)

    def change_plan(self) -> None:
        metric = self.random.choice(METRICS)
        self.offers[metric] = self.offer()
        self.run(protocol.publish(SHARD, "t", self.version, [self.plain.key(metric)]))

    def grant(self) -> None:
        metric, expires_ms = self.random.choice(METRICS), self.random.choice((None, self.now_ms + 1000))
        self.granted += 1
        self.grants[metric].append(GrantState(self.granted, 0, expires_ms, self.random.randint(1, 9)))
        self.run(protocol.publish(SHARD, "t", self.version, [self.plain.key(metric)]))

    def publish(self) -> None:
        """A newer catalog, or the news of an older one, which come late."""
        said = self.version + self.random.choice((1, 0, -1))
        self.run(protocol.publish(SHARD, "t", said))
        self.version = max(self.version, said)

    def forget(self) -> None:
        """What was remembered under idempotency keys is over, and the journal drained."""
        for shard in (self.plain, self.rules):
            shard.connection.delete("none", *shard.connection.keys(keys.record(SHARD, "t", "u", "consume", "*")))
            shard.connection.xtrim(keys.journal(SHARD), maxlen=0, approximate=False)

    def wait(self) -> None:
        self.now_ms += self.random.choice(CLOCK_STEPS_MS)

    def wait_for_an_end(self) -> None:
        """Of a period; or the instant before it."""
        window = Window.parsed(self.plain.account(self.random.choice(METRICS))["window"])
        if window.period.end_ms is not None:
            self.now_ms = window.period.end_ms - self.random.choice((0, 1))

    # What a gateway does with an account that is not ready

    def make_ready(self) -> None:
        looks = [self.plain.step(0, metric=m, mode=Mode.CHECK, catalog_version=self.version) for m in METRICS]
        for metric, reply in zip(METRICS, self.decide(looks), strict=True):
            for state in reply.accounts:
                if state.verdict in {Verdict.UNKNOWN, Verdict.STALE}:
                    self.provision(metric, reply.fence)
                elif state.verdict is Verdict.PERIOD_OVER:
                    kind = state.period.kind
                    window = Window(period_at(kind, self.now_ms), Terms.of(replace(self.offers[metric], kind=kind)))
                    self.run(protocol.roll(SHARD, state.account_key, state.period, window, self.caps(metric)))

    def provision(self, metric: str, fence: str) -> None:
        offer, name = self.offers[metric], AccountName("t", "u", metric)
        is_note, period, granted = offer.plan is None, period_at(offer.kind, self.now_ms), tuple(self.grants[metric])
        opening = Opening(name, self.version, offer, period, self.caps(metric), granted)
        note = replace(opening, ttl_ms=TTL_MS if is_note else 0, keeps_window=is_note)
        assert self.run(protocol.provision([Bringing(SHARD, 1, fence, note)])) == [b"provisioned"]

    def caps(self, metric: str) -> tuple[CapState, ...]:
        caps = self.offers[metric].caps.items()
        return tuple(CapState(period_at(PeriodKind(kind), self.now_ms), limit) for kind, limit in caps)


@pytest.fixture
def rules(connection: "redis.Redis", stores: Stores) -> Iterator[RulesAlone]:
    """In a database beside that of `connection`, which has emptied both."""
    with redis.Redis.from_url(stores.redis_url.removesuffix("/0") + "/1") as beside:
        yield RulesAlone(beside)


def test_the_plain_case_decides_as_the_rules_do(connection: "redis.Redis", rules: RulesAlone) -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        connection.flushall()
        Twice(ClockedShard(connection), rules, seed, seen).go_on(ACTS)
    assert {name for name in WHAT_IS_SEEN if not seen[name]} == set(), seen
