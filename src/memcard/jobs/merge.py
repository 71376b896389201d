"""Blend checkpoints into one file."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from memcard.core.progress import Listener, silent
from memcard.errors import NotFoundError, UsageError
from memcard.jobs._making import Made, make
from memcard.jobs.resolve import node_for
from memcard.ops import OPS
from memcard.recipes.nodes import Apply, Params
from memcard.recipes.op import Op, check_arity, complete

_FEWEST = 2  # the operation itself is content with one; as a merge that is a slip of the hand


def merge(
    method: str,
    inputs: Sequence[str | Path],
    *,
    base: str | Path | None = None,
    out: str | Path,
    weights: Sequence[float] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    digests: bool = True,
    threads: int | None = None,
    progress: Listener = silent,
    **params: Any,
) -> Made:
    """Merge checkpoints and write the result with its recipe.

    Memory does not grow with the files. The same inputs and parameters give the same bytes.

    Args:
        method: one of ``methods()``.
        inputs: paths or names, in the order of the weights.
        base: for methods that work on changes from a base.
        out: file to write; the suffix names the format.
        weights: one per input; None for equal shares.
        overwrite: replace a file that is there.
        dry_run: return the plan and write nothing.
        digests: record the SHA-256 of the inputs in the recipe; reads each of them once more.
        threads: None for as many as there are processors, at most 4.
        progress: hears how far it is.
        params: parameters of the method.

    Raises:
        MismatchError: the inputs do not fit together; lists every tensor that does not.
        NotFoundError: no such file or method.
        UsageError: a parameter is out of its range, or ``out`` is there already.
    """
    op = _method(method)
    if base is not None:
        raise UsageError(f"{method}: takes no base; leave it out.")
    if weights is not None:
        params["weights"] = tuple(float(w) for w in weights)
    checked = complete(method, op, Params(params))
    check_arity(method, op, len(inputs))
    if len(inputs) < _FEWEST:
        raise UsageError(f"{method}: a merge takes at least two checkpoints; {len(inputs)} given.")
    # A dry run reads headers only, so it hashes nothing.
    nodes = [node_for(ref, digests=digests and not dry_run, progress=progress) for ref in inputs]
    node = Apply(method, tuple(nodes), checked)
    return make(node, out, overwrite=overwrite, dry_run=dry_run, threads=threads, progress=progress)


def methods() -> dict[str, Op]:
    """List the merge methods by name: the operations that take one weight per input."""
    return {name: op for name, op in OPS.items() if "weights" in op.params}


def _method(name: str) -> Op:
    found = methods()
    if name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise NotFoundError(f"{name}: not a merge method.{hint} There are: {', '.join(found)}.")
    return found[name]
