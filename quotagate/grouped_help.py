"""The first page of help: every command in a line, by what it is for, on one screen of 80 by 24.

click knows no groups of commands. rich-click and cloup do; either is a dependency that changes how every page looks,
and this is all that is needed of it.
"""

import click

SECTIONS = {
    "Run": ("up", "gateway", "worker", "scheduler", "migrate"),
    "Look": ("doctor", "top", "incidents", "audit"),
    "Change": ("subject", "catalog", "tenant", "key"),
    "Ledger": ("ledger", "reconcile", "rebuild"),
    "Shell": ("completion",),
}
"""A command that stands in none of them is shown last; a test asks for its place."""
TITLE_WIDTH = max(map(len, SECTIONS)) + 2


class GroupedCommands(click.Group):
    """The command at the top, whose help tells what its commands are for."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands alone: the two options are in the last line, so that the page fits."""
        placed = {name for names in SECTIONS.values() for name in names}
        width = formatter.width - 4 - TITLE_WIDTH - max(map(len, self.commands))
        sections = dict(SECTIONS) | {"Other": tuple(name for name in self.list_commands(context) if name not in placed)}
        rows = []
        for title, names in sections.items():
            shown = [(name, command) for name in names if (command := self.get_command(context, name)) is not None]
            for place, (name, command) in enumerate(shown):
                head = f"{title if place == 0 else '':<{TITLE_WIDTH}}{name}"
                rows.append((head, command.get_short_help_str(limit=width)))
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_dl(rows)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text("`quotagate COMMAND --help` tells more. Options: --version, -h, --help.")
