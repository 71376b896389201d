"""memcard card: what is said about a checkpoint, by whom; and what its user says."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.core.card import Card

_STYLES = ("a1111", "modelspec-sidecar")
_LEAST = 40  # columns for values on a narrow terminal
_WIDE = 120


class _Change(click.ParamType[tuple[str, str]]):
    """``FIELD=VALUE``; the first equals sign counts."""

    name = "FIELD=VALUE"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """Split at the first equals sign."""
        if isinstance(value, tuple):
            return value
        field, sign, text = value.partition("=")
        if not sign or not field.strip():
            self.fail(f"{value!r} is not FIELD=VALUE; write it like cfg=5.", param, ctx)
        return field, text


@click.command(
    epilog=_show.examples(
        "memcard card my-lora.safetensors",
        "memcard card my-tune.safetensors --set cfg=5 --set 'tags=portrait, film'",
        "memcard card my-tune.safetensors --set license=",
        "memcard card my-lora.safetensors --write a1111",
        "memcard card sdxl-base --set 'tags=base, realistic'",
        "memcard card my-lora.safetensors --json | jq .origin",
    )
)
@click.argument("path")
@click.option(
    "--set",
    "changes",
    type=_Change(),
    multiple=True,
    help="Say so yourself: in NAME.memcard.json, or in the library.",
)
@click.option(
    "--write", "style", type=click.Choice(_STYLES), help="Write a sidecar that other tools read."
)
@click.option(
    "--force", "--overwrite", "overwrite", is_flag=True, help="Let --write change a sidecar."
)
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@_show.json_option
def command(
    path: str,
    changes: tuple[tuple[str, str], ...],
    style: str | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Show what is said about a checkpoint, and who says it.

    Reads its header and the files beside it: sidecars of A1111, Civitai Helper, Stability Matrix, Lora-Manager
    and SwarmUI, previews, a Hugging Face README. PATH itself is never changed: --set and --write make files
    beside it. PATH may be a name of the library: what you --set is then kept there. Ends with 1 if nothing is known.
    """
    from memcard.jobs import card as job

    if changes and style:
        raise click.UsageError("--set and --write are two commands; give one of them.")
    if not changes and not style:
        found = job.card(path)
        _print(found, as_json=as_json)
        return 0 if any(found.stated()) else 1
    if style:
        made = job.write_sidecar(path, style, overwrite=overwrite, dry_run=dry_run)
    else:
        made = job.set_card(path, changes, dry_run=dry_run)
    if dry_run or as_json:
        _show.print_json(
            {"path": str(made.path), "content": dict(made.content), "written": not dry_run}
        )
    else:
        _print(made.card, as_json=False)
    _show.advise("dry run: nothing was written." if dry_run else f"written: {made.path}")
    return 0


def _print(found: Card, *, as_json: bool) -> None:
    if as_json:
        _show.print_json(found.to_dict())
        return
    room = max(_LEAST, min(_WIDE, shutil.get_terminal_size((_WIDE, 24)).columns - 45))
    rows = [
        [name, _short(value, room), found.origin.get(name, "")] for name, value in found.stated()
    ]
    if rows:
        click.echo(_show.table(rows, header=["field", "value", "says"]))
    else:
        click.echo("Nothing is said about it.")
    for note in found.notes:
        _show.advise(f"note: {note}")


def _short(value: object, room: int) -> str:
    """Return a value on one line; ``--json`` has all of it."""
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= room else text[: room - 1] + "…"
