"""What is said to the scripts. Pure: arguments are built here, for async and sync callers alike. The headers of the
scripts in `lua/` are the other half of this page; `quota/replies.py` reads what they say back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Any, TypeVar

import msgspec

from quota import keys
from quota.entitlement import Entitlement
from quota.formats import NONE, CapState, GrantState, Terms, Window, joined, word
from quota.periods import Period


class Mode(StrEnum):
    """What a step asks consume.lua to do."""

    CONSUME = "consume"
    CHECK = "check"
    HOLD = "hold"
    COMMIT = "commit"
    RELEASE = "release"
    REFUND = "refund"
    GIVE = "give"
    SET = "set"
    CHARGE = "charge"
    ADJUST = "adjust"
    GIFT = "gift"


@dataclass(frozen=True, slots=True)
class Call:
    """One run of one script."""

    script: str
    keys: Sequence[str]
    arguments: Sequence[str | bytes | int]


@dataclass(frozen=True, slots=True)
class Charge:
    """An amount of one account; None is all that was held. `detail` is what the step's mode needs besides."""

    account_key: str
    amount: int | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What one request asks of one shard: all of its charges, or none of them.

    `about` is JSON for the ledger, which the scripts pass through unread. `refunds_key` remembers what was given back.
    """

    shard: int
    mode: Mode
    catalog_field: str
    catalog_version: int
    charges: tuple[Charge, ...]
    about: bytes = b""
    record_key: str | None = None
    fingerprint: str = ""
    refunds_key: str | None = None


NEVER_MS = 2**53 - 1
_WITHOUT_DETAIL = frozenset((Mode.CONSUME, Mode.CHECK))


def consume(steps: Sequence[Step], record_ttl_ms: int, not_after_ms: int = NEVER_MS) -> Call:
    """One call for many independent steps. Past `not_after_ms`, by Redis's clock, it charges nothing any more."""
    names: list[str] = []
    arguments: list[str | bytes | int] = [len(steps), record_ttl_ms, not_after_ms]
    for step in steps:
        names += (keys.head(step.shard), keys.journal(step.shard))
        if step.record_key is not None:
            names.append(step.record_key)
        if step.refunds_key is not None:
            names.append(step.refunds_key)
        arguments += (
            step.mode.value,
            len(step.charges),
            step.catalog_field,
            step.catalog_version,
            step.fingerprint,
            step.about,
        )
        for charge in step.charges:
            names.append(charge.account_key)
            arguments.append(NONE if charge.amount is None else charge.amount)
            if step.mode not in _WITHOUT_DETAIL:
                arguments.append(charge.detail)
    return Call("consume", names, arguments)


@dataclass(frozen=True, slots=True)
class Notice:
    """A change of an account's terms that is to be an entry, once: `id` grows with every change of the account."""

    id: int
    kind: str
    amount: int
    detail: str
    about: bytes


@dataclass(frozen=True, slots=True)
class Opening:
    """What Postgres says of an account.

    `until_ms`: when these terms end by themselves. `keeps_window`: whether an account that Redis knows keeps its own.
    `caps` and `grants` are as the ledger knows them; `journalled_grant` is the newest grant that has an entry.
    `seal` is the place of the last entry that closed a period. `cut` is the window in which `used` was counted, when a
    plan change cut it short. `holds` maps a hold's place to its text. `notices` are those that the ledger has no entry
    of, oldest first; `grant_entries` the kind and the about of the entries of grants that it has none of, by their id.
    """

    account: keys.AccountName
    catalog_version: int
    entitlement: Entitlement
    period: Period
    caps: tuple[CapState, ...] = ()
    grants: tuple[GrantState, ...] = ()
    journalled_grant: int = 0
    used: int = 0
    entry: str = NONE
    seal: str | None = None
    cut: Window | None = None
    holds: Mapping[str, str] = field(default_factory=dict)
    until_ms: int | None = None
    ttl_ms: int = 0
    keeps_window: bool = False
    notices: tuple[Notice, ...] = ()
    grant_entries: Mapping[int, tuple[str, bytes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bringing:
    """An account to be brought in: only in this epoch, and behind this fence.

    `seen` is what one that lives, and differs from the ledger, said when it was compared, as `<entry> <used>`: it is
    written anew if it says so still. `about` is JSON for the ledger, with what differed.
    """

    shard: int
    epoch: int
    fence: str
    opening: Opening
    seen: str = ""
    about: bytes = b""


MAX_PROVISIONED = 32
"""Accounts in one call: Redis serves nobody else meanwhile."""


T = TypeVar("T")


def batched(wanted: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Pieces of at most so many."""
    return (wanted[first : first + most] for first in range(0, len(wanted), most))


def together(wanted: Sequence[Bringing]) -> Iterator[Sequence[Bringing]]:
    """Pieces of neighbours that may go into one call, as few as there can be where they are sorted by shard."""
    for _, some in groupby(wanted, lambda each: (each.shard, each.epoch, each.fence)):
        yield from batched(list(some), MAX_PROVISIONED)


def provision(wanted: Sequence[Bringing]) -> Call:
    """One call for at most MAX_PROVISIONED accounts of one shard, in one epoch and behind one fence."""
    shard, epoch, fence = wanted[0].shard, wanted[0].epoch, wanted[0].fence
    names = [keys.head(shard), keys.journal(shard), *(each.opening.account.key(shard) for each in wanted)]
    return Call("provision", names, (epoch, fence, *(msgspec.json.encode(_said(each)) for each in wanted)))


def _said(bringing: Bringing) -> dict[str, Any]:
    opening, granted = bringing.opening, bringing.opening.entitlement
    said: dict[str, Any] = {
        "catalog_field": keys.catalog_field(opening.account.tenant),
        "catalog_version": str(opening.catalog_version),
        "limit": word(granted.limit),
        "enforcement": granted.enforcement,
        "nature": granted.nature,
        "window": str(Window(opening.period, Terms.of(granted))),
        "till": word(opening.until_ms),
        "entry": opening.entry,
        "used": str(opening.used),
        "journalled_grant": str(opening.journalled_grant),
    }
    if opening.caps:
        said["caps"] = joined(opening.caps, ";")
    if opening.grants:
        said["grants"] = joined(opening.grants, ";")
    if granted.rollover is not None:
        said["rollover"] = str(granted.rollover)
    if opening.seal is not None:
        said["seal"] = f"{opening.seal} {opening.seal}"
    if opening.cut is not None:
        said["cut"] = str(opening.cut)
    if opening.holds:
        said["holds"] = joined((f"{place} {hold}" for place, hold in opening.holds.items()), "\n")
    if opening.ttl_ms:
        said["ttl_ms"] = str(opening.ttl_ms)
    if opening.keeps_window:
        said["on_window"] = "keep"
    if opening.notices:
        said["notices"] = [
            (str(each.id), each.kind, str(each.amount), each.detail, each.about.decode()) for each in opening.notices
        ]
    if opening.grant_entries:
        said["grant_entries"] = {
            str(grant_id): (kind, about.decode()) for grant_id, (kind, about) in opening.grant_entries.items()
        }
    if bringing.seen:
        said |= {"seen": bringing.seen, "about": bringing.about.decode()}
    return said


def roll(shard: int, account_key: str, seen: Period, window: Window, caps: Sequence[CapState] = ()) -> Call:
    """`seen` is the period that the account was found in; `window` and `caps` hold now."""
    return Call(
        "roll",
        (keys.head(shard), keys.journal(shard), account_key),
        (word(seen.end_ms), str(window), joined(caps, ";")),
    )


def correct(
    shard: int,
    account: keys.AccountName,
    epoch: int,
    entry: str,
    *,
    seen_used: int,
    delta: int,
    caps: Mapping[tuple[str, int], int],
    about: bytes,
) -> Call:
    """`entry` and `seen_used` are what the account said when it was compared; `delta` is what it lacks, and `caps` what
    its capped windows lack, by kind and start_ms."""
    return Call(
        "correct",
        (keys.head(shard), keys.journal(shard), account.key(shard)),
        (
            epoch,
            entry,
            seen_used,
            delta,
            joined(f"{kind}:{start}:{lacks}" for (kind, start), lacks in caps.items()),
            about,
        ),
    )


def publish(shard: int, tenant: str, catalog_version: int, account_keys: Sequence[str] = ()) -> Call:
    return Call("publish", (keys.head(shard), *account_keys), (keys.catalog_field(tenant), catalog_version))


def begin_epoch(shard: int, epoch: int, store: str) -> Call:
    return Call("begin_epoch", (keys.head(shard), keys.journal(shard)), (epoch, store))


def trim(shard: int, last_id: bytes, last: Mapping[bytes, bytes], min_id: str) -> Call:
    return Call("trim", (keys.journal(shard),), (last_id, last.get(b"line", b""), last.get(b"about", b""), min_id))
