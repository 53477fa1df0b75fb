"""The scripts do what the model says, step by step, whatever callers, operators and the clock do."""

from collections import Counter
from dataclasses import replace

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from quota.buckets import Grant, Terms
from quota.model import Account
from quota.periods import DAY_MS, PeriodKind
from tests.integration.paired import Offer, Pair
from tests.integration.side_by_side import START_MS, World

STEPS_A_RUN, RUNS = 100, 150
HOUR_MS, MINUTE_MS = 3_600_000, 60_000
KINDS = [PeriodKind.DAY, PeriodKind.WEEK, PeriodKind.MONTH, PeriodKind.LIFETIME]
SHORTER = {kind: KINDS[: KINDS.index(kind)] for kind in KINDS}
WHERE_CHARGES_GO = (
    "charge within the running period",
    "charge before the running period",
    "charge before a cap's window",
    "charge of the window that was sealed last",
    "charge of the window of its instant",
)
WHAT_GOES_OVER = ("overage of a soft limit", "overage of a hard limit", "rollover", "gift allowed", "gift below_zero")
small = st.integers(0, 6)
amounts = small | st.integers(0, 30)
who = st.integers(0, 2)
which = st.integers(0, 1000)
ttls_ms = st.sampled_from([1, 1000, MINUTE_MS, HOUR_MS, 30 * HOUR_MS, 3 * DAY_MS])
levels = st.sampled_from([(80, 95), (), (50,), (10, 20, 99)])


@st.composite
def offers(draw: st.DrawFn, is_level: bool = False) -> Offer:
    limit = draw(st.none() | st.integers(0, 10) | st.integers(1, 10) | st.integers(5, 40))
    if is_level:
        return Offer(Terms(limit, False, True, draw(levels)), PeriodKind.LIFETIME)
    kind = draw(st.sampled_from(KINDS))
    kinds = st.lists(st.sampled_from(SHORTER[kind]), max_size=2, unique=True) if SHORTER[kind] else st.just([])
    caps = {cap: draw(st.integers(0, 12)) for cap in draw(kinds)}
    is_soft = draw(st.sampled_from([False, False, False, True]))
    rollover = draw(st.none() | st.integers(1, 20)) if limit is not None and kind is not PeriodKind.LIFETIME else None
    return Offer(Terms(limit, is_soft, False, draw(levels), rollover), kind, tuple(sorted(caps.items())))


class Scripts(RuleBasedStateMachine):
    """Two counters and a level, of one subject."""

    connection: "redis.Redis"
    seen: "Counter[str]"

    @initialize(counter=offers(), other=offers(), level=offers(is_level=True))
    def begin(self, counter: Offer, other: Offer, level: Offer) -> None:
        self.world = World(self.connection, self.seen)
        for offer in (counter, other, level):
            self.world.open(offer)

    @invariant()
    def is_counted(self) -> None:
        self.seen["steps"] += 1

    def ready(self, *places: int) -> list[Pair]:
        pairs = [self.world.pairs[place] for place in dict.fromkeys(places)]
        for pair in pairs:
            self.world.make_ready(pair)
        return pairs

    # Callers

    @rule(places=st.lists(who, min_size=1, max_size=3, unique=True), amounts=st.lists(amounts, min_size=3, max_size=3))
    def consume(self, places: list[int], amounts: list[int]) -> None:
        self.world.consume(list(zip(self.ready(*places), amounts, strict=False)))

    @rule(place=who, amount=small)
    def consume_a_little(self, place: int, amount: int) -> None:
        self.world.consume([(self.ready(place)[0], amount)])

    @rule(places=st.lists(who, min_size=1, max_size=3, unique=True), amounts=st.lists(amounts, min_size=3, max_size=3))
    def check(self, places: list[int], amounts: list[int]) -> None:
        self.world.check(list(zip(self.ready(*places), amounts, strict=False)))

    @rule(requests=st.lists(st.dictionaries(who, small, min_size=1, max_size=2), min_size=2, max_size=6))
    def batch(self, requests: list[dict[int, int]]) -> None:
        pairs = self.world.pairs
        self.world.batch([[(pairs[place], amount) for place, amount in each.items()] for each in requests])

    @rule(place=who, amount=amounts, times=st.integers(8, 14))
    def ask_too_much(self, place: int, amount: int, times: int) -> None:
        self.world.batch([[(self.ready(place)[0], 50 + amount)]] * times)

    @rule(place=who, amount=amounts, ttl_ms=ttls_ms)
    def hold(self, place: int, amount: int, ttl_ms: int) -> None:
        self.world.hold(self.ready(place)[0], amount, ttl_ms)

    @precondition(lambda self: any(pair.model.holds for pair in self.world.pairs))
    @rule(choice=which, more=st.none() | st.integers(-6, 8) | st.integers(1, 5))
    def commit(self, choice: int, more: int | None) -> None:
        pair, number = self.chosen_hold(choice)
        amount = None if more is None else max(0, pair.model.holds[number].amount + more)
        self.ready(self.world.pairs.index(pair))
        self.world.commit(pair, number, amount)

    @precondition(lambda self: any(pair.model.holds for pair in self.world.pairs))
    @rule(choice=which)
    def release(self, choice: int) -> None:
        pair, number = self.chosen_hold(choice)
        self.ready(self.world.pairs.index(pair))
        self.world.release(pair, number)

    def chosen_hold(self, choice: int) -> tuple[Pair, int]:
        held = [(pair, number) for pair in self.world.pairs for number in pair.model.holds]
        return held[choice % len(held)]

    @rule(place=who, amount=st.integers(1, 4), days=st.integers(1, 40))
    def hold_for_days(self, place: int, amount: int, days: int) -> None:
        self.world.hold(self.ready(place)[0], amount, days * DAY_MS)

    @precondition(lambda self: any(hold.sealed for pair in self.world.pairs for hold in pair.model.holds.values()))
    @rule(choice=which, more=st.integers(-2, 2))
    def commit_in_a_period_that_is_over(self, choice: int, more: int) -> None:
        held = [(p, n) for p in self.world.pairs for n, hold in p.model.holds.items() if hold.sealed]
        pair, number = held[choice % len(held)]
        amount = max(0, pair.model.holds[number].amount + more)
        self.ready(self.world.pairs.index(pair))
        self.world.commit(pair, number, amount)

    @precondition(lambda self: self.world.receipts)
    @rule(choice=which, part=st.sampled_from([1, 2, 100, 100]), knows=st.booleans(), is_forgotten=st.booleans())
    def refund(self, choice: int, part: int, knows: bool, is_forgotten: bool) -> None:
        receipt = self.world.receipts[-1 - choice % len(self.world.receipts)]
        self.ready(*(self.world.pairs.index(pair) for pair, _ in receipt.takings))
        self.world.refund(receipt, [part] * len(receipt.takings), knows, is_forgotten)

    @rule(amount=amounts)
    def give(self, amount: int) -> None:
        self.world.give(self.ready(2)[0], amount)

    # Operators

    @rule(used=amounts)
    def set(self, used: int) -> None:
        self.world.set(self.ready(2)[0], used)

    @rule(place=who, amount=st.integers(1, 9))
    def gift(self, place: int, amount: int) -> None:
        self.world.gift(self.ready(place)[0], amount)

    @rule(place=who, change=st.integers(-30, 30) | st.integers(-3, 3))
    def correct(self, place: int, change: int) -> None:
        self.world.correct(self.ready(place)[0], change or 1)

    @rule(place=who, amount=amounts, ago_ms=st.sampled_from([0, 1, HOUR_MS, DAY_MS, 9 * DAY_MS]))
    def charge(self, place: int, amount: int, ago_ms: int) -> None:
        self.world.charge(self.ready(place)[0], amount, self.world.now_ms - ago_ms)

    @rule(place=who, amount=small, choice=which, off_ms=st.sampled_from([-1, 0, 1]), steps_back=st.integers(0, 3))
    def charge_at_an_edge(self, place: int, amount: int, choice: int, off_ms: int, steps_back: int) -> None:
        """Of what is counted, of what was sealed, and of the windows before that."""
        (pair,) = self.ready(place)
        edges = begun_of(pair.model)
        at_ms = edges[choice % len(edges)] - steps_back * DAY_MS + off_ms
        self.world.charge(pair, amount, min(at_ms, self.world.now_ms))

    @rule(
        place=who,
        amount=st.integers(1, 9),
        priority=st.integers(-1, 1),
        ttl_ms=st.none() | st.just("to the period's end") | ttls_ms,
        now=st.booleans(),
    )
    def grant(self, place: int, amount: int, priority: int, ttl_ms: int | str | None, now: bool) -> None:
        pair, world = self.world.pairs[place], self.world
        world.grant_ids += 1
        expires_ms = world.now_ms + ttl_ms if isinstance(ttl_ms, int) else None
        if isinstance(ttl_ms, str):
            expires_ms = pair.model.period.end_ms
        pair.ordered.append(Grant(world.grant_ids, priority, expires_ms, amount))
        world.publish(pair)
        if now:
            world.make_ready(pair)

    @rule(place=st.integers(0, 1), offer=offers())
    def change_plan(self, place: int, offer: Offer) -> None:
        pair = self.world.pairs[place]
        pair.offer = offer
        self.world.publish(pair)

    @rule(place=st.integers(0, 1), ago_ms=st.sampled_from([0, 1, HOUR_MS, 9 * DAY_MS]))
    def move_the_anchor(self, place: int, ago_ms: int) -> None:
        pair = self.world.pairs[place]
        kind = pair.offer.kind if pair.offer.kind is PeriodKind.LIFETIME else PeriodKind.MONTH
        pair.offer = replace(pair.offer, kind=kind, anchor_ms=self.world.now_ms - ago_ms)
        self.world.publish(pair)
        self.world.make_ready(pair)

    @rule(place=who, limit=st.none() | st.integers(0, 40))
    def override(self, place: int, limit: int | None) -> None:
        pair = self.world.pairs[place]
        terms = pair.offer.terms
        pair.offer = replace(pair.offer, terms=replace(terms, limit=limit))
        self.world.publish(pair)
        self.world.make_ready(pair)

    @rule(place=who)
    def publish(self, place: int) -> None:
        self.world.publish(self.world.pairs[place])

    @rule(place=who)
    def look(self, place: int) -> None:
        self.ready(place)

    # The clock

    @rule(step_ms=st.sampled_from([1, 1000, 59_999, MINUTE_MS, HOUR_MS, DAY_MS, 9 * DAY_MS, 70 * DAY_MS]))
    def tick(self, step_ms: int) -> None:
        self.world.now_ms += step_ms

    @rule(step_ms=st.sampled_from([1, 1000, 30_000, 10 * MINUTE_MS]))
    def step_back(self, step_ms: int) -> None:
        self.world.now_ms -= step_ms

    @rule(choice=which, off_ms=st.sampled_from([-1, 0, 1]))
    def go_to_an_edge(self, choice: int, off_ms: int) -> None:
        edges = sorted({edge for pair in self.world.pairs for edge in edges_of(pair.model) if edge > self.world.now_ms})
        if edges:
            self.world.now_ms = edges[choice % len(edges)] + off_ms


def edges_of(model: Account) -> list[int]:
    """The instants at which something ends."""
    ends = [model.period.end_ms, *(cap.window.end_ms for cap in model.caps.values())]
    ends += [grant.expires_ms for grant in model.grants]
    return [end for end in ends if end is not None] + [hold.expires_ms for hold in model.holds.values()]


def begun_of(model: Account) -> list[int]:
    """The instants at which something that was counted began."""
    sealed = [edge for _, period in model.seals[-1:] for edge in (period.start_ms, period.end_ms or 0)]
    caps = [cap.window.start_ms for cap in model.caps.values()]
    known = [model.period.start_ms, model.counted_from_ms(), *sealed, *caps]
    return [edge for edge in known if edge > 0] or [START_MS]


calm = settings(
    max_examples=RUNS,
    stateful_step_count=STEPS_A_RUN,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_the_scripts_and_the_model_agree_at_every_one_of_ten_thousand_steps(connection: "redis.Redis") -> None:
    seen: Counter[str] = Counter()
    machine = type("Scripts", (Scripts,), {"connection": connection, "seen": seen})
    run_state_machine_as_test(machine, settings=calm)
    assert seen["steps"] >= 10_000
    assert all(seen[name] for name in (*WHERE_CHARGES_GO, *WHAT_GOES_OVER)), seen
