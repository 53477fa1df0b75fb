"""`quotagate ledger explain`: an entry in words, with the plan of its day."""

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quotagate.plain_commands import data_option, plainly

if TYPE_CHECKING:
    from ledger.explanation import Explained, Terms

MOST_DIGITS = 18  # of a bigint any such number is one
_entry_id = re.compile(rf"(\d{{1,9}})\.(\d{{1,{MOST_DIGITS}}})-(\d{{1,{MOST_DIGITS}}})\Z")

WORDS_OF_KIND = {
    "consume": "used {amount:,}",
    "refund": "was given back {back:,}",
    "hold": "had {amount:,} set aside",
    "commit": "settled a hold with {amount:,}",
    "release": "gave back {amount:,}",
    "expire": "had {amount:,} expire",
    "grant": "was granted {amount:,}",
    "gift": "took part in a gift of {amount:,}",
    "override": "was given a limit of its own",
    "set": "was set to {used_after:,}",
    "correct": "was corrected by {change:+,}",
    "open": "began a period",
    "close": "ended a period",
    "denied": "was denied {amount:,}",
    "warned": "reached a warning level",
}


@click.command()
@click.argument("entry", metavar="ENTRY_ID")
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@plainly
def explain(entry: str, data: Path, as_json: bool) -> None:
    """Tell what an entry is, such as 12.1-17, and what the plan allowed on its day and allows now."""
    found = _explained(os.environ, data, entry)
    if as_json:
        documents = [document_of(each) for each in found]
        click.echo(json.dumps({**documents[0], "others_of_this_id": documents[1:]} if documents[1:] else documents[0]))
        return
    if len(found) > 1:
        click.echo(f"Redis lost its newest entries once, and gave this id to {len(found)}:")
    for line in (line for each in found for line in lines_of(each)):
        click.echo(line)


def _explained(environment: Mapping[str, str], data: Path, entry: str) -> "list[Explained]":
    from ledger.explanation import explained
    from ledger.store import ALL_TENANTS, connect, transaction
    from quota.errors import InvalidRequest
    from quotagate.operator import stores

    named = _entry_id.match(entry)
    if named is None:
        raise InvalidRequest(f"{entry!r} is no entry's name: write it as reports show it, such as 12.1-17")
    engine = connect(stores(environment, data, "database_url").database_url, pool_size=1)
    try:
        with transaction(engine, ALL_TENANTS) as connection:
            shard, epoch, n = map(int, named.groups())
            return explained(connection, shard, epoch, n, int(time.time() * 1000))
    finally:
        engine.dispose()


def document_of(found: "Explained") -> dict[str, Any]:
    """The entry as reports have it, and the terms of then and now."""
    from gateway.report_documents import entry_document

    return {
        "tenant": found.row.tenant,
        "entry": entry_document(found.row),
        "then": _terms_document(found.then),
        "today": _terms_document(found.today),
    }


def _terms_document(terms: "Terms") -> dict[str, Any]:
    import msgspec

    return {
        "version": None if terms.version is None else terms.version.to_document(),
        "plan": terms.plan,
        "limit": None if terms.limit is None else msgspec.to_builtins(terms.limit),
        "words": _terms_words(terms),
    }


def lines_of(found: "Explained") -> list[str]:
    """For people."""
    from gateway.report_documents import entry_document

    row, entry = found.row, entry_document(found.row)
    words = WORDS_OF_KIND[row.kind].format(
        amount=row.amount, change=row.change, back=-row.change, used_after=row.used_after
    )
    start = entry["period_start"]
    period = "for its lifetime" if start is None else f"in the {row.period_kind} from {start}"
    late = ", booked late into a period that was over" if row.is_late else ""
    lines = [
        f"{entry['id']}  {entry['at']}  {row.kind}",
        f"  {row.subject} of tenant {row.tenant} {words} {row.metric}{late}; "
        f"{row.used_after:,} used after it, {period}.",
    ]
    told = {name: getattr(row, name) for name in ("operation", "reason", "actor", "request_id", "idempotency_key")}
    lines += [f"  {name.replace('_', ' ')}: {value}" for name, value in told.items() if value is not None]
    if row.metadata:
        lines.append(f"  metadata: {json.dumps(row.metadata)}")
    return [*lines, f"  then:  {_terms_words(found.then)}", f"  today: {_terms_words(found.today)}"]


def _terms_words(terms: "Terms") -> str:
    from quota.catalog_words import limit_words
    from quota.periods import to_rfc3339

    if terms.version is None:
        return "the tenant had no catalog"
    said = terms.version
    reason = f": {said.reason}" if said.reason else ""
    source = f"catalog version {said.version}, applied {to_rfc3339(said.applied_at_ms)} by {said.applied_by}{reason}"
    if terms.plan is None:
        return f"no plan in force ({source})"
    limit = "none of this metric" if terms.limit is None else limit_words(terms.limit)
    return f"plan {terms.plan}, {limit} ({source})"
