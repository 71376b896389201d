"""From a recipe to a file: plan, refuse or report, then bake."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, silent
from memcard.formats import format_for_suffix
from memcard.jobs import _cost
from memcard.jobs._lineage import Parent, metadata_of, published
from memcard.jobs._output import refuse_output
from memcard.jobs.resolve import checked_source, label, open_source
from memcard.ops import OPS
from memcard.recipes.bake import pour
from memcard.recipes.execute import RecipeCheckpoint, Resolver, evaluate
from memcard.recipes.nodes import Node, Source
from memcard.recipes.text import recipe_id, to_json


@dataclass(frozen=True, slots=True)
class Made:
    """A checkpoint that was made, or would be.

    Attributes:
        out: the file.
        written: False for a dry run.
        recipe: the recipe's text, without folders of this machine.
        recipe_id: its SHA-256 id; by names where the digests of the inputs were not taken.
        tensors: number of tensors.
        computed: how many of them are computed; the others are copied as they are.
        nbytes: size of all tensors.
        memory: estimate of the peak memory in bytes, the interpreter included.
        nonfinite: number of NaN or infinite values computed.
        notes: what a careful user should know, one sentence each.
        seconds: what writing took. Of a dry run: how long computing will take, estimated by computing
            one tensor here and now; None where one says nothing of the others.
    """

    out: Path
    written: bool
    recipe: str
    recipe_id: str
    tensors: int
    computed: int
    nbytes: int
    memory: int
    nonfinite: int
    notes: tuple[str, ...]
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "out": str(self.out),
            "recipe_id": self.recipe_id,
            "tensors": self.tensors,
            "computed": self.computed,
            "copied": self.tensors - self.computed,
            "bytes": self.nbytes,
            "memory": self.memory,
            "seconds": self.seconds,
            "nonfinite": self.nonfinite,
            "recipe": json.loads(self.recipe),
            "notes": list(self.notes),
        }


def make(
    node: Node,
    out: str | Path,
    *,
    kind: str = "merge",
    overwrite: bool = False,
    dry_run: bool = False,
    check: bool = False,
    threads: int | None = None,
    nonfinite: str = "allow",
    progress: Listener = silent,
) -> Made:
    """Bake ``node`` into the file ``out``, whose suffix names the format.

    Args:
        node: the recipe.
        out: appears whole or not at all.
        kind: for the card.
        overwrite: replace a file that is there.
        dry_run: plan only; write nothing.
        check: compare the sources with the SHA-256 in the recipe.
        threads: None for as many as there are processors, at most 4. Never changes a bit.
        nonfinite: ``refuse`` to write a result with NaN or infinite values; or ``allow``.
        progress: hears how far it is.

    Raises:
        UsageError: the file is there already, or is one of the inputs.
        MismatchError: the inputs do not fit together, or ``nonfinite`` values are refused.
    """
    out, crew = Path(out).expanduser(), threads or min(4, os.cpu_count() or 1)
    form = format_for_suffix(out)
    refuse_output(out, node, overwrite=overwrite)
    resolver: Resolver = (lambda s: checked_source(s, progress)) if check else open_source
    checkpoint = evaluate(node, resolver, OPS)
    try:
        plan = _plan(node, checkpoint, out, crew)
        if dry_run:
            return replace(plan, seconds=_rounded(_cost.seconds(checkpoint, crew)))
        start = time.perf_counter()
        metadata = metadata_of(node, _parents(node), kind=kind)
        baked = pour(
            *(checkpoint, form.create(out)),
            threads=crew,
            metadata=metadata,
            refuse_nonfinite=nonfinite == "refuse",
            progress=progress,
        )
    finally:
        checkpoint.close()
    return Made(
        *(out, True, plan.recipe, plan.recipe_id, plan.tensors, plan.computed, plan.nbytes),
        memory=plan.memory,
        nonfinite=sum(baked.nonfinite.values()),
        notes=baked.notes,
        seconds=_rounded(time.perf_counter() - start),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _plan(node: Node, checkpoint: Checkpoint, out: Path, threads: int) -> Made:
    specs, shared = checkpoint.specs, published(node)
    computed = checkpoint.computed if isinstance(checkpoint, RecipeCheckpoint) else 0
    memory = _cost.memory(checkpoint, threads)
    nbytes = sum(spec.nbytes for spec in specs.values())
    return Made(
        *(out, False, to_json(shared), recipe_id(shared), len(specs), computed, nbytes, memory),
        nonfinite=0,
        notes=tuple(checkpoint.notes),
    )


def _parents(node: Node) -> Sequence[Parent]:
    """List the direct inputs as people see them: a delta on its base is one parent, the delta."""
    if isinstance(node, Source):
        return (_parent(node),)
    return tuple(_parent(_face(child)) for child in node.inputs)


def _face(node: Node) -> Source:
    while not isinstance(node, Source):
        node = node.inputs[1] if node.op == "overlay" else node.inputs[0]
    return node


def _parent(source: Source) -> Parent:
    checkpoint = open_source(source)
    metadata = dict(checkpoint.metadata)
    checkpoint.close()
    return Parent(label(source.ref), source.sha256, metadata)
