"""What the scripts say back. Pure; the header of `lua/consume.lua` is the other half of this page."""

from dataclasses import dataclass
from enum import StrEnum

from quota import keys
from quota.formats import LIFETIME, CapState, Window, number
from quota.periods import Period


class Outcome(StrEnum):
    """The first word of a reply of consume.lua."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNREADY = "unready"
    UNINITIALISED = "uninitialised"
    CATALOG_CHANGED = "catalog_changed"
    KEY_REUSED = "key_reused"
    LATE = "late"
    NOT_HELD = "not_held"
    ALREADY_REFUNDED = "already_refunded"
    BELOW_ZERO = "below_zero"
    CROWDED = "crowded"
    UNDRAINED = "undrained"
    FAILED = "failed"


class Verdict(StrEnum):
    """The first word of an account's line."""

    FITS = "fits"
    EXCEEDS = "exceeds"
    UNKNOWN = "unknown"
    STALE = "stale"
    PERIOD_OVER = "period_over"


@dataclass(frozen=True, slots=True)
class LiveGrant:
    """What is left of a grant that has not expired."""

    id: int
    expires_ms: int | None
    left: int


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account as a script left it. `limit` has live grants in it, `plan_limit` has not; None is unlimited.

    `amount` None: all that was held. `refunded`: in all, of the entry that a refund names. `unknown` accounts have a
    verdict, a key and an amount, and nothing else that means anything.
    """

    verdict: Verdict
    account_key: str
    amount: int | None
    used: int = 0
    held: int = 0
    limit: int | None = None
    plan_limit: int | None = None
    enforcement: str = "hard"
    nature: str = "counter"
    window: Window = LIFETIME
    caps: tuple[CapState, ...] = ()
    grants: tuple[LiveGrant, ...] = ()
    refunded: int | None = None

    @property
    def metric(self) -> str:
        return keys.metric_of(self.account_key)

    @property
    def period(self) -> Period:
        return self.window.period


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a step. `epoch` and `fence` say what Redis knew; with a fence of `-` entries of an older epoch wait
    for the ledger. `first_n` names the first entry, None if none."""

    outcome: Outcome
    now_ms: int = 0
    epoch: int = 0
    fence: str = "0"
    first_n: int | None = None
    accounts: tuple[AccountState, ...] = ()
    replayed: bool = False
    reason: str = ""


def parsed_reply(text: str) -> Reply:
    """The reply to one step of a consume call."""
    head, *lines = text.split("\n")
    if head == "replayed":
        first = parsed_reply("\n".join(lines))
        return Reply(first.outcome, first.now_ms, first.epoch, "0", first.first_n, first.accounts, replayed=True)
    first_word, _, rest = head.partition(" ")
    outcome = Outcome(first_word)
    if outcome is Outcome.FAILED:
        return Reply(outcome, reason=rest)
    words = rest.split(" ")
    accounts = _account_states(lines)
    if outcome is Outcome.ALLOWED:
        return Reply(outcome, int(words[0]), int(words[1]), "0", number(words[2]), accounts)
    if outcome is Outcome.UNREADY:
        return Reply(outcome, int(words[0]), int(words[1]), words[2], None, accounts)
    return Reply(outcome, int(words[0]), accounts=accounts)


def _account_states(lines: list[str]) -> tuple[AccountState, ...]:
    if len(lines) < 2:
        return tuple(_account_state(lines, place, place + 1) for place in range(len(lines)))
    begins = [place for place, line in enumerate(lines) if line.partition(" ")[0] not in {"cap", "grant", "refunded"}]
    ends = [*begins[1:], len(lines)]
    return tuple(_account_state(lines, begin, end) for begin, end in zip(begins, ends, strict=True))


def _account_state(lines: list[str], begin: int, end: int) -> AccountState:
    words = lines[begin].split(" ", 9)
    verdict, account_key, amount = Verdict(words[0]), words[1], number(words[2])
    if verdict is Verdict.UNKNOWN:
        return AccountState(verdict, account_key, amount)
    used, held, limit, plan_limit, enforcement, nature, window = words[3:]
    caps, grants, refunded = [], [], None
    for line in lines[begin + 1 : end]:
        kind, _, rest = line.partition(" ")
        if kind == "cap":
            caps.append(CapState.parsed(rest))
        elif kind == "grant":
            ident, expires, left = rest.split(" ")
            grants.append(LiveGrant(int(ident), number(expires), int(left)))
        else:
            refunded = int(rest)
    return AccountState(
        verdict,
        account_key,
        amount,
        int(used),
        int(held),
        number(plan_limit if limit == "=" else limit),
        number(plan_limit),
        enforcement,
        nature,
        Window.parsed(window),
        tuple(caps),
        tuple(grants),
        refunded,
    )
