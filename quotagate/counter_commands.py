"""The commands that hold counters and ledger together: `reconcile`, `rebuild`."""

import os
import sys
from pathlib import Path

import click

from quotagate.plain_commands import EXIT_FOUND, data_option, json_option, plainly


@click.command()
@data_option
@click.option("--no-correct", "corrections", flag_value="none", help="Tell what differs and change nothing.")
@click.option("--correct-all", "corrections", flag_value="all", help="Correct everything, however much it is.")
@click.option("--history", type=click.IntRange(1, 1000), help="Compare nothing, and print the last runs, so many.")
@json_option
@plainly
def reconcile(data: Path, corrections: str | None, history: int | None, as_json: bool) -> None:
    """Compare every counter with the ledger, and correct it.

    Corrects nothing when more than QUOTAGATE_MAX_CORRECTIONS accounts or QUOTAGATE_MAX_DRIFT_PCT percent of them drift,
    or half of a shard in one direction: then something else is wrong.

    Exit status: 0 nothing differs, 1 something differed (corrected or not), 2 it could not be done.

    \b
    Examples:
      quotagate reconcile --no-correct
      quotagate reconcile --history 10
    """
    from quotagate.operator import run_history, run_reconcile

    if history is not None:
        run_history(os.environ, data, history, as_json=as_json)
        return
    found = run_reconcile(os.environ, data, corrections=corrections or "guarded", as_json=as_json)
    sys.exit(EXIT_FOUND if found else 0)


@click.command()
@data_option
@click.option("--tenant", help="Only this tenant's accounts.")
@click.option("--subject", help="Only this subject's; needs --tenant.")
@click.option("--shard", type=click.IntRange(0), help="Only those of this shard.")
@json_option
@plainly
def rebuild(data: Path, tenant: str | None, subject: str | None, shard: int | None, as_json: bool) -> None:
    """Bring back from the ledger what Redis has lost.

    Exit status: 0 all accounts are in, 1 some could not be brought in, 2 it could not be done.

    \b
    Examples:
      quotagate rebuild
      quotagate rebuild --tenant default --subject u_1
    """
    from quotagate.rebuilding import run_rebuild

    sys.exit(0 if run_rebuild(os.environ, data, tenant, subject, shard, as_json=as_json) else EXIT_FOUND)
