"""One account in Redis and in the model, and what must be the same of both: entries, hashes, what callers are told."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

from quota.buckets import Grant, Part, Taking, Terms
from quota.decisions import Charged, decision
from quota.demands import Demand
from quota.entitlement import Entitlement
from quota.journal import Place
from quota.keys import AccountName
from quota.model import Account
from quota.periods import Period, PeriodKind, period_at
from quota.protocol import Mode
from quota.replies import Reply

SHARD, TENANT, SUBJECT = 3, "t", "u"
DEMAND = Demand(TENANT, SUBJECT, Mode.CHECK, "r-1")  # what was asked does not change what is told of an account


@dataclass(frozen=True)
class Offer:
    """What a plan grants: the terms and the kinds of window that they hold for."""

    terms: Terms
    kind: PeriodKind
    caps: tuple[tuple[PeriodKind, int], ...] = ()
    anchor_ms: int | None = None

    def entitlement(self) -> Entitlement:
        terms = self.terms
        words = ("soft" if terms.is_soft else "hard", self.kind, self.anchor_ms, terms.warn_at_pct)
        nature = "level" if terms.is_level else "counter"
        return Entitlement("plan", terms.limit, *words, nature, rollover=terms.rollover)

    def period(self, now_ms: int) -> Period:
        return period_at(self.kind, now_ms, self.anchor_ms)

    def cap_windows(self, now_ms: int) -> dict[str, Period]:
        return {kind.value: period_at(kind, now_ms) for kind, _ in self.caps}


@dataclass
class Pair:
    """One account. `places[n]` is where the model's entry n stands in the journal, `lines` are those entries' words."""

    name: AccountName
    offer: Offer
    model: Account
    is_stale: bool = False
    ordered: list[Grant] = field(default_factory=list)
    entered: int = 0
    places: list[Place] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)
    sums: dict[tuple[str, int], int] = field(default_factory=dict)  # of the changes in each window
    put_back: list[int] = field(default_factory=list)  # the numbers of corrections down

    @property
    def key(self) -> str:
        return self.name.key(SHARD)

    @property
    def was_put_back_in_the_sealed(self) -> bool:
        """Whether a person put units back in the period that was sealed last."""
        *before, last = [0, *(number for number, _ in self.model.seals)]
        return any(before[-1] < number <= last for number in self.put_back) if before else False

    def waits(self, now_ms: int) -> bool:
        return self.is_stale or self.model.is_over(now_ms)


@dataclass(frozen=True)
class Receipt:
    takings: tuple[tuple[Pair, Taking], ...]

    @property
    def first_n(self) -> int:
        pair, taking = self.takings[0]
        return pair.places[taking.number].n


def word(number: int | None) -> str:
    return "-" if number is None else str(number)


def parts_text(parts: Sequence[Part]) -> str:
    texts = []
    for part in parts:
        grant = "" if part.grant is None else f"{part.grant[0]}:{part.grant[1]}:{word(part.grant[2])}:"
        texts.append(f"{grant}{part.units}")
    return ",".join(texts)


def caps_text(windows: Sequence[Period]) -> str:
    return ",".join(f"{window.kind}:{window.start_ms}" for window in windows) or "-"


def assert_entry(pair: Pair, words: list[str], now_ms: int) -> None:
    number = len(pair.places) - 1
    entry = pair.model.entries[number]
    about = pair.places[entry.about] if isinstance(entry.about, int) else entry.about or "-"
    used_after = word(entry.used_after)
    assert words[:5] == [entry.kind, str(now_ms), str(entry.amount), str(entry.change), used_after], entry
    assert words[7] == str(about), entry
    assert words[11:13] == [str(entry.period.start_ms), word(entry.period.end_ms)], entry
    assert words[14] == entry.period.kind.value
    if entry.used_after is not None:
        window = (entry.period.kind.value, entry.period.start_ms)
        pair.sums[window] = pair.sums.get(window, 0) + int(words[3])
        assert pair.sums[window] == int(words[4]), "an entry does not follow from the one before"


def told_by(reply: Reply) -> tuple[Charged, ...]:
    """What callers are told of each account."""
    return decision(DEMAND, SHARD, reply).charges


def assert_said(said: Charged, model: Account) -> None:
    assert (said.used, said.held, said.limit) == (model.used, model.held, model.limit)
    assert (said.plan_limit, said.period) == (model.terms.limit, model.period)
    assert [(cap.period, cap.limit, cap.spent) for cap in said.caps] == [
        (cap.window, cap.limit, cap.spent) for cap in model.caps.values()
    ]
    assert [(each.id, each.expires_ms, each.left) for each in said.grants] == [
        (each.id, each.expires_ms, each.left) for each in model.grants
    ]
    assert_conserved(said)


def assert_conserved(said: Charged) -> None:
    """Nothing of the model's rules: what was used, what is held and what remains are all that there is."""
    if said.limit is None:
        assert said.remaining is None
    elif said.used + said.held > said.limit:
        assert said.remaining == 0
    else:
        assert said.used + said.held + (said.remaining or 0) == said.limit


def assert_hash(pair: Pair, found: dict[str, str]) -> None:
    model = pair.model
    hold_texts, counted_from_ms = {}, model.counted_from_ms()
    for number, hold in model.holds.items():
        text = f"{hold.amount} {hold.expires_ms} {parts_text(hold.parts)} {caps_text(hold.caps)}"
        if hold.sealed:
            closed = next(n for n, period in model.seals if n > number and period == hold.sealed)
            text += " " + " ".join(pair.lines[closed][11:])
        hold_texts[f"h:{pair.places[number]}"] = text
    wanted = {
        "state": f"{model.used} {pair.places[-1] if pair.places else '-'}",
        "held": f"{model.held} {len(model.holds)}" if model.holds else "",
        "grants": ";".join(
            f"{g.id} {g.priority} {word(g.expires_ms)} {g.left} {g.taken} {g.held}" for g in model.grants
        ),
        "caps": ";".join(
            f"{kind} {cap.window.start_ms} {cap.window.end_ms} {cap.limit} {cap.spent}"
            for kind, cap in model.caps.items()
        ),
        "warned": str(model.warned) if model.warned else "",
        "expired": str(model.expired_ms) if model.expired_ms else "",
        "rollover": "" if model.terms.rollover is None else str(model.terms.rollover),
        "counted_from": str(counted_from_ms) if counted_from_ms < model.period.start_ms else "",
        **hold_texts,
    }
    seen = {name: found.get(name, "") for name in wanted}
    seen["held"] = seen["held"].rpartition(" ")[0]  # without the first expiry, which may be that of a hold that is gone
    assert seen == wanted
    assert {name for name in found if name.startswith("h:")} == set(hold_texts)
    denials = tuple(map(int, found.get("denials", "0 0 0 0").split(" ")))
    assert denials == astuple(model.denials)


def overdrawn_of(model: Account) -> set[str]:
    """Of what a hard account has given out more than there is, as an operator or the end of a grant may leave it."""
    if model.terms.is_soft:
        return set()
    total, limit = model.used + model.held, model.terms.limit
    granted = sum(grant.taken + grant.held for grant in model.grants)
    over = {kind for kind, cap in model.caps.items() if cap.spent > cap.limit}
    if limit is not None and total > (model.limit or 0):
        over.add("limit")
    if limit is not None and not model.terms.is_level and total - granted > limit:
        over.add("allowance")
    return over


def assert_counted(pair: Pair) -> None:
    """Nothing of the model's rules: what must hold of any account."""
    model = pair.model
    assert min(model.used, model.held, *(cap.spent for cap in model.caps.values()), 0) == 0
    assert all(min(grant.left, grant.taken, grant.held) >= 0 for grant in model.grants)
    assert pair.sums.get((model.period.kind.value, model.period.start_ms), 0) == model.used
