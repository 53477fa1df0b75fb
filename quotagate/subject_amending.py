"""What `quotagate subject override | set | correct | gift` do, through the functions that the routes call."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from gateway.bodies import CorrectionRequest, GiftRequest, LevelRequest, OverrideRequest, decoded
from gateway.corrections import correct
from gateway.gifts import announce_given, ask_and_give, document_of
from gateway.levels import set_level
from gateway.overrides import put_limit, take_limit_away
from ledger import gifts
from ledger.gifts import Gift
from quota.errors import NotEnoughUnits
from quota.identifiers import checked_identifier
from quota.keys import AccountName
from quotagate.operator import by_operator
from quotagate.patience import saying_what_takes_long
from quotagate.subject_opening import REQUEST_ID, Document, Opened, opened
from quotagate.subject_telling import Change, changes, tell

GIVEN_WITHIN_S = 30.0
"""The drain books a gift within a second; a person waits longer before he goes on to something else."""
LOOK_EVERY_S = 0.2


def run_subject_override(
    environment: Mapping[str, str], data: Path, account: AccountName, fields: Document, *, as_json: bool
) -> None:
    """Puts a limit in place of the plan's, and prints what that changed."""
    checked = _checked(account)
    asked = decoded(OverrideRequest, msgspec.json.encode(fields))

    async def put() -> tuple[Document, list[Change]]:
        async with opened(environment, data, account.tenant) as held:
            before = await _standing(held, account)
            by, admission = by_operator(asked.reason), held.parts.admission
            made = await put_limit(held.store, admission, checked, asked, by=by, request_id=REQUEST_ID)
            return made, [*_differences(account, before, await _standing(held, account))]

    made, changed = asyncio.run(put())
    limit = "unlimited" if asked.limit is None else f"{asked.limit:,}"
    ends = "" if made["expires_at"] is None else f", until {made['expires_at']}"
    said = f"{account.subject} of tenant {account.tenant} has a limit of its own of {account.metric}: {limit}{ends}."
    tell(said, made, changed, as_json=as_json)


def run_subject_override_removed(
    environment: Mapping[str, str], data: Path, account: AccountName, reason: str, *, as_json: bool
) -> None:
    """Takes an override away, and prints what that changed. NotFound if there is none."""
    checked = _checked(account)
    # The reason goes through the body's rules, as that of the one who put it there did.
    asked = decoded(OverrideRequest, msgspec.json.encode({"limit": None, "reason": reason}))

    async def take_away() -> list[Change]:
        async with opened(environment, data, account.tenant) as held:
            before = await _standing(held, account)
            by, admission = by_operator(asked.reason), held.parts.admission
            await take_limit_away(held.store, admission, checked, by=by, request_id=REQUEST_ID)
            return [*_differences(account, before, await _standing(held, account))]

    changed = asyncio.run(take_away())
    said = f"The limit of the plan holds again for {account.metric} of {account.subject} of tenant {account.tenant}."
    tell(said, {"subject": account.subject, "metric": account.metric}, changed, as_json=as_json)


def run_subject_set(
    environment: Mapping[str, str], data: Path, account: AccountName, fields: Document, *, as_json: bool
) -> None:
    """Says what a level is, and prints what that changed."""
    checked = _checked(account)
    asked = decoded(LevelRequest, msgspec.json.encode(fields))

    async def change() -> tuple[Document, list[Change]]:
        async with opened(environment, data, account.tenant) as held:
            before, by = await held.status(account.subject), by_operator(asked.reason)
            made = await set_level(held.parts.admission, checked, asked, by=by, request_id=REQUEST_ID)
            return made, [*changes(before, await held.status(account.subject))]

    made, changed = asyncio.run(change())
    said = f"{account.subject} of tenant {account.tenant} holds {made['used']:,} of {account.metric}."
    tell(said, made, changed, as_json=as_json)


def run_subject_correct(
    environment: Mapping[str, str], data: Path, account: AccountName, fields: Document, *, as_json: bool
) -> None:
    """Moves a counter up or down, and prints what that changed."""
    _checked(account)
    asked = decoded(CorrectionRequest, msgspec.json.encode({**fields, "metric": account.metric}))

    async def move() -> tuple[Document, list[Change]]:
        async with opened(environment, data, account.tenant) as held:
            before, by = await held.status(account.subject), by_operator(asked.reason)
            tenant, subject, admission = account.tenant, account.subject, held.parts.admission
            made, _ = await correct(admission, tenant, subject, asked, by=by, request_id=REQUEST_ID)
            return made, [*changes(before, await held.status(subject))]

    made, changed = asyncio.run(move())
    said = f"{account.metric} of {account.subject} of tenant {account.tenant} is corrected by {asked.change:+,}."
    tell(said, made, changed, as_json=as_json)


def run_subject_gift(
    environment: Mapping[str, str], data: Path, tenant: str, fields: Document, *, as_json: bool
) -> bool:
    """Gives one subject's unused units of grants to another, waits until they are there, and prints what that changed;
    False if they are not there after GIVEN_WITHIN_S. NotEnoughUnits, if it was refused."""
    asked = decoded(GiftRequest, msgspec.json.encode(fields))

    async def give() -> tuple[Gift, list[Change]]:
        async with opened(environment, data, tenant) as held:
            both = (asked.giver, asked.to)
            before = [await held.status(each) for each in both]
            admission, by = held.parts.admission, by_operator(asked.reason)
            begun = await ask_and_give(held.store, admission, held.parts.giving, tenant, asked, by=by)
            gift = await _settled(held, begun.gift)
            after = [await held.status(each) for each in both]
            pairs = zip(both, before, after, strict=True)
            return gift, [
                (f"{who}, {what}", was, now) for who, old, new in pairs for what, was, now in changes(old, new)
            ]

    gift, changed = asyncio.run(give())
    if gift.state == "refused":
        raise NotEnoughUnits(gift.refusal or f"gift {gift.id} was refused: nothing was given")
    named = f"{gift.amount:,} {gift.metric} of {gift.giver} for {gift.receiver} of tenant {tenant}"
    if gift.is_settled:
        tell(f"Gift {gift.id}: {named}, given.", document_of(gift), changed, as_json=as_json)
        return True
    tell(f"Gift {gift.id}: {named}, not given yet.", document_of(gift), changed, as_json=as_json)
    click.echo(
        f"quotagate: gift {gift.id} is written down, and will be given once, or refused: do not ask again; "
        "`quotagate doctor` says what it waits for",
        err=True,
    )
    return False


async def _settled(held: Opened, gift: Gift) -> Gift:
    """The gift once it is given or refused, or as it stands after a while."""
    if gift.is_settled:
        return gift
    gives_up_at = time.monotonic() + GIVEN_WITHIN_S
    with saying_what_takes_long(f"gift {gift.id} waits for the ledger …"):
        while not gift.is_settled and time.monotonic() < gives_up_at:
            await asyncio.sleep(LOOK_EVERY_S)
            gift = await held.store.run(held.tenant, gifts.read, held.tenant, gift.id)
    if gift.state == "given":
        await announce_given(held.parts.admission, gift)
    return gift


def _checked(account: AccountName) -> AccountName:
    for name, value in account._asdict().items():
        checked_identifier(value, name)
    return account


async def _standing(held: Opened, account: AccountName) -> tuple[Document, Document | None]:
    """The subject's status, and the override of the account, if there is one."""
    found = [each for each in await held.overrides(account.subject) if each["metric"] == account.metric]
    return await held.status(account.subject), found[0] if found else None


def _differences(
    account: AccountName, before: tuple[Document, Document | None], after: tuple[Document, Document | None]
) -> Iterator[Change]:
    was, now = _in_words(before[1]), _in_words(after[1])
    if was != now:
        yield f"{account.metric} override", was, now
    yield from changes(before[0], after[0])


def _in_words(override: Mapping[str, Any] | None) -> str | None:
    if override is None:
        return None
    limit = "unlimited" if override["limit"] is None else f"{override['limit']:,}"
    return limit if override["expires_at"] is None else f"{limit} until {override['expires_at']}"
