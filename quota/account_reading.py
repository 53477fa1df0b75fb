"""What the hashes of accounts say, read a bounded batch at a time, so that traffic goes on. Blocking; for workers.

A hash is read in one step, so its counter is true at the entry that it names. The patterns here are as strict as the
scripts, which never half understand a text (`lua/rules/account.lua`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from quota import keys
from quota.formats import NONE, CapState, GrantState, Window, number
from quota.identifiers import MAX_AMOUNT
from quota.journal import Place
from quota.keys import AccountName
from quota.lives import HEAD_FIELDS, Standing, standing_of

MAX_READ_ACCOUNTS = 200
"""In one pipeline: Redis serves nobody else for less than a millisecond."""
MAX_READ_WITH_HOLDS = 10
"""An account has a thousand holds at most, and all of them are looked at."""
SCANNED_KEYS = 500

FIELDS = ("state", "rule", "window", "held", "grants", "caps", "warned", "denials", "seal", "sealed", "newest_grant",
          "newest_notice", "expired", "counted_from", "rollover", "corrected")  # fmt: skip

_AMOUNT = r"\d{1,16}"
_WINDOW = r"-?\d+ (?:-|\d+) \S+ [a-z]+ \S+ \S+"
_GRANT = rf"\d+ -?\d+ (?:-|\d+) {_AMOUNT} {_AMOUNT} {_AMOUNT}"
_PATTERNS = {
    name: re.compile(pattern)
    for name, pattern in {
        "state": rf"({_AMOUNT}) (-|\d+-\d+)",
        "rule": rf"(\d+) -?\d+ -?\d+ \d+ (?:-|\d+) (?:-|{_AMOUNT}) [a-z]+ [a-z]+",
        "window": _WINDOW,
        "held": rf"({_AMOUNT}) (\d+) {_AMOUNT}",
        "grants": rf"{_GRANT}(?:;{_GRANT})*",
        "caps": r"[a-z]+ -?\d+ \d+ \d+ \d+(?:;[a-z]+ -?\d+ \d+ \d+ \d+)*",
        "warned": _AMOUNT,
        "denials": r"\d+ \d+ \d+ \d+",
        "seal": r"\d+-\d+ \d+-\d+",
        "sealed": _WINDOW,
        "newest_grant": _AMOUNT,
        "newest_notice": _AMOUNT,
        "expired": _AMOUNT,
        "counted_from": _AMOUNT,
        "rollover": _AMOUNT,
        "corrected": "[01] [01]",
    }.items()
}
_PART = rf"(?:\d+:-?\d+:(?:-|\d+):)?{_AMOUNT}"
_HOLD_FIELD = re.compile(r"h:\d+-\d+")
_HOLD = re.compile(rf"{_AMOUNT} {_AMOUNT} {_PART}(?:,{_PART})* \S+(?: {_WINDOW})?")


@dataclass(frozen=True, slots=True)
class Counter:
    """What Redis says of one account, and at which entry it says so (None: nothing was journalled of it). `epoch` is
    the one that it was brought in."""

    shard: int
    account: AccountName
    used: int
    period_kind: str
    period_start_ms: int
    entry: Place | None
    epoch: int = 0
    held: int = 0
    holds: Mapping[str, str] = field(default_factory=dict)
    """Place -> text, as in the hash."""
    caps: tuple[CapState, ...] = ()
    grants: tuple[GrantState, ...] = ()

    @property
    def key(self) -> str:
        return self.account.key(self.shard)


@dataclass(frozen=True, slots=True)
class Damaged:
    """An account whose hash no script would take. `account` None: not even its key can be read."""

    key: str
    account: AccountName | None
    shard: int
    reason: str


class Accounts:
    """Bound to one Redis."""

    def __init__(self, connection: "Redis") -> None:
        self._connection = connection

    def names(self, batch_size: int) -> Iterator[list[str]]:
        """The keys of all accounts, in batches. One that comes or goes meanwhile may be in them or not."""
        batch: list[str] = []
        for key in self._connection.scan_iter(match=keys.ACCOUNT_PATTERN, count=SCANNED_KEYS):
            batch.append(key.decode(errors="backslashreplace"))
            if len(batch) >= batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def read(self, names: Sequence[str]) -> tuple[list[Counter], list[Damaged]]:
        """What they say; those that are gone are left out."""
        found: dict[str, Any] = {}
        for chunk in _chunks(names, MAX_READ_ACCOUNTS):
            pipeline = self._connection.pipeline(transaction=False)
            for name in chunk:
                pipeline.hmget(name, FIELDS)
            for name, reply in zip(chunk, pipeline.execute(raise_on_error=False), strict=True):
                found[name] = reply if isinstance(reply, Exception) else dict(zip(FIELDS, reply, strict=True))
        with_holds = [name for name, fields in found.items() if isinstance(fields, dict) and fields["held"]]
        for chunk in _chunks(with_holds, MAX_READ_WITH_HOLDS):
            pipeline = self._connection.pipeline(transaction=False)
            for name in chunk:
                pipeline.hgetall(name)
            replies = zip(chunk, pipeline.execute(raise_on_error=False), strict=True)
            found |= {name: reply if isinstance(reply, Exception) else _decoded(reply) for name, reply in replies}
        counters, damaged = [], []
        for name, fields in found.items():
            if isinstance(fields, Exception) and not isinstance(fields, RedisError):
                raise fields
            told = parsed_account(name, fields)
            if isinstance(told, Counter):
                counters.append(told)
            elif told is not None:
                damaged.append(told)
        return counters, damaged

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those that Redis has not got."""
        pipeline = self._connection.pipeline(transaction=False)
        for name in names:
            pipeline.exists(name)
        return [name for name, is_there in zip(names, pipeline.execute(), strict=True) if not is_there]

    def standings(self, shards: Sequence[int]) -> dict[int, Standing]:
        """How far each shard has come in Redis."""
        pipeline = self._connection.pipeline(transaction=False)
        for shard in shards:
            pipeline.hmget(keys.head(shard), HEAD_FIELDS)
            pipeline.xinfo_stream(keys.journal(shard))
        replies = pipeline.execute(raise_on_error=False)
        return {
            shard: standing_of(head, journal)
            for shard, head, journal in zip(shards, replies[::2], replies[1::2], strict=True)
        }


def _chunks(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (names[first : first + size] for first in range(0, len(names), size))


def _decoded(fields: Mapping[bytes, bytes]) -> dict[str, bytes]:
    return {name.decode(errors="backslashreplace"): value for name, value in fields.items()}


def parsed_account(key: str, fields: Mapping[str, bytes | None] | Exception) -> Counter | Damaged | None:
    """A Counter of an account's hash, or what is wrong with it; None of one that is not there. Pure.

    `fields` has at least FIELDS, or of an account with holds all that the hash has.
    """
    try:
        shard, account = keys.account_of(key)
    except ValueError:
        return Damaged(key, None, -1, "the key is not that of an account")
    if isinstance(fields, Exception):
        return Damaged(key, account, shard, str(fields))
    texts = {name: value.decode(errors="backslashreplace") for name, value in fields.items() if value is not None}
    if not texts.keys() & {"state", "rule", "window"}:
        return None
    for name, pattern in _PATTERNS.items():
        if not pattern.fullmatch(texts.get(name, "")) and (name in texts or name in {"state", "rule", "window"}):
            return Damaged(key, account, shard, f"its field {name} is {texts.get(name, 'missing')[:200]!r}")
    try:
        return _counter(shard, account, texts)
    except ValueError as error:
        return Damaged(key, account, shard, str(error))


def _counter(shard: int, account: AccountName, texts: Mapping[str, str]) -> Counter:
    used, entry = texts["state"].split(" ")
    epoch = int(texts["rule"].partition(" ")[0])
    place = None if entry == NONE else Place.parsed(entry)
    if place is not None and place.epoch > epoch:
        raise ValueError(f"its field state says entry {entry}, which is of a later epoch than its own, {epoch}")
    if int(used) > MAX_AMOUNT:
        raise ValueError(f"its field state says {used}, which is more than 2^53 - 1")
    period = Window.parsed(texts["window"]).period
    held, holds = 0, {}
    if "held" in texts:
        held, hold_count, first_expiry_ms = (int(word) for word in texts["held"].split(" "))
        holds = {name.removeprefix("h:"): text for name, text in texts.items() if _HOLD_FIELD.fullmatch(name)}
        if damaged := [place for place, text in holds.items() if not _HOLD.fullmatch(text)]:
            raise ValueError(f"its field h:{damaged[0]} is {holds[damaged[0]][:200]!r}")
        if len(holds) != hold_count:
            raise ValueError(f"its field held says {hold_count} holds, and it has {len(holds)}")
        if late := [place for place, text in holds.items() if int(text.split(" ")[1]) < first_expiry_ms]:
            raise ValueError(f"its field held says that no hold ends before {first_expiry_ms}, and h:{late[0]} does")
    caps = tuple(map(CapState.parsed, texts["caps"].split(";"))) if "caps" in texts else ()
    return Counter(
        shard,
        account,
        int(used),
        period.kind,
        period.start_ms,
        place,
        epoch,
        held,
        holds,
        caps,
        tuple(map(_grant, texts["grants"].split(";"))) if "grants" in texts else (),
    )


def _grant(text: str) -> GrantState:
    grant_id, priority, expires, left, taken, _ = text.split(" ")
    return GrantState(int(grant_id), int(priority), number(expires), int(left), int(taken))
