"""The commands that look and change nothing: `doctor`, `top`, `incidents`."""

import os
import sys
from pathlib import Path

import click

from quotagate.plain_commands import EXIT_FOUND, data_option, json_option, lines_option, plainly


@click.command()
@data_option
@click.option(
    "--incidents-h",
    type=click.IntRange(0, 8_760),
    default=24,
    show_default=True,
    help="Tell of the incidents of so many hours; 0 = of none.",
)
@json_option
@plainly
def doctor(data: Path, incidents_h: int, as_json: bool) -> None:
    """Say what is unsafe or broken here, and how to mend it.

    Exit status: 0 nothing is, 1 something is, 2 it could not be looked at.

    \b
    Examples:
      quotagate doctor
      quotagate doctor --incidents-h 0 --json
    """
    from quotagate.doctor import run_doctor

    sys.exit(EXIT_FOUND if run_doctor(os.environ, data, incidents_h=incidents_h, as_json=as_json) else 0)


@click.command()
@click.option("--every", "every_s", type=click.FloatRange(1, 3_600), default=2, show_default=True, help="Seconds.")
@click.option("--rows", type=click.IntRange(1, 50), default=10, show_default=True, help="So many of the busiest.")
@click.option("--once", "is_once", is_flag=True, help="Look once, and end.")
@data_option
@lines_option
@plainly
def top(every_s: float, rows: int, is_once: bool, data: Path, as_json: bool) -> None:
    """Watch the busiest subjects, denials and the drain.

    It is counted from the newest entries of each shard in the ledger, 6,400 in all at the most; above that the rates
    are those of a sample. Checks that charge nothing leave no entry and are not seen. A look costs one statement of
    Postgres, and of Redis two cheap commands a shard and one a row, however many accounts there are.

    `q` or Ctrl-C ends it. Exit status: 0 it was seen, 2 with --once neither store could be reached.

    \b
    Examples:
      quotagate top
      quotagate top --every 10 --json | jq .ledger.denials_per_s
      quotagate top --once
    """
    from quotagate.top import run_top

    run_top(os.environ, data, every_s=every_s, most=rows, is_once=is_once, as_json=as_json)


@click.command()
@data_option
@click.option("--hours", type=click.IntRange(1, 87_600), default=24, show_default=True, help="How far back.")
@click.option("--kind", help="Only of this kind: lost, rewound, lost_entries, gap, fork, seal, clock …")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="The newest so many.")
@lines_option
@plainly
def incidents(data: Path, hours: int, kind: str | None, limit: int, as_json: bool) -> None:
    """Tell what ought not to have been, and what to do.

    Of a loss: whose it was, how much, from when to when.

    Exit status: 0 there was nothing, 1 there was something, 2 it could not be looked at.

    \b
    Examples:
      quotagate incidents --hours 168
      quotagate incidents --kind lost_entries --json
    """
    from ledger.incidents import WHAT_TO_DO
    from quotagate.incidents import run_incidents

    if kind is not None and kind not in WHAT_TO_DO:
        raise click.BadParameter(f"{kind!r} is none of {', '.join(WHAT_TO_DO)}", param_hint="--kind")

    found = run_incidents(os.environ, data, hours=hours, kind=kind, limit=limit, as_json=as_json)
    sys.exit(EXIT_FOUND if found else 0)
