"""`quotagate audit`: who changed what, of every tenant and of operators."""

import os
from pathlib import Path

import click

from quotagate.plain_commands import data_option, plainly


@click.command()
@click.option("--tenant", help="Only this tenant's; without it, everybody's and what operators did to all.")
@click.option("--subject", help="Only what was done to this subject.")
@click.option("--act", help="Only this kind of act, such as subscription.written.")
@click.option("--actor", help="Only what this one did: a key's id, cli, settings.")
@click.option("--from", "since", metavar="INSTANT", help="From this instant, such as 2026-11-01T00:00:00Z.")
@click.option("--to", "till", metavar="INSTANT", help="The first instant that is left out.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="The newest so many.")
@data_option
@click.option("--json", "form", flag_value="json", help="Print JSON documents, one a line.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV with a header.")
@plainly
def audit(
    *,
    tenant: str | None,
    subject: str | None,
    act: str | None,
    actor: str | None,
    since: str | None,
    till: str | None,
    limit: int,
    data: Path,
    form: str | None,
) -> None:
    """Tell who changed what, when, from where and why."""
    from ledger.act_reading import WantedActs
    from ledger.acts import ACTS
    from quota.errors import InvalidRequest
    from quota.periods import from_rfc3339
    from quotagate.auditing import run_audit

    if act is not None and act not in ACTS:
        raise click.BadParameter(f"{act!r} is none of {', '.join(ACTS)}", param_hint="--act")
    from_ms, to_ms = (None if each is None else from_rfc3339(each) for each in (since, till))
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise InvalidRequest("--from must lie before --to")
    run_audit(os.environ, data, WantedActs(tenant, subject, act, actor, from_ms, to_ms), limit, form)
