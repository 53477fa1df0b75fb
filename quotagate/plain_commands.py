"""What all commands share: how they end, and where they look for the stores."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from quota.errors import CatalogInvalid, CountersUnavailable, LedgerUnavailable, QuotagateError, first_line
from quotagate.plain_output import accept_any_character, forget_output

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_DATA = Path(".data")
EXIT_FOUND = 1
"""The command ran, and what it looked for is not as it should be: drift, an unsafe setting."""
EXIT_FAILED = 2
"""The command could not do its work; click uses the same for wrong usage."""

EXIT_INTERRUPTED = 130
"""Ctrl-C, as a shell has it: 128 and the number of SIGINT."""
EXIT_NOBODY_READS = 141
"""Whoever read the output has gone, such as `head`: 128 and the number of SIGPIPE."""


def plainly(command: Callable[P, T]) -> Callable[P, T]:
    """Errors that were foreseen end the command with their sentence, and without a stack trace."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        from redis.exceptions import RedisError

        from quotagate.data_folder import DataInUseError
        from quotagate.embedded import EmbeddedServerError
        from quotagate.supervisor import PartError

        accept_any_character()
        try:
            try:
                return command(*args, **kwargs)
            finally:
                sys.stdout.flush()  # here, where a pipe that nobody reads is still told from what was found
        except BrokenPipeError:
            forget_output()
            sys.exit(EXIT_NOBODY_READS)
        except (QuotagateError, EmbeddedServerError, DataInUseError, PartError) as error:
            is_outage = isinstance(error, LedgerUnavailable | CountersUnavailable)
            for line in _lines_of(error):
                hint = "; `quotagate doctor` says what is wrong" if is_outage else ""
                click.echo(f"quotagate: {line}{hint}", err=True)
            sys.exit(EXIT_FAILED)
        except RedisError as error:
            click.echo(f"quotagate: Redis: {first_line(error)}; `quotagate doctor` says what is wrong", err=True)
            sys.exit(EXIT_FAILED)
        except KeyboardInterrupt:  # click's own status for it is 1, which says that something was found
            click.echo("quotagate: interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)

    return run


def _lines_of(error: Exception) -> list[str]:
    from quotagate.away import with_cause

    if isinstance(error, CatalogInvalid):
        return error.errors
    return (with_cause(error) if isinstance(error, LedgerUnavailable) else str(error)).splitlines()


def counted(number: int, one: str, many: str | None = None) -> str:
    """So many of them, in words: 1 account, 2 accounts."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DATA,
    show_default=True,
    help="Folder of `quotagate up`; its stores are used where QUOTAGATE_*_URL are not set.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
lines_option = click.option("--json", "as_json", is_flag=True, help="Print JSON documents, one a line.")
