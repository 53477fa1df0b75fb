"""The console of rich, for what is printed to be read or piped."""

from rich.console import Console


class PlainConsole(Console):
    """Lines stay as long as they are: one that is wrapped cannot be searched for."""

    def __init__(self) -> None:
        super().__init__(highlight=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """rich would end with status 1, which says that something was found."""
        raise BrokenPipeError
