"""`quotagate subject …`: one subject, as the person on call looks at it and helps it."""

import os
import re
import sys
from pathlib import Path

import click

from quotagate.plain_commands import EXIT_FOUND, data_option, json_option, plainly

tenant_option = click.option("--tenant", default="default", show_default=True, help="Whose subject it is.")
reason_option = click.option("--reason", required=True, help="Why, for the audit log.")
_add_on = re.compile(r"([^=]+)=(\d{1,16})\Z")


def _add_ons(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for value in values:
        match = _add_on.match(value)
        if match is None:
            raise click.BadParameter(f"{value!r} is no add-on and its number: write extra_100=2")
        found[match[1]] = int(match[2])
    return found


@click.group()
def subject() -> None:
    """Show one subject; change its plan, limits and counters."""


@subject.command("show")
@click.argument("subject", metavar="SUBJECT")
@tenant_option
@data_option
@json_option
@plainly
def show_subject(subject: str, tenant: str, data: Path, as_json: bool) -> None:
    """Show a subject's plan, and every metric with a bar.

    --json prints what GET /v1/subjects/SUBJECT/status answers. NO_COLOR=1 leaves the colours away.

    Exit status: 0 it is known, 1 nothing was ever written down of it, 2 it could not be looked at.

    \b
    Examples:
      quotagate subject show u_1
      quotagate subject show acme/alice --tenant shop --json | jq .metrics
    """
    from quotagate.subject_running import run_subject_show

    sys.exit(0 if run_subject_show(os.environ, data, tenant, subject, as_json=as_json) else EXIT_FOUND)


@subject.command("grant")
@click.argument("subject", metavar="SUBJECT")
@click.argument("metric")
@click.argument("amount", type=click.IntRange(1))
@reason_option
@click.option("--expires-at", metavar="INSTANT", help="When it ends, such as 2030-01-01T00:00:00Z.  [default: never]")
@click.option("--priority", type=int, default=0, show_default=True, help="The lowest number is used first.")
@tenant_option
@data_option
@json_option
@plainly
def grant_units(
    *,
    subject: str,
    metric: str,
    amount: int,
    reason: str,
    expires_at: str | None,
    priority: int,
    tenant: str,
    data: Path,
    as_json: bool,
) -> None:
    """Give a subject bonus units; the next request may use them.

    \b
    Examples:
      quotagate subject grant u_1 credits 50 --reason "ticket 4711"
      quotagate subject grant u_1 credits 50 --reason sorry --expires-at 2030-01-01T00:00:00Z
    """
    from quotagate.subject_running import run_subject_grant

    fields = {
        "metric": metric,
        "amount": amount,
        "reason": reason,
        "expires_at": None if expires_at == "never" else expires_at,
        "priority": priority,
    }
    run_subject_grant(os.environ, data, tenant, subject, fields, as_json=as_json)


@subject.command("subscribe")
@click.argument("subject", metavar="SUBJECT")
@click.argument("plan")
@click.option(
    "--status",
    type=click.Choice(["active", "trialing", "past_due", "canceled", "paused"]),
    default="active",
    show_default=True,
    help="How the subscription stands.",
)
@click.option("--anchor", metavar="INSTANT", help="From when its periods are counted, or `none`: calendar periods.")
@click.option("--at-period-end", is_flag=True, help="Once the period that runs has ended, and not now.")
@click.option(
    "--add-on", "add_ons", multiple=True, callback=_add_ons, metavar="NAME=N", help="So many of it; 0 takes it away."
)
@click.option(
    "--status-until",
    metavar="INSTANT",
    help="For past_due and trialing: from when on the default plan holds, or `none`.  [default: what the catalog says]",
)
@click.option("--reason", help="Why, for the audit log.")
@tenant_option
@data_option
@json_option
@plainly
def subscribe_subject(
    *,
    subject: str,
    plan: str,
    status: str,
    anchor: str | None,
    at_period_end: bool,
    add_ons: dict[str, int],
    status_until: str | None,
    reason: str | None,
    tenant: str,
    data: Path,
    as_json: bool,
) -> None:
    """Put a subject on a plan; the next request sees it.

    The anchor and the add-ons that it has stay, unless they are named here. What was scheduled is given up.

    \b
    Examples:
      quotagate subject subscribe u_1 pro --reason "paid by invoice"
      quotagate subject subscribe u_1 free --at-period-end
      quotagate subject subscribe u_1 pro --add-on extra_100=2 --add-on extra_10=0
      quotagate subject subscribe u_1 pro --status past_due --status-until 2030-01-01T00:00:00Z
    """
    from quotagate.subject_running import run_subject_subscribe

    fields: dict[str, str | None] = {
        "plan": plan,
        "status": status,
        "effective": "period_end" if at_period_end else "now",
    }
    if anchor is not None:
        fields["anchor"] = anchor
    if status_until is not None:
        fields["status_until"] = None if status_until == "none" else status_until
    run_subject_subscribe(os.environ, data, tenant, subject, fields, add_ons=add_ons, reason=reason, as_json=as_json)
