"""What `quotagate subject …` does, through the functions that the routes call."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from gateway.app import Gateway, Parts
from gateway.bodies import GrantRequest, SubscriptionRequest, decoded
from gateway.grants import give
from gateway.subjects import status_of, subscribe
from ledger import subjects, subscriptions, tenants
from ledger.store import ALL_TENANTS, Store
from quota.errors import NotFound
from quota.identifiers import checked_identifier
from quota.keys import AccountName
from quota.periods import to_rfc3339
from quotagate.operator import by_operator, stores
from quotagate.subject_card import Paper, card

PATIENCE_MS = 2_000
"""A person waits longer than a request does, and this process has only just connected."""
REQUEST_ID = "cli"
MOST_DENIALS = 5
Document = dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """A gateway's parts, for one tenant."""

    gateway: Gateway
    parts: Parts
    tenant: str

    @property
    def store(self) -> Store:
        return self.gateway.store

    async def status(self, subject: str) -> Document:
        return await status_of(self.store, self.parts.admission, self.tenant, subject, REQUEST_ID)


@asynccontextmanager
async def opened(environment: Mapping[str, str], data: Path, tenant: str) -> AsyncGenerator[Opened, None]:
    """NotFound if there is no such tenant; whatever keeps a gateway from opening."""
    checked_identifier(tenant, "tenant")
    settings = stores(environment, data, "redis_url", "database_url")
    gateway = Gateway(replace(settings, admin_key="", deadline_ms=max(settings.deadline_ms, PATIENCE_MS)))
    try:
        parts = await gateway.open()
        if not await gateway.store.run(ALL_TENANTS, tenants.exists, tenant):
            raise NotFound(f"there is no tenant {tenant}: `quotagate tenant list` shows them")
        yield Opened(gateway, parts, tenant)
    finally:
        await gateway.close()


def run_subject_show(environment: Mapping[str, str], data: Path, tenant: str, subject: str, *, as_json: bool) -> bool:
    """Prints where the subject stands; whether it is known."""
    checked_identifier(subject, "subject")

    async def look() -> tuple[Document, list[Document], int] | None:
        async with opened(environment, data, tenant) as held:
            if not await _is_known(held, subject):
                return None
            document = await held.status(subject)
            metrics = [each["metric"] for each in document["metrics"]]
            denials = await held.store.run(tenant, subjects.newest_denials, tenant, subject, metrics, MOST_DENIALS)
            return document, [_denial(each) for each in denials], held.parts.admission.now_ms()

    found = asyncio.run(look())
    if found is None:
        click.echo(
            f"quotagate: nothing was ever written down of {subject} of tenant {tenant}: is it spelled so, and is it "
            "of another --tenant?",
            err=True,
        )
        return False
    document, denials, now_ms = found
    if as_json:
        click.echo(json.dumps(document))
        return True
    console = Console(highlight=False, soft_wrap=True)
    is_ascii = not _can_write(console.encoding)
    paper = Paper(console.width if console.is_terminal else None, is_ascii, now_ms)
    for line in card(document, denials, tenant, paper):
        console.print(line)
    return True


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


def _can_write(encoding: str) -> bool:
    try:
        "█▒░→".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


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
    _tell(said, made, before, after, as_json=as_json)


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
    _tell(f"{subject} of tenant {tenant} is on {fields['plan']}{when}.", written, before, after, as_json=as_json)


def _with_what_stays(fields: Document, add_ons: Mapping[str, int], has: Document | None) -> SubscriptionRequest:
    has = has or {"anchor": None, "add_ons": {}}
    together = {name: count for name, count in {**has["add_ons"], **add_ons}.items() if count}
    anchor = fields.get("anchor", has["anchor"])
    asked = {**fields, "anchor": None if anchor == "none" else anchor, "add_ons": together}
    return decoded(SubscriptionRequest, msgspec.json.encode(asked))


def _tell(said: str, made: Document, before: Document, after: Document, *, as_json: bool) -> None:
    found = [{"what": what, "before": old, "after": new} for what, old, new in changes(before, after)]
    if as_json:
        click.echo(json.dumps({**made, "changes": found}))
        return
    click.echo(said)
    arrow = "→" if _can_write(sys.stdout.encoding or "ascii") else "->"
    for each in found:
        click.echo(f"  {each['what']}: {_word(each['before'])} {arrow} {_word(each['after'])}")
    if not found:
        click.echo("  nothing is different now")


def changes(before: Document, after: Document) -> Iterator[tuple[str, Any, Any]]:
    """What differs between two status documents: what, before, after. Pure."""
    pairs = [("plan", before["plan"], after["plan"])]
    # No add-ons and no subscription are the same to whoever reads it, and so are nothing used and no such metric.
    old, new = before["subscription"] or {}, after["subscription"] or {}
    pairs += [(name, old.get(name), new.get(name)) for name in ("status", "anchor", "add_ons", "scheduled")]
    counted = {each["metric"]: each for each in before["metrics"]}
    counts = {each["metric"]: each for each in after["metrics"]}
    for metric in {**counted, **counts}:
        was, now = counted.get(metric), counts.get(metric)
        for name in ("limit", "used", "remaining"):
            pairs.append((f"{metric} {name}", _count(was, name), _count(now, name)))
    return ((what, was, now) for what, was, now in pairs if (was or 0) != (now or 0))


def _count(metric: Document | None, name: str) -> Any:
    if metric is None:
        return None
    return "unlimited" if metric["unlimited"] and name != "used" else metric[name]


def _word(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict) and "at" in value:
        return f"{value['plan']} at {value['at']}"
    return ", ".join(f"{name}={count}" for name, count in value.items()) if isinstance(value, dict) else str(value)
