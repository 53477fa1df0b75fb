"""`quotagate incidents`: what ought not to have been, in words: what was lost, whose, how much, from when to when."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from ledger import incidents
from ledger.incidents import WHAT_TO_DO, Incident
from ledger.store import ALL_TENANTS, connect, transaction
from quota.periods import to_rfc3339
from quotagate.operator import stores
from quotagate.plain_commands import counted

SHOWN_ACCOUNTS = 10


def run_incidents(
    environment: Mapping[str, str], data: Path, *, hours: int, kind: str | None, limit: int, as_json: bool
) -> int:
    """Prints the newest last; how many."""
    settings = stores(environment, data, "database_url")
    engine = connect(settings.database_url, pool_size=1)
    try:
        with transaction(engine, ALL_TENANTS) as connection:
            found = incidents.listed(connection, hours, kind, limit)
    finally:
        engine.dispose()
    for each in found:
        if as_json:
            click.echo(json.dumps(each.to_document()))
        else:
            for line in _lines(each):
                click.echo(line)
    if as_json:
        return len(found)
    for named in dict.fromkeys(each.kind for each in found):
        if named in WHAT_TO_DO:
            click.echo(f"{named}: {WHAT_TO_DO[named]}")
    if not found:
        click.echo(f"No incidents in the last {counted(hours, 'hour')}.")
    elif len(found) == limit:
        click.echo(f"The newest {limit:,} are shown; --limit shows more.")
    return len(found)


def _lines(incident: Incident) -> Iterator[str]:
    detail = dict(incident.detail)
    accounts = detail.pop("accounts", [])
    words = ", ".join(f"{name} {_word(value)}" for name, value in detail.items() if value is not None)
    yield f"{to_rfc3339(incident.found_at_ms)}  {incident.kind}  shard {incident.shard}: {words}"
    for sentence in incidents.what_was_lost(incident.kind, incident.detail):
        yield f"    {sentence}"
    for account in accounts[:SHOWN_ACCOUNTS]:
        yield f"    {account['tenant']} {account['subject']} {account['metric']}: {counted(account['units'], 'unit')}"
    if len(accounts) > SHOWN_ACCOUNTS:
        yield f"    … and {len(accounts) - SHOWN_ACCOUNTS:,} more accounts (--json names them)"


def _word(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
