"""The commands that run the parts: `up`, `gateway`, `worker`, `scheduler`, `migrate`."""

import json
import os
import sys
from pathlib import Path

import click

from quotagate.plain_commands import json_option, plainly


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on; 0 = any free one.  [default: 8080]")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".data"),
    show_default=True,
    help="Folder for everything that is kept.",
)
@click.option(
    "--catalog",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML or JSON to apply where there is no catalog yet.",
)
@plainly
def up(host: str | None, port: int | None, data: Path, catalog: Path | None) -> None:
    """Start everything on this machine; Ctrl-C stops it.

    \b
    Examples:
      quotagate up --catalog examples/credits.toml
      quotagate up --port 0 --data /tmp/try
    """
    from quotagate.up import Up

    sys.exit(Up(os.environ, host=host, port=port, data=data, catalog=catalog).run())


@click.command()
@click.option("--fd", type=int, hidden=True, help="A listening socket that the parent has opened.")
@click.option("--tell-fd", type=int, hidden=True, help="A pipe to which a byte is written when it serves.")
@plainly
def gateway(fd: int | None, tell_fd: int | None) -> None:
    """Serve HTTP; takes over from one at the same address.

    Without a gap: see docs/upgrade.md.
    """
    from quotagate.parts import run_gateway

    sys.exit(run_gateway(os.environ, fd, tell_fd))


@click.command()
@click.option("--role", type=click.Choice(["drain", "jobs"]), help="Serve one role only.  [default: both]")
@plainly
def worker(role: str | None) -> None:
    """Move the journal into the ledger, and run all jobs."""
    from quotagate.parts import run_worker

    sys.exit(run_worker(os.environ, role))


@click.command()
@plainly
def scheduler() -> None:
    """Start jobs when they are due."""
    from quotagate.parts import run_scheduler

    sys.exit(run_scheduler(os.environ))


@click.command()
@json_option
@plainly
def migrate(as_json: bool) -> None:
    """Make or update the database; make the gateway's login.

    QUOTAGATE_OWNER_DATABASE_URL names its owner. What is there already stays.
    """
    from quotagate.parts import run_migrate

    run_migrate(os.environ)
    click.echo(json.dumps({"migrated": True}) if as_json else "The database is at this version's schema.")
