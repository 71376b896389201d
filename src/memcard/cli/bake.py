"""memcard bake: a recipe becomes a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard bake merge.json --out merged.safetensors",
        "memcard bake merged.safetensors --out again.safetensors",
    )
)
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@_show.json_option
def command(recipe: str, out: Path, overwrite: bool, dry_run: bool, as_json: bool) -> int:
    """Compute a recipe and write the checkpoint.

    RECIPE is a JSON file, or a checkpoint that memcard made: its recipe is inside. The same recipe and the
    same inputs give the same bytes.
    """
    from memcard.jobs.bake import bake

    with _show.progress() as progress:
        result = bake(recipe, out, overwrite=overwrite, dry_run=dry_run, progress=progress)
    _show.print_made(result, as_json=as_json)
    return 0
