"""`quotagate ledger …`: what people on call ask the ledger. Each is a job that can be stopped and gone on with."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from quotagate.plain_commands import EXIT_FOUND, counted, data_option, lines_option, plainly

tenant_option = click.option("--tenant", help="Only this tenant's accounts.")
subject_option = click.option("--subject", help="Only this subject's; needs --tenant.")
resume_option = click.option("--resume", metavar="ID", help="Go on with this job; what it was asked for holds.")
archive_option = click.option(
    "--archive",
    "archived",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Read the months that were archived to this folder as well.",
)
instant_help = "An instant such as 2026-11-01T00:00:00Z."


@click.group()
def ledger() -> None:
    """Verify, replay, export and archive it; simulate plans.

    Ctrl-C stops at the end of a step, and says how to go on. Exit status: 0 nothing was found, 1 something was, 2 it
    could not be done, 130 it was stopped.
    """


def _asked(tenant: str | None, subject: str | None) -> dict[str, object]:
    if subject is not None and tenant is None:
        raise click.UsageError("--subject needs --tenant: two tenants may have a subject of one name")
    return {name: value for name, value in (("tenant", tenant), ("subject", subject)) if value is not None}


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def _stretch(since: str | None, till: str | None) -> dict[str, object]:
    from quota.periods import from_rfc3339

    to_ms = _now_ms() if till is None else from_rfc3339(till)
    return {"from_ms": 0 if since is None else from_rfc3339(since), "to_ms": to_ms}


@ledger.command()
@tenant_option
@subject_option
@click.option(
    "--heads",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What `verify --json` printed earlier: the chains must still have these heads.",
)
@resume_option
@archive_option
@data_option
@lines_option
@plainly
def verify(
    *,
    tenant: str | None,
    subject: str | None,
    heads: Path | None,
    resume: str | None,
    archived: Path | None,
    data: Path,
    as_json: bool,
) -> None:
    """Add up every balance from entries, and compare; go through the chains of all shards. Exit 1 if anything differs.

    A line that an incident tells of, and after which the account was put right, is listed and counted apart. The chains
    show whether an entry was changed, deleted or inserted; they are gone through when no tenant is named. Keep what
    --json prints, for --heads, where the ledger's owner cannot write.
    """
    from quotagate.ledger_printing import chain_line, difference_line
    from quotagate.ledger_running import kept_heads, run_job

    asked = _asked(tenant, subject)
    if heads is not None and tenant is not None:
        raise click.UsageError("--heads is for the chains, which belong to no tenant")
    asked |= {} if heads is None else {"heads": kept_heads(heads)}
    done = run_job(os.environ, data, "verify", asked, resume=resume, is_quiet=as_json, archived=archived)
    result = done.result
    if as_json:
        done.print_summary()
    else:
        for each in result["differences"]:
            click.echo(difference_line(each))
        left_out = result["differing"] + result["told"] - len(result["differences"])
        if left_out:
            click.echo(f"… and {left_out:,} more")
        told = (
            f", and {counted(result['told'], 'line that was', 'lines that were')} told of and put right"
            if result["told"]
            else ""
        )
        click.echo(
            f"{counted(result['entries'], 'entry', 'entries')} and {counted(result['balances'], 'balance')} of "
            f"{counted(result['accounts'], 'account')} verified: {counted(result['differing'], 'difference')}{told}"
        )
        if "chain" in result:
            click.echo(chain_line(result["chain"], result["carried"]))
    sys.exit(EXIT_FOUND if result["differing"] else 0)


@ledger.command()
@tenant_option
@subject_option
@click.option("--at", help=f"{instant_help}  [default: now]")
@resume_option
@archive_option
@data_option
@lines_option
@plainly
def replay(
    *,
    tenant: str | None,
    subject: str | None,
    at: str | None,
    resume: str | None,
    archived: Path | None,
    data: Path,
    as_json: bool,
) -> None:
    """Print every balance as it was at an instant, added up from entries alone."""
    from quota.periods import from_rfc3339
    from quotagate.ledger_printing import balance_line, print_lines
    from quotagate.ledger_running import run_job

    asked = _asked(tenant, subject) | {"at_ms": _now_ms() if at is None else from_rfc3339(at)}
    done = run_job(
        os.environ,
        data,
        "replay",
        asked,
        resume=resume,
        is_quiet=as_json,
        archived=archived,
        show=print_lines(balance_line, as_json),
    )
    if as_json:
        done.print_summary("listed")
        return
    result = done.result
    click.echo(
        f"{counted(result['balances'], 'balance')} of {counted(result['accounts'], 'account')} from "
        f"{counted(result['entries'], 'entry', 'entries')} up to {result['at']}: {counted(result['used'], 'unit')} used"
    )


@ledger.command()
@click.option("--tenant", default="default", show_default=True, help="Whose it is.")
@click.option("--subject", required=True, help="Whose accounts.")
@click.option("--metric", help="Only of this metric.")
@click.option("--at", help=f"{instant_help}  [default: now]")
@archive_option
@data_option
@lines_option
@plainly
def balance(
    *, tenant: str, subject: str, metric: str | None, at: str | None, archived: Path | None, data: Path, as_json: bool
) -> None:
    """Print how a subject's accounts stood at an instant; exit 1 if it had none."""
    from quota.periods import from_rfc3339
    from quotagate.ledger_printing import balance_line, print_lines
    from quotagate.ledger_running import balances_at

    at_ms = _now_ms() if at is None else from_rfc3339(at)
    found = balances_at(os.environ, data, tenant=tenant, subject=subject, metric=metric, at_ms=at_ms, archived=archived)
    print_lines(balance_line, as_json)(found)
    if not found and not as_json:
        click.echo(f"{subject} had used nothing in any period that ran then.")
    sys.exit(0 if found else EXIT_FOUND)


@ledger.command()
@tenant_option
@subject_option
@click.option("--metric", help="Only of this metric.")
@click.option("--from", "since", help=f"{instant_help}  [default: the first entry's]")
@click.option("--to", "till", help="The first instant that is left out.  [default: now]")
@click.option("--format", "form", type=click.Choice(["ndjson", "csv"]), default="ndjson", help="ndjson if left out.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="A file.  [default: standard output]")
@resume_option
@archive_option
@data_option
@plainly
def export(
    *,
    tenant: str | None,
    subject: str | None,
    metric: str | None,
    since: str | None,
    till: str | None,
    form: str,
    output: Path | None,
    resume: str | None,
    archived: Path | None,
    data: Path,
) -> None:
    """Write entries, account by account. With --resume, and the same --output, it goes on where it was."""
    from quotagate.ledger_export import Output
    from quotagate.ledger_running import run_job

    asked = _asked(tenant, subject) | _stretch(since, till) | {"form": form}
    asked |= {} if metric is None else {"metric": metric}
    with Output(output) as written:
        done = run_job(
            os.environ, data, "export", asked, resume=resume, is_quiet=False, archived=archived, output=written
        )
    click.echo(counted(done.result["entries"], "entry", "entries"), err=True)


@ledger.command()
@click.option("--catalog", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="TOML or JSON.")
@click.option("--from", "since", help=instant_help)
@click.option("--to", "till", help="The first instant that is left out.  [default: now]")
@click.option("--tenant", default="default", show_default=True, help="Whose it is.")
@resume_option
@archive_option
@data_option
@lines_option
@plainly
def simulate(
    *,
    catalog: Path | None,
    since: str | None,
    till: str | None,
    tenant: str,
    resume: str | None,
    archived: Path | None,
    data: Path,
    as_json: bool,
) -> None:
    """Run a stretch of history against another catalog: who would have been denied, when, and by which limit.

    Exit status 1 if somebody would have been denied what was allowed then.
    """
    from quota.catalog import to_document
    from quotagate.catalog_file import read_catalog
    from quotagate.ledger_printing import print_lines, simulated_line
    from quotagate.ledger_running import run_job

    asked: dict[str, object] = {}
    if resume is None:
        if catalog is None or since is None:
            raise click.UsageError("--catalog and --from say what is to be simulated")
        asked = {"tenant": tenant, "catalog": to_document(read_catalog(catalog)), **_stretch(since, till)}
    show = print_lines(simulated_line, as_json)
    done = run_job(os.environ, data, "simulate", asked, resume=resume, is_quiet=as_json, archived=archived, show=show)
    result = done.result
    if as_json:
        done.print_summary("listed")
    else:
        click.echo(
            f"{counted(result['subjects'], 'subject')}, {counted(result['entries'], 'entry', 'entries')}: "
            f"{counted(result['subjects_denied'], 'subject')} would have been denied "
            f"{counted(result['denied'], 'time')}; {result['denied_no_more']:,} of "
            f"{counted(result['denied_before'], 'denial')} would have been none"
        )
    sys.exit(EXIT_FOUND if result["denied"] else 0)


@ledger.command()
@click.option("--before", required=True, metavar="MONTH", help="The first month that stays, such as 2026-05.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the files.")
@click.option("--drop", is_flag=True, help="Drop the tables; else they are detached, and kept as archived_YYYY_MM.")
@data_option
@lines_option
@plainly
def archive(*, before: str, out: Path, drop: bool, data: Path, as_json: bool) -> None:
    """Write old months to files, compare these with the ledger, and only then take the months out of it.

    An act of the ledger's owner: QUOTAGATE_OWNER_DATABASE_URL names the login that migrates. What a month adds up to
    stays. Killed anywhere, it goes on where it was when it is run again.
    """
    from quotagate.ledger_archiving import run_archive

    done = run_archive(os.environ, data, before=before, out=out, drop=drop, is_quiet=as_json)
    if as_json:
        click.echo(json.dumps(done))
        return
    for each in done["archived"]:
        archived = counted(each["entries"], "entry", "entries")
        click.echo(f"{each['month']}: {archived} archived to {out}, sha256 {each['sha256']}")
    for month in done["dropped"]:
        click.echo(f"{month}: its table was dropped")
    if not done["archived"] and not done["dropped"]:
        click.echo(f"The ledger has no month before {before} that is not archived.")
