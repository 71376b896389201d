"""The one rule for a file that a job is about to write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from memcard.errors import NotFoundError, UsageError
from memcard.jobs.resolve import files_behind
from memcard.recipes.nodes import Node, sources


def refuse_output(out: Path, node: Node, *, overwrite: bool) -> None:
    """Do nothing if ``out`` may be written from the sources of ``node``.

    Raises:
        NotFoundError: its folder is not there.
        UsageError: it is an input itself, or is there and ``overwrite`` is not set.
    """
    if not out.parent.is_dir():
        raise NotFoundError(f"{out.parent}: no such folder. Make it first.")
    if not out.exists():
        return
    if _is_one_of(out, (path for source in sources(node) for path in files_behind(source))):
        raise UsageError(f"{out}: is an input of this very job. Choose another name.")
    if not overwrite:
        raise UsageError(
            f"{out}: is there already. Choose another name, or replace it with --force."
        )


def _is_one_of(out: Path, inputs: Iterable[Path]) -> bool:
    return any(out.samefile(path) for path in inputs)
