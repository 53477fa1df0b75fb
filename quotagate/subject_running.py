"""What `quotagate subject …` does, through the functions that the routes call."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec
from rich.console import Console

from gateway.bodies import GrantRequest, SubscriptionRequest, decoded
from gateway.grants import give
from gateway.subjects import subscribe
from ledger import subjects, subscriptions
from quota.identifiers import checked_identifier
from quota.keys import AccountName
from quota.periods import to_rfc3339
from quotagate.operator import by_operator
from quotagate.subject_card import Paper, card
from quotagate.subject_opening import REQUEST_ID, Document, Opened, opened
from quotagate.subject_telling import can_write, changes, tell

MOST_DENIALS = 5


def run_subject_show(environment: Mapping[str, str], data: Path, tenant: str, subject: str, *, as_json: bool) -> bool:
    """Prints where the subject stands; whether it is known."""
    checked_identifier(subject, "subject")
    console = Console(highlight=False, soft_wrap=True)

    async def look() -> tuple[Document, Paper, list[Document], list[Document]] | None:
        async with opened(environment, data, tenant) as held:
            if not await _is_known(held, subject):
                return None
            document = await held.status(subject)
            metrics = [each["metric"] for each in document["metrics"]]
            denials = await held.store.run(tenant, subjects.newest_denials, tenant, subject, metrics, MOST_DENIALS)
            paper = _paper(console, held.parts.admission.now_ms())
            return document, paper, await held.overrides(subject), [_denial(each) for each in denials]

    found = asyncio.run(look())
    if found is None:
        click.echo(
            f"quotagate: nothing was ever written down of {subject} of tenant {tenant}: is it spelled so, and is it "
            "of another --tenant?",
            err=True,
        )
        return False
    document, paper, overrides, denials = found
    if as_json:
        click.echo(json.dumps(document))
        return True
    for line in card(document, overrides, denials, tenant, paper):
        console.print(line)
    return True


def _paper(console: Console, now_ms: int) -> Paper:
    return Paper(console.width if console.is_terminal else None, not can_write(console.encoding), now_ms)


async def _is_known(held: Opened, subject: str) -> bool:
    """What still waits in the journal counts as well: the counters have it."""
    if await held.store.run(held.tenant, subjects.is_known, held.tenant, subject):
        return True
    admission = held.parts.admission
    _, catalog = await admission.catalogs.get(held.tenant)
    shard = admission.shard_of(held.tenant, subject)
    names = [AccountName(held.tenant, subject, metric).key(shard) for metric in catalog.metrics]
    # One after the other: a person asks once, and most subjects that exist were found in the ledger.
    for name in names:
        if await held.gateway.counters.has_record(name):
            return True
    return False


def _denial(denial: subjects.Denial) -> Document:
    at = to_rfc3339(int(denial.occurred_at.timestamp() * 1000))
    many = (denial.detail or "").removeprefix("sum:")
    times = f", in {int(many):,} requests" if many.isdigit() else ""
    return {"at": at, "metric": denial.metric, "amount": denial.amount, "times": times}


def run_subject_grant(
    environment: Mapping[str, str], data: Path, tenant: str, subject: str, fields: Document, *, as_json: bool
) -> None:
    """Gives units, and prints what that changed."""
    checked_identifier(subject, "subject")
    asked = decoded(GrantRequest, msgspec.json.encode(fields))

    async def grant() -> tuple[Document, Document, Document]:
        async with opened(environment, data, tenant) as held:
            before = await held.status(subject)
            made, _ = await give(held.store, held.parts.admission, tenant, subject, asked, by=by_operator(asked.reason))
            return made, before, await held.status(subject)

    made, before, after = asyncio.run(grant())
    ends = "" if made["expires_at"] is None else f", until {made['expires_at']}"
    said = f"Grant {made['id']}: {asked.amount:,} {asked.metric} for {subject} of tenant {tenant}{ends}."
    tell(said, made, changes(before, after), as_json=as_json)


def run_subject_subscribe(
    environment: Mapping[str, str],
    data: Path,
    tenant: str,
    subject: str,
    fields: Document,
    *,
    add_ons: Mapping[str, int],
    reason: str | None,
    as_json: bool,
) -> None:
    """Puts the subject on a plan, and prints what that changed. Anchor and add-ons that are not named stay."""
    checked_identifier(subject, "subject")

    async def change() -> tuple[Document, Document, Document]:
        async with opened(environment, data, tenant) as held:
            running = await held.store.run(tenant, subscriptions.of_subject, tenant, subject)
            has = None if running is None else running.at(held.parts.admission.now_ms()).to_document()
            asked = _with_what_stays(fields, add_ons, has)
            before = await held.status(subject)
            admission, by = held.parts.admission, by_operator(reason)
            written = await subscribe(held.store, admission, tenant, subject, asked, by=by, request_id=REQUEST_ID)
            return written, before, await held.status(subject)

    written, before, after = asyncio.run(change())
    when = f" from {written['scheduled']['at']} on" if written["scheduled"] else ""
    tell(
        f"{subject} of tenant {tenant} is on {fields['plan']}{when}.", written, changes(before, after), as_json=as_json
    )


def _with_what_stays(fields: Document, add_ons: Mapping[str, int], has: Document | None) -> SubscriptionRequest:
    has = has or {"anchor": None, "add_ons": {}}
    together = {name: count for name, count in {**has["add_ons"], **add_ons}.items() if count}
    anchor = fields.get("anchor", has["anchor"])
    asked = {**fields, "anchor": None if anchor == "none" else anchor, "add_ons": together}
    return decoded(SubscriptionRequest, msgspec.json.encode(asked))
