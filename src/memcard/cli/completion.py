"""memcard completion: the script a shell needs to complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from memcard.cli._show import examples
from memcard.cli.app import app


@click.command(
    epilog=examples(
        "memcard completion bash >> ~/.bashrc",
        "memcard completion zsh >> ~/.zshrc",
        "memcard completion fish > ~/.config/fish/completions/memcard.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print the shell completion script for bash, zsh or fish."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  # click.Choice let only its own shells through
    click.echo(kind(app, {}, "memcard", "_MEMCARD_COMPLETE").source())
    return 0
