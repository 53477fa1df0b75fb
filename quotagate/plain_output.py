"""Where commands print to: a log in ASCII or a pipe whose reader has gone is no reason for a stack trace."""

import codecs
import os
import sys
from contextlib import suppress

IN_ASCII = {"✓": "ok:", "✗": "x", "·": "-", "→": "->", "…": "...", "—": "-", "█": "#", "▒": "=", "░": "."}
"""What stands for our own signs where the encoding has none of them."""
HANDLER = "quotagate-ascii"


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Callers' own words are escaped and not cut: an export must not lose a letter without a sign."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    words = (IN_ASCII.get(each) or each.encode("ascii", "backslashreplace").decode() for each in characters)
    return "".join(words), error.end


def accept_any_character() -> None:
    """Lets both outputs take what their encoding cannot say."""
    codecs.register_error(HANDLER, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # what stands in for them in a test may have none
        if reconfigure is not None:
            # One whose descriptor was replaced since it was opened may refuse; it stays as it is.
            with suppress(OSError):
                reconfigure(errors=HANDLER)


def forget_output() -> None:
    """After a broken pipe: the interpreter flushes once more at its end, and would tell of the pipe again."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
