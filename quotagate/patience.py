"""A line on a person's terminal while something takes longer than a moment. Scripts see nothing of it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

A_MOMENT_S = 1.0


@contextmanager
def saying_what_takes_long(words: str) -> Iterator[None]:
    """Shows `words` on standard error, if that is a terminal, from the second second on, and takes them away."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    status = console.status(words)
    timer = threading.Timer(A_MOMENT_S, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # it may be starting just now
        status.stop()
