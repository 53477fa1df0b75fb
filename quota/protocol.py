"""What is said to the scripts and what they say back. Pure: arguments are built and replies read here, for async and
sync callers alike; the scripts' headers in `lua/` are the other half of this page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from quota import keys
from quota.entitlement import Entitlement
from quota.periods import Period, PeriodKind

NONE = "-"
NO_PLAN = "~"
"""Not a character of an identifier, so no plan can have this name."""


class Outcome(StrEnum):
    """The first word of a reply of consume.lua."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNREADY = "unready"
    UNINITIALISED = "uninitialised"
    CATALOG_CHANGED = "catalog_changed"
    KEY_REUSED = "key_reused"
    FAILED = "failed"


class Verdict(StrEnum):
    """The first word of an account's line."""

    FITS = "fits"
    EXCEEDS = "exceeds"
    UNKNOWN = "unknown"
    STALE = "stale"
    PERIOD_OVER = "period_over"


@dataclass(frozen=True, slots=True)
class Call:
    """One run of one script."""

    script: str
    keys: Sequence[str]
    arguments: Sequence[str | bytes | int]


@dataclass(frozen=True, slots=True)
class Charge:
    """An amount of one account. `about` is JSON for the ledger; the script passes it through unread."""

    account_key: str
    metric: str
    amount: int
    about: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """What one request asks of one shard: all of its charges, or none of them."""

    shard: int
    catalog_field: str
    catalog_version: int
    charges: tuple[Charge, ...]
    consumes: bool
    record_key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account carries along for people and for the next period; no script looks inside."""

    plan: str | None
    kind: PeriodKind
    anchor_ms: int | None
    warn_at_pct: tuple[int, ...]

    @classmethod
    def of(cls, entitlement: Entitlement) -> "Terms":
        return cls(entitlement.plan, entitlement.kind, entitlement.anchor_ms, entitlement.warn_at_pct)

    def __str__(self) -> str:
        anchor = NONE if self.anchor_ms is None else str(self.anchor_ms)
        levels = ",".join(map(str, self.warn_at_pct)) or NONE
        return f"{self.plan or NO_PLAN} {self.kind} {anchor} {levels}"

    @staticmethod
    @lru_cache(maxsize=4096)  # few plans, many accounts
    def parsed(words: str) -> "Terms":
        plan, kind, anchor, levels = words.split(" ")
        return Terms(
            None if plan == NO_PLAN else plan,
            PeriodKind(kind),
            _optional(anchor),
            () if levels == NONE else tuple(map(int, levels.split(","))),
        )


LIFETIME = Period(PeriodKind.LIFETIME, 0, None)
NO_TERMS = Terms(None, PeriodKind.LIFETIME, None, ())


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account as a script left it. `unknown` accounts have a verdict and nothing else that means anything."""

    verdict: Verdict
    metric: str
    amount: int
    used: int = 0
    held: int = 0
    limit: int | None = None
    period: Period = LIFETIME
    enforcement: str = "hard"
    terms: Terms = NO_TERMS


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a step. `epoch` and `fence` say what Redis knew; `first_n` names the first entry, None if none."""

    outcome: Outcome
    now_ms: int = 0
    epoch: int = 0
    fence: str = "0"
    first_n: int | None = None
    accounts: tuple[AccountState, ...] = ()
    replayed: bool = False
    reason: str = ""


def _optional(word: str) -> int | None:
    return None if word == NONE else int(word)


def consume(steps: Sequence[Step], record_ttl_ms: int) -> Call:
    """One call for many independent steps."""
    names: list[str] = []
    arguments: list[str | bytes | int] = [len(steps), record_ttl_ms]
    for step in steps:
        names += (keys.head(step.shard), keys.journal(step.shard))
        if step.record_key is not None:
            names.append(step.record_key)
        mode = "consume" if step.consumes else "check"
        arguments += (mode, len(step.charges), step.catalog_field, step.catalog_version, step.fingerprint)
        for charge in step.charges:
            names.append(charge.account_key)
            arguments += (charge.metric, charge.amount, charge.about)
    return Call("consume", names, arguments)


def _account_state(line: str) -> AccountState:
    words = line.split(" ", 9)
    verdict = Verdict(words[0])
    metric, amount = words[1], int(words[2])
    if verdict is Verdict.UNKNOWN:
        return AccountState(verdict, metric, amount)
    used, held, limit, start, end, enforcement = words[3:9]
    terms = Terms.parsed(words[9])
    period = Period(terms.kind, int(start), _optional(end))
    return AccountState(verdict, metric, amount, int(used), int(held), _optional(limit), period, enforcement, terms)


def parsed_reply(text: str) -> Reply:
    """The reply to one step of a consume call."""
    head, *lines = text.split("\n")
    if head == "replayed":
        first = parsed_reply("\n".join(lines))
        return Reply(first.outcome, first.now_ms, first.epoch, "0", first.first_n, first.accounts, replayed=True)
    word, _, rest = head.partition(" ")
    outcome = Outcome(word)
    if outcome is Outcome.FAILED:
        return Reply(outcome, reason=rest)
    numbers = rest.split(" ")
    accounts = tuple(map(_account_state, lines))
    if outcome is Outcome.ALLOWED:
        return Reply(outcome, int(numbers[0]), int(numbers[1]), "0", _optional(numbers[2]), accounts)
    if outcome is Outcome.UNREADY:
        return Reply(outcome, int(numbers[0]), int(numbers[1]), numbers[2], None, accounts)
    return Reply(outcome, int(numbers[0]), accounts=accounts)


@dataclass(frozen=True, slots=True)
class Opening:
    """What Postgres says of an account: its terms, the window that holds now, and the balance in it.

    `cut`: the window, and its terms, in which the balance was counted, when a plan change cut that window short.
    `keeps_window`: whether an account that Redis knows keeps the window that it has.
    """

    account: keys.AccountName
    catalog_version: int
    entitlement: Entitlement
    period: Period
    used: int
    entry: str
    cut: tuple[Period, Terms] | None
    ttl_ms: int
    about: bytes
    keeps_window: bool = False


def _word(number: int | None) -> str | int:
    return NONE if number is None else number


def _window_words(cut: tuple[Period, Terms] | None) -> tuple[str | int, str | int, str]:
    if cut is None:
        return "", "", ""
    period, terms = cut
    return period.start_ms, _word(period.end_ms), str(terms)


def provision(shard: int, epoch: int, fence: str, opening: Opening) -> Call:
    period, limit = opening.period, opening.entitlement.limit
    return Call(
        "provision",
        (keys.head(shard), keys.journal(shard), opening.account.key(shard)),
        (
            epoch,
            fence,
            keys.catalog_field(opening.account.tenant),
            opening.catalog_version,
            opening.used,
            opening.entry,
            *_window_words(opening.cut),
            _word(limit),
            opening.entitlement.enforcement,
            "keep" if opening.keeps_window else "open",
            period.start_ms,
            _word(period.end_ms),
            str(Terms.of(opening.entitlement)),
            opening.ttl_ms,
            opening.about,
        ),
    )


def roll(shard: int, account_key: str, seen_end_ms: int, period: Period, about: bytes) -> Call:
    assert period.end_ms is not None, "only a period that ends can follow one that ended"
    return Call(
        "roll",
        (keys.head(shard), keys.journal(shard), account_key),
        (seen_end_ms, period.start_ms, period.end_ms, about),
    )


def publish(shard: int, tenant: str, catalog_version: int, account_keys: Sequence[str] = ()) -> Call:
    return Call("publish", (keys.head(shard), *account_keys), (keys.catalog_field(tenant), catalog_version))


def begin_epoch(shard: int, epoch: int, store: str) -> Call:
    return Call("begin_epoch", (keys.head(shard),), (epoch, store))
