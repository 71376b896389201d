"""Generate docs/reference from the code; ``--check`` fails when the pages are out of date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from memcard.cli.app import COMMANDS, app
from memcard.core.registry import Registry
from memcard.errors import MemcardError

DOCS = Path(__file__).parent.parent / "docs" / "reference"
SHELVES = {
    "formats": "File formats",
    "codecs": "Codecs of a delta",
    "ops": "Operations of a recipe",
    "generation.engines": "Engines of generation",
    "generation.samplers": "Samplers",
    "generation.scorers": "Scorers of pictures",
    "cards": "Cards",
    "licenses": "Licenses",
}


def cli_page() -> str:
    """Return the help of every command, as printed."""
    parts = ["# Command line\n", "_Generated from the code by `scripts/reference.py`._\n"]
    root = click.Context(app, info_name="memcard", max_content_width=100, terminal_width=100)
    parts += ["```text", app.get_help(root), "```\n"]
    for name in COMMANDS:
        command = app.get_command(root, name)
        if command is not None:
            parts += _help(command, click.Context(command, info_name=name, parent=root))
    return "\n".join(parts)


def _help(command: click.Command, ctx: click.Context) -> list[str]:
    parts = [f"## {ctx.command_path}\n", "```text", command.get_help(ctx), "```\n"]
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            if child is not None:
                parts += _help(child, click.Context(child, info_name=name, parent=ctx))
    return parts


def shelves_page() -> str:
    """Return every plug-in with its title and source."""
    parts = ["# Plug-ins\n", "_Generated from the code by `scripts/reference.py`._\n"]
    for shelf, title in SHELVES.items():
        parts += [f"## {title}\n", "| name | what | source |", "|---|---|---|"]
        registry: Registry[object] = Registry(f"memcard.{shelf}")
        for name in registry:
            plugin = registry[name]
            what, source = getattr(plugin, "title", ""), getattr(plugin, "source", "")
            parts.append(f"| `{name}` | {what} | {source} |")
        parts.append("")
    return "\n".join(parts)


def families_page() -> str:
    """Return what is known about each model family, from the files of the shelf."""
    parts = ["# Model families\n", "_Generated from the code by `scripts/reference.py`._\n"]
    parts += [
        "What `memcard inspect` recognises, by names and shapes alone: whole checkpoints, bare denoisers, under every usual",
        "prefix, in the layout of the authors and in that of diffusers.\n",
        "| name | family | makes | variants | text encoders | VAE | predicts |",
        "|---|---|---|---|---|---|---|",
    ]
    registry: Registry[object] = Registry("memcard.architectures")
    for name in registry:
        family = registry[name]
        variants = "; ".join(variant.name for variant in getattr(family, "variants", ()))
        encoders = ", ".join(getattr(family, "text_encoders", ()))
        cells = [
            f"`{name}`",
            _linked(getattr(family, "title", ""), getattr(family, "source", "")),
            getattr(family, "modality", "image"),
            variants,
            encoders,
            getattr(family, "vae", None) or "",
            getattr(family, "prediction", None) or "",
        ]
        parts.append("| " + " | ".join(cells) + " |")
    return "\n".join([*parts, ""])


def _linked(title: str, source: str) -> str:
    return f"[{title}]({source})" if source.startswith("https://") else title


def errors_page() -> str:
    """Return the exit codes, from the exceptions themselves."""
    parts = ["# Errors and exit codes\n", "_Generated from the code by `scripts/reference.py`._\n"]
    parts += ["| exception | exit code | when |", "|---|---|---|"]
    for error in _tree(MemcardError):
        doc = (error.__doc__ or "").splitlines()[0]
        parts.append(f"| `{error.__name__}` | {error.exit_code} | {doc} |")
    parts += ["", '0 is success, 1 also means "differs" or "nothing found", 130 an interrupt.', ""]
    return "\n".join(parts)


def _tree(error: type[MemcardError]) -> list[type[MemcardError]]:
    return [error, *(e for child in error.__subclasses__() for e in _tree(child))]


def main() -> int:
    """Write the pages, or compare them."""
    pages = {
        "cli.md": cli_page(),
        "plugins.md": shelves_page(),
        "families.md": families_page(),
        "errors.md": errors_page(),
    }
    stale = [
        name
        for name, text in pages.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text("utf-8") != text
    ]
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/reference/{name} is out of date: run python scripts/reference.py")
        return 1 if stale else 0
    DOCS.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (DOCS / name).write_text(pages[name], "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
