"""Accounts in Redis and in the model, side by side: whatever is done is done to both, then all that can be seen of them
is compared. The scripts are the product's, but for the clock, which is a key of the test's.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import redis

import lua
from quota import keys, protocol
from quota.buckets import Cap
from quota.formats import CapState, GrantState, Window, detail_of_charge, detail_of_refund
from quota.formats import Terms as Words
from quota.journal import Place
from quota.keys import AccountName
from quota.model import Account, consume_all
from quota.periods import period_at
from quota.protocol import Bringing, Call, Charge, Mode, Opening, Step
from quota.replies import Reply, parsed_reply
from tests.integration import paired
from tests.integration.paired import SHARD, SUBJECT, TENANT, Offer, Pair, Receipt
from tests.integration.shard import CLOCK

START_MS = 1_772_323_200_000 + 3_600_000  # an hour into a month, which begins on a Sunday
RECORD_TTL_MS = 60_000


class World:
    def __init__(self, connection: "redis.Redis", seen: "Counter[str]") -> None:
        self.connection, self.seen = connection, seen
        connection.flushall()
        names = ("consume", "provision", "roll", "publish", "begin_epoch")
        clock = lua.source("rules/clock")
        self.scripts = {name: str(connection.script_load(lua.source(name).replace(clock, CLOCK))) for name in names}
        self.now_ms, self.fence, self.next_n, self.grant_ids, self.gift_ids = START_MS, 0, 0, 0, 0
        self.pairs: list[Pair] = []
        self.receipts: list[Receipt] = []
        self.run(protocol.begin_epoch(SHARD, 1, ""))

    def run(self, call: Call) -> Any:
        pipeline = self.connection.pipeline(transaction=False)
        pipeline.set("clock", self.now_ms)
        pipeline.evalsha(self.scripts[call.script], len(call.keys), *call.keys, *call.arguments)
        reply = pipeline.execute()[1]
        return reply.decode() if isinstance(reply, bytes) else reply

    # Accounts and their terms

    def open(self, offer: Offer) -> Pair:
        name = AccountName(TENANT, SUBJECT, f"m{len(self.pairs)}")
        caps = {kind.value: Cap(period_at(kind, self.now_ms), limit) for kind, limit in offer.caps}
        pair = Pair(name, offer, Account(offer.terms, offer.period(self.now_ms), caps))
        pair.model.open()
        self.pairs.append(pair)
        assert self.run(protocol.provision([Bringing(SHARD, 1, str(self.fence), self.opening(pair))])) == [
            b"provisioned"
        ]
        self.check([(pair, 0)])
        return pair

    def provision(self, opening: Opening) -> None:
        assert self.run(protocol.provision([Bringing(SHARD, 1, str(self.fence), opening)])) == [b"provisioned"]

    def opening(self, pair: Pair) -> Opening:
        offer = pair.offer
        caps = tuple(CapState(period_at(kind, self.now_ms), limit) for kind, limit in offer.caps)
        grants = tuple(GrantState(each.id, each.priority, each.expires_ms, each.left) for each in pair.ordered)
        return Opening(pair.name, 1, offer.entitlement(), offer.period(self.now_ms), caps, grants)

    def publish(self, pair: Pair) -> None:
        assert self.run(protocol.publish(SHARD, TENANT, 1, [pair.key])) == 1
        self.fence += 1
        pair.is_stale = True

    def make_ready(self, pair: Pair) -> None:
        """What a gateway does with an account that is stale or over: until it is neither."""
        was_ready = not pair.waits(self.now_ms)
        if pair.is_stale:
            offer, now_ms, model = pair.offer, self.now_ms, pair.model
            caps = {kind.value: Cap(period_at(kind, now_ms), limit) for kind, limit in offer.caps}
            opening = self.opening(pair)
            model.enter(offer.terms, offer.period(now_ms), caps, deepcopy(pair.ordered[pair.entered :]), now_ms)
            pair.entered, pair.is_stale = len(pair.ordered), False
            self.provision(opening)
            self.compare()
        if pair.model.is_over(self.now_ms):
            seen, next_period = pair.model.period, pair.offer.period(self.now_ms)
            windows = pair.offer.cap_windows(self.now_ms)
            pair.model.roll(self.now_ms, next_period, windows)
            words = Window(next_period, self.words(pair))
            opened = [CapState(window, 0) for window in windows.values()]
            assert self.run(protocol.roll(SHARD, pair.key, seen, words, opened)) == "rolled"
            self.compare()
        if not was_ready:
            self.check([(pair, 0)])  # neither of these scripts tells a caller anything

    def words(self, pair: Pair) -> Words:
        return Words.of(pair.offer.entitlement())

    # Steps

    def step(self, mode: Mode, charges: Sequence[tuple[Pair, int | None, str]], **changes: Any) -> Step:
        said = tuple(Charge(pair.key, amount, detail) for pair, amount, detail in charges)
        return Step(SHARD, mode, keys.catalog_field(TENANT), 1, said, b"", **changes)

    def ask(self, *steps: Step) -> list[Reply]:
        replies = [parsed_reply(text.decode()) for text in self.run(protocol.consume(steps, RECORD_TTL_MS))]
        self.seen.update(f"{step.mode} {reply.outcome}" for step, reply in zip(steps, replies, strict=True))
        return replies

    def do(self, step: Step, pairs: Sequence[Pair], wanted: str, change: Callable[[], Any]) -> Any:
        """Asks, does the same to the model, and compares; what the model did."""
        before = [paired.overdrawn_of(pair.model.checked(self.now_ms)) for pair in pairs]
        (reply,) = self.ask(step)
        done = change()
        assert reply.outcome.value == wanted, (reply, wanted)
        if step.mode not in {Mode.CHARGE, Mode.SET, Mode.ADJUST}:
            for pair, overdrawn in zip(pairs, before, strict=True):
                assert paired.overdrawn_of(pair.model) <= overdrawn, "more was given out than there is"
        for said, pair in zip(paired.told_by(reply), pairs, strict=bool(reply.accounts)):
            paired.assert_said(said, pair.model)
        self.compare()
        return done

    def consume(self, charges: Sequence[tuple[Pair, int]]) -> None:
        pairs = [pair for pair, _ in charges]
        copies = [pair.model.checked(self.now_ms) for pair in pairs]
        fits = not any(model.bound_by(n) for model, (_, n) in zip(copies, charges, strict=True))
        taken = self.do(
            self.step(Mode.CONSUME, [(pair, n, "") for pair, n in charges]),
            pairs,
            "allowed" if fits else "denied",
            lambda: consume_all([(pair.model, n) for pair, n in charges], self.now_ms),
        )
        assert bool(taken) == fits
        if taken:
            self.receipts.append(Receipt(tuple(zip(pairs, taken, strict=True))))

    def check(self, charges: Sequence[tuple[Pair, int]]) -> None:
        step = self.step(Mode.CHECK, [(pair, n, "") for pair, n in charges])
        (reply,) = self.ask(step)
        models = [pair.model.checked(self.now_ms) for pair, _ in charges]
        bounds = [model.bound_by(n) for model, (_, n) in zip(models, charges, strict=True)]
        assert reply.outcome.value == ("denied" if any(bounds) else "allowed")
        assert [state.verdict.value for state in reply.accounts] == ["exceeds" if each else "fits" for each in bounds]
        for said, model in zip(paired.told_by(reply), models, strict=True):
            paired.assert_said(said, model)
        self.compare()

    def batch(self, requests: Sequence[Sequence[tuple[Pair, int]]]) -> None:
        """Requests of one call see each other; one that waits holds up those behind it that share an account."""
        replies = self.ask(*(self.step(Mode.CONSUME, [(pair, n, "") for pair, n in charges]) for charges in requests))
        waiting = {pair.key for pair in self.pairs if pair.waits(self.now_ms)}
        for reply, charges in zip(replies, requests, strict=True):
            if waiting.intersection(pair.key for pair, _ in charges):
                assert reply.outcome.value == "unready", reply
                waiting.update(pair.key for pair, _ in charges)
                continue
            taken = consume_all([(pair.model, n) for pair, n in charges], self.now_ms)
            assert reply.outcome.value == ("allowed" if taken else "denied"), reply
            for said, (pair, _) in zip(paired.told_by(reply), charges, strict=True):
                paired.assert_said(said, pair.model)
            if taken:
                self.receipts.append(
                    Receipt(tuple((pair, each) for (pair, _), each in zip(charges, taken, strict=True)))
                )
        self.compare()

    def hold(self, pair: Pair, amount: int, ttl_ms: int) -> None:
        fits = pair.model.checked(self.now_ms).bound_by(amount) is None
        self.do(
            self.step(Mode.HOLD, [(pair, amount, str(ttl_ms))]),
            [pair],
            "allowed" if fits else "denied",
            lambda: pair.model.hold(amount, self.now_ms + ttl_ms, self.now_ms),
        )

    def commit(self, pair: Pair, number: int, amount: int | None) -> None:
        step = self.step(Mode.COMMIT, [(pair, amount, str(pair.places[number]))])
        seen = pair.model.checked(self.now_ms)
        if number not in seen.holds:
            self.do(step, [pair], "not_held", lambda: pair.model.let_go(self.now_ms))
            return
        settled = seen.holds[number].amount if amount is None else amount
        fits = seen.commit(number, settled, self.now_ms) is not None
        wanted = "allowed" if fits else "denied"
        taking = self.do(step, [pair], wanted, lambda: pair.model.commit(number, settled, self.now_ms))
        if taking:
            self.receipts.append(Receipt(((pair, taking),)))

    def release(self, pair: Pair, number: int) -> None:
        step = self.step(Mode.RELEASE, [(pair, None, str(pair.places[number]))])
        if number in pair.model.checked(self.now_ms).holds:
            self.do(step, [pair], "allowed", lambda: pair.model.release(number, self.now_ms))
        else:
            self.do(step, [pair], "not_held", lambda: pair.model.let_go(self.now_ms))

    def refund(self, receipt: Receipt, amounts: Sequence[int], ledger_knows: bool, is_forgotten: bool) -> None:
        key = keys.refunds(SHARD, 1, receipt.first_n)
        if is_forgotten:
            self.connection.delete(key)
        charges, wanted, total = [], "", 0
        for (pair, taking), amount in zip(receipt.takings, amounts, strict=True):
            line, place = pair.lines[taking.number], pair.places[taking.number]
            # What Redis still knows, the ledger need not have heard of.
            known = 0 if self.connection.hexists(key, str(place)) else pair.model.refunded.get(taking.number, 0)
            seals = [number for number, _ in pair.model.seals if number > taking.number]
            sealed = " ".join(line[11:]) if taking.sealed else ""
            if not sealed and seals and ledger_knows:
                sealed = " ".join(pair.lines[seals[0]][11:])
            words = {"parts": line[8], "caps": line[9], "sealed": sealed}
            detail = detail_of_refund(str(place), taking.amount, refunded=known, epoch=1, **words)
            charges.append((pair, amount, detail))
            given = pair.model.checked(self.now_ms).refund(taking, amount, self.now_ms)
            total += given or 0
            if not wanted and not sealed and (len(seals) > 1 or (seals and pair.was_put_back_in_the_sealed)):
                wanted = "undrained"
            elif not wanted and given is None:
                wanted = "below_zero"
        pairs = [pair for pair, _ in receipt.takings]
        wanted = wanted or ("allowed" if total else "already_refunded")

        def change() -> None:
            for (pair, taking), amount in zip(receipt.takings, amounts, strict=True):
                if wanted == "allowed":
                    pair.model.refund(taking, amount, self.now_ms)
                else:
                    pair.model.let_go(self.now_ms)

        self.do(self.step(Mode.REFUND, charges, refunds_key=key), pairs, wanted, change)

    def give(self, pair: Pair, amount: int) -> None:
        fits = amount <= pair.model.checked(self.now_ms).used
        step = self.step(Mode.GIVE, [(pair, amount, "")])
        wanted = "allowed" if fits else "below_zero"
        self.do(step, [pair], wanted, lambda: pair.model.give_back(amount, self.now_ms))

    def set(self, pair: Pair, used: int) -> None:
        step = self.step(Mode.SET, [(pair, used, "")])
        self.do(step, [pair], "allowed", lambda: pair.model.set(used, self.now_ms))

    def gift(self, pair: Pair, amount: int) -> None:
        self.gift_ids += 1
        fits = pair.model.checked(self.now_ms).spare_of_grants() >= amount
        step = self.step(Mode.GIFT, [(pair, amount, f"gift:{self.gift_ids}")])
        wanted = "allowed" if fits else "below_zero"
        self.do(step, [pair], wanted, lambda: pair.model.gift(amount, self.gift_ids, self.now_ms))

    def correct(self, pair: Pair, change: int) -> None:
        fits = pair.model.checked(self.now_ms).used + change >= 0
        step = self.step(Mode.ADJUST, [(pair, abs(change), "up" if change > 0 else "down")])
        wanted = "allowed" if fits else "below_zero"
        done = self.do(step, [pair], wanted, lambda: pair.model.correct(change, self.now_ms))
        assert done == fits
        if done and change < 0:
            pair.put_back.append(len(pair.model.entries))

    def charge(self, pair: Pair, amount: int, at_ms: int) -> None:
        """Forced: in the windows of its instant."""
        window = Window(pair.offer.period(at_ms), self.words(pair))
        step = self.step(Mode.CHARGE, [(pair, amount, detail_of_charge(at_ms, window))])
        taking = self.do(step, [pair], "allowed", lambda: pair.model.charge(amount, at_ms, window.period, self.now_ms))
        if taking.sealed:
            last_seal = pair.model.seals[-1] if pair.model.seals else (0, None)
            is_known = taking.sealed == last_seal[1]
            words = " ".join(pair.lines[last_seal[0]][11:]) if is_known else str(window)
            assert " ".join(pair.lines[taking.number][11:]) == words, "booked under other words than it was sealed with"
            self.seen[f"charge of the window {'that was sealed last' if is_known else 'of its instant'}"] += 1
        else:
            self.seen[f"charge {'before' if at_ms < pair.model.period.start_ms else 'within'} the running period"] += 1
            of_caps = len(pair.model.caps) - len(taking.caps)
            self.seen["charge before a cap's window"] += bool(of_caps)
        self.receipts.append(Receipt(((pair, taking),)))

    # What can be seen

    def compare(self) -> None:
        """Everything that the scripts wrote, and everything that the model says."""
        pipeline = self.connection.pipeline(transaction=False)
        pipeline.xrange(keys.journal(SHARD), min=f"1-{self.next_n}")
        for pair in self.pairs:
            pipeline.hgetall(pair.key)
        items, *hashes = pipeline.execute()
        by_key = {pair.key: pair for pair in self.pairs}
        for name, fields in items:
            assert Place.parsed(name.decode()) == Place(1, self.next_n), "the ids have a gap"
            self.next_n += 1
            words = fields[b"line"].decode().split(" ")
            pair = by_key[words[10]]
            pair.places.append(Place.parsed(name.decode()))
            pair.lines.append(words)
            paired.assert_entry(pair, words, self.now_ms)
            self.seen[f"entry {words[0]}{' of a period that is over' if words[4] == '-' else ''}"] += 1
            if words[7].startswith("rollover:"):
                self.seen["rollover"] += 1
            if words[7].startswith("over:"):
                self.seen[f"overage of a {'soft' if pair.model.terms.is_soft else 'hard'} limit"] += 1
        for pair, found in zip(self.pairs, hashes, strict=True):
            assert len(pair.places) == len(pair.model.entries), pair.model.entries[len(pair.places) :]
            paired.assert_hash(pair, {name.decode(): value.decode() for name, value in found.items()})
            paired.assert_counted(pair)
