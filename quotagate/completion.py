"""`quotagate completion`: the script with which a shell completes commands and options, as click writes it.

Names of plans and metrics are not completed: they would need the database at every press of the key, which may be away.
"""

import click
from click.shell_completion import get_completion_class

from quotagate.plain_commands import plainly

PROGRAM = "quotagate"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@plainly
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands.

    \b
    To install it:
      bash   quotagate completion bash > ~/.quotagate-completion.bash
             echo 'source ~/.quotagate-completion.bash' >> ~/.bashrc
      zsh    quotagate completion zsh > ~/.quotagate-completion.zsh
             echo 'source ~/.quotagate-completion.zsh' >> ~/.zshrc  (after compinit)
      fish   quotagate completion fish > ~/.config/fish/completions/quotagate.fish
    """
    written_by = get_completion_class(shell)
    assert written_by is not None, f"click completes for {shell}"
    root = context.find_root().command
    click.echo(written_by(root, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
