"""`quotagate subject override | set | correct | gift`: what the person on call puts right by hand."""

import os
import sys
from pathlib import Path

import click

from quota.keys import AccountName
from quotagate.plain_commands import EXIT_FOUND, data_option, json_option, plainly
from quotagate.subject_commands import reason_option, tenant_option

UNLIMITED = "unlimited"


def _limit(_context: click.Context, _argument: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == UNLIMITED:
        return value
    if not value.isascii() or not value.isdigit():
        raise click.BadParameter(f"{value!r} is no limit: write a number such as 500, or {UNLIMITED}")
    return int(value)


def _no_option(context: click.Context, _argument: click.Parameter, value: str) -> str:
    """Numbers below zero look like options, so that all that are unknown come here as arguments."""
    if value.startswith("-"):
        raise click.NoSuchOption(value, ctx=context)
    return value


@click.command("override")
@click.argument("subject", metavar="SUBJECT")
@click.argument("metric")
@click.argument("limit", required=False, callback=_limit, metavar="[LIMIT|unlimited]")
@click.option("--remove", is_flag=True, help="Take it away: the limit of the plan holds again.")
@reason_option
@click.option("--expires-at", metavar="INSTANT", help="When it ends, such as 2030-01-01T00:00:00Z.  [default: never]")
@tenant_option
@data_option
@json_option
@plainly
def override_limit(
    *,
    subject: str,
    metric: str,
    limit: int | str | None,
    remove: bool,
    reason: str,
    expires_at: str | None,
    tenant: str,
    data: Path,
    as_json: bool,
) -> None:
    """Put a limit in place of the plan's; the next request sees it.

    \b
    Examples:
      quotagate subject override u_1 credits 500 --reason "ticket 4711"
      quotagate subject override u_1 credits unlimited --reason launch --expires-at 2030-01-01T00:00:00Z
      quotagate subject override u_1 credits --remove --reason "launch is over"
    """
    from quotagate.subject_amending import run_subject_override, run_subject_override_removed

    account = AccountName(tenant, subject, metric)
    if remove:
        if limit is not None or expires_at is not None:
            raise click.UsageError("--remove goes with no limit and no --expires-at")
        run_subject_override_removed(os.environ, data, account, reason, as_json=as_json)
        return
    if limit is None:
        raise click.UsageError(f"name a limit, {UNLIMITED}, or --remove")
    fields = {
        "limit": None if limit == UNLIMITED else limit,
        "reason": reason,
        "expires_at": None if expires_at == "never" else expires_at,
    }
    run_subject_override(os.environ, data, account, fields, as_json=as_json)


@click.command("set")
@click.argument("subject", metavar="SUBJECT")
@click.argument("metric")
@click.argument("used", type=click.IntRange(0))
@reason_option
@tenant_option
@data_option
@json_option
@plainly
def set_level(*, subject: str, metric: str, used: int, reason: str, tenant: str, data: Path, as_json: bool) -> None:
    """Say what a level is, whatever it was counted to be.

    A level is what is held and given back. What is counted by period is moved with `subject correct`.

    \b
    Examples:
      quotagate subject set u_1 seats 3 --reason "counted by hand"
    """
    from quotagate.subject_amending import run_subject_set

    fields = {"used": used, "reason": reason}
    run_subject_set(os.environ, data, AccountName(tenant, subject, metric), fields, as_json=as_json)


@click.command("correct", context_settings={"ignore_unknown_options": True})
@click.argument("subject", metavar="SUBJECT", callback=_no_option)
@click.argument("metric", callback=_no_option)
@click.argument("change", type=int)
@reason_option
@tenant_option
@data_option
@json_option
@plainly
def correct_counter(
    *, subject: str, metric: str, change: int, reason: str, tenant: str, data: Path, as_json: bool
) -> None:
    """Move a counter up or down, even above the limit.

    \b
    Examples:
      quotagate subject correct u_1 credits -5 --reason "charged twice, ticket 4711"
      quotagate subject correct u_1 credits 20 --reason "a job that was not metered"
    """
    from quotagate.subject_amending import run_subject_correct

    fields = {"change": change, "reason": reason}
    run_subject_correct(os.environ, data, AccountName(tenant, subject, metric), fields, as_json=as_json)


@click.command("gift")
@click.argument("giver", metavar="FROM")
@click.argument("receiver", metavar="TO")
@click.argument("metric")
@click.argument("amount", type=click.IntRange(1))
@click.option("--reason", help="Why, for the audit log.")
@tenant_option
@data_option
@json_option
@plainly
def gift_units(
    *,
    giver: str,
    receiver: str,
    metric: str,
    amount: int,
    reason: str | None,
    tenant: str,
    data: Path,
    as_json: bool,
) -> None:
    """Give one subject's unused units of grants to another.

    It waits until they are given, 30 s at the most; the ledger has to be written for it.

    Exit status: 0 they are given, 1 they will be given or refused later, 2 nothing is given.

    \b
    Examples:
      quotagate subject gift u_1 u_2 credits 20 --reason "moved to another team"
    """
    from quotagate.subject_amending import run_subject_gift

    fields = {"from": giver, "to": receiver, "metric": metric, "amount": amount, "reason": reason}
    sys.exit(0 if run_subject_gift(os.environ, data, tenant, fields, as_json=as_json) else EXIT_FOUND)
