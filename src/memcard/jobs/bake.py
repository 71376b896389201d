"""Compute a recipe and write the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from memcard.core.progress import Listener, silent
from memcard.jobs._making import Made, make
from memcard.jobs.recipes import read_recipe
from memcard.recipes.nodes import Node


def bake(
    recipe: str | Path | Node,
    out: str | Path,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    threads: int | None = None,
    progress: Listener = silent,
) -> Made:
    """Compute a recipe and write the checkpoint.

    Args:
        recipe: a recipe, its JSON text, or a file: our JSON or YAML, a configuration of mergekit, a
            ``.mecha``, or a checkpoint that carries a recipe of memcard, A1111 or supermerger.
        out: file to write; the suffix names the format.
        overwrite: replace a file that is there.
        dry_run: return the plan and write nothing.
        threads: None for as many as there are processors, at most 4.
        progress: hears how far it is.

    Raises:
        CorruptError: not a recipe.
        IntegrityError: a source is not the file the recipe was made with.
        NotFoundError: a source is neither beside the recipe nor in this folder.
        UnsupportedError: another program's recipe asks for what memcard does not do.
    """
    found = read_recipe(recipe)
    made = make(
        *(found.node, out),
        overwrite=overwrite,
        dry_run=dry_run,
        check=not dry_run,
        threads=threads,
        progress=progress,
    )
    return replace(made, notes=(*found.notes, *made.notes))
