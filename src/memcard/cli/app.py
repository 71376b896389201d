"""The root command: knows the names of all commands, imports one only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module

import click

from memcard._version import __version__

# Name to one line of help. The line stands here too, so that ``memcard --help`` imports no command;
# tests/unit/cli/test_app.py holds it against the command's own.
COMMANDS: Mapping[str, str] = {
    "demo": "Take the tour on the built-in starter model.",
    "generate": "Make pictures with any checkpoint.",
    "compare": "Make the same picture in every combination of checkpoints and settings.",
    "tune": "Find the guidance, sampler and steps that suit a checkpoint.",
    "pick": "Rank the checkpoints there are for a purpose, and say why.",
    "inspect": "Say what a file is, on what evidence, and whether it is safe.",
    "picture": "Say how a picture was made, and with which of your files it can be made again.",
    "card": "Show what is said about a checkpoint, and who says it.",
    "convert": "Write a checkpoint in another format, bit for bit.",
    "diff": "Show what differs between two checkpoints, and how far the weights of each block moved.",
    "merge": "Blend checkpoints into one.",
    "lora": "Bake LoRAs into a checkpoint, extract, combine or convert them, look inside.",
    "finetune": "Teach BASE the pictures of a folder: the whole network, or a LoRA.",
    "runs": "List trainings with their progress and saves; resume, promote, prune or verify one.",
    "delta": "Store a fine-tune as what it changes in its base, and get it back bit for bit.",
    "ema": "Make an average of snapshots of any length after the training.",
    "license": "Say what may be done with checkpoints, and by whose license.",
    "discover": "Find out what a checkpoint was made from: a cast, a merge, a LoRA bake of the CANDIDATES.",
    "bake": "Compute a recipe and write the checkpoint.",
    "add": "Take checkpoints into the library; they stay where they are unless you say so.",
    "scan": "Look through folders of models: what is there, what the library knows, and what is new.",
    "ls": "List the checkpoints of the library.",
    "show": "Show what the library knows of a checkpoint: what it is, its digests, where it lies.",
    "tree": "Draw what a checkpoint was made of, and what was made of it.",
    "pack": "Store checkpoints of the library in little space, bit for bit: REF, or all of them.",
    "export": "Write a stored checkpoint as the very file it was when it was added.",
    "rm": "Take names out of the library; `memcard undo` puts them back.",
    "undo": "Put back what `memcard rm` or `memcard gc` put away last, or the entry of this name.",
    "verify": "Read what the library remembers, and tell whether it still is what it was.",
    "repair": "Mend what the library keeps, from other copies of the same values.",
    "gc": "Put away what no name leads to, and empty the trash of what has been there for long.",
    "doctor": "Look the library over: its folder, disk, locks, names, records and packs; say what to do.",
    "completion": "Print the shell completion script for bash, zsh or fish.",
}


# What ``memcard --help`` shows together.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Begin": ("demo", "generate", "compare", "tune", "pick"),
    "Look at a file": ("inspect", "picture", "card", "license", "discover", "diff"),
    "Make and change": ("finetune", "runs", "convert", "merge", "lora", "delta", "ema", "bake"),
    "The library": ("add", "scan", "ls", "show", "tree", "export", "rm", "undo"),
    "Its space and health": ("pack", "verify", "repair", "gc", "doctor"),
    "Else": ("completion",),
}


class LazyGroup(click.Group):
    """A click group whose commands are modules of ``memcard.cli``, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they are shown, not of the alphabet."""
        return [name for names in SECTIONS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"memcard.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Add the nearest name to the error for an unknown command."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], COMMANDS, n=1) if args else []
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, by section."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name]) for name in names])


EPILOG = """\b
Exit codes: 0 done · 1 differs or nothing found · 2 usage · 3 unsafe · 4 corrupt · 5 unsupported
6 not found · 7 mismatch · 8 integrity · 9 locked · 10 disk · 130 interrupted"""


@click.command(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="memcard")
def app() -> None:
    """Make, keep, change, share and run checkpoints: the save files of AI models.

    Start with: memcard demo
    """
