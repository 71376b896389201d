"""Compute a recipe and write the checkpoint."""

from __future__ import annotations

from pathlib import Path

from memcard.core.progress import Listener, silent
from memcard.errors import CorruptError, NotFoundError
from memcard.formats import open_file
from memcard.jobs._making import Made, make
from memcard.jobs.resolve import locate
from memcard.recipes.nodes import Apply, Node, Source
from memcard.recipes.text import from_json

_MOST = 16 << 20  # bytes of a recipe; a thousand inputs take 0.2 MB


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
        recipe: a recipe, its JSON text, a file with that text, or a checkpoint that memcard made:
            it carries its recipe.
        out: file to write; the suffix names the format.
        overwrite: replace a file that is there.
        dry_run: return the plan and write nothing.
        threads: None for as many as there are processors, at most 4.
        progress: hears how far it is.

    Raises:
        CorruptError: not a recipe.
        IntegrityError: a source is not the file the recipe was made with.
        NotFoundError: a source is neither beside the recipe nor in this folder.
    """
    if isinstance(recipe, (Source, Apply)):
        node, folder = recipe, Path()
    else:
        text, folder = _read(recipe)
        node = _placed(from_json(text), folder)
    return make(
        *(node, out),
        overwrite=overwrite,
        dry_run=dry_run,
        check=not dry_run,
        threads=threads,
        progress=progress,
    )


def _read(recipe: str | Path) -> tuple[str, Path]:
    """Return the text of a recipe and the folder its sources are looked for in first."""
    if isinstance(recipe, str) and recipe.lstrip().startswith("{"):
        return recipe, Path()
    path = Path(recipe).expanduser()
    if not path.is_file():
        raise NotFoundError(f"{path}: no such recipe.")
    with path.open("rb") as file:
        head = file.read(_MOST + 1)
    if head.lstrip()[:1] == b"{" and len(head) <= _MOST:
        try:
            return head.decode(), path.parent
        except UnicodeDecodeError:
            raise CorruptError(f"{path}: not UTF-8, so not a recipe.") from None
    checkpoint = open_file(path)
    text = checkpoint.metadata.get("memcard.recipe")
    checkpoint.close()
    if text is None:
        raise NotFoundError(f"{path}: carries no recipe (no memcard.recipe in its metadata).")
    return text, path.parent


def _placed(node: Node, folder: Path) -> Node:
    """Give every source the path where it is: beside the recipe, else as it stands."""
    if isinstance(node, Apply):
        return Apply(node.op, tuple(_placed(child, folder) for child in node.inputs), node.params)
    beside = folder / node.ref
    return Source(str(beside if beside.is_file() else locate(node.ref)), node.sha256)
