"""What making a checkpoint from a recipe costs, told beforehand: memory by counting, time by trying.

Memory is what the interpreter takes, the compiled loops if they will be loaded, and for each thread what
it reads, writes and computes with at once. Time is that of one tensor on this machine, times their size.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from memcard.core.checkpoint import Checkpoint
from memcard.recipes.execute import CHUNK, RecipeCheckpoint
from memcard.recipes.nodes import Step
from memcard.recipes.op import Surveying

# Measured, VmHWM of CPython 3.11 on Linux: with numpy and memcard; what llvmlite adds once it has made
# the loops of a merge. Most of that are pages of its library, which Linux lets go (core/give_back).
_INTERPRETER = 40 << 20
_LOOPS = (20 if sys.platform == "linux" else 80) << 20
_BLOCKS = 8  # arrays of one block of float64 that a method works in, beside one per input
_TRIED = 16 << 20  # bytes of the largest tensor tried


def memory(checkpoint: Checkpoint, threads: int) -> int:
    """Estimate the peak memory in bytes of writing ``checkpoint``, the interpreter included.

    Files that are compressed inside are not counted: what they take depends on their compression.
    """
    total = _INTERPRETER + threads * _per_thread(checkpoint)
    if any(_computed(node) for node in _nodes(checkpoint)):
        from memcard.maths import rounding

        values = sum(s.spec.elements for n in _nodes(checkpoint) for s in _computed(n))
        total += _LOOPS if values >= rounding._WORTH else 0
    return total + sum(_surveyed(node) for node in _nodes(checkpoint))


def seconds(checkpoint: Checkpoint, threads: int) -> float | None:
    """Estimate how long computing takes, by computing one tensor of at most 16 MiB in one thread.

    The time to write is not in it.

    Returns:
        None where a sample would need a look at the whole model, or says nothing of the other tensors:
        what takes whole matrices costs more than their size says.
    """
    steps = [s for node in _nodes(checkpoint) for s in _computed(node)]
    if not isinstance(checkpoint, RecipeCheckpoint) or not _computed(checkpoint):
        return 0.0
    known = not any(isinstance(node._op, Surveying) for node in _nodes(checkpoint))
    tried = sorted(
        (s for s in _computed(checkpoint) if 0 < s.spec.nbytes <= _TRIED),
        key=lambda s: s.spec.nbytes,
    )
    if not known or not tried or any(s.whole for s in steps):
        return None
    from memcard.maths.rounding import announce

    announce(sum(s.spec.elements for s in steps))
    checkpoint.read(tried[0].name)  # what is made once: loops, tables, buffers
    step, total = tried[-1], sum(s.spec.nbytes for s in _computed(checkpoint))
    start = time.perf_counter()
    checkpoint.read(step.name)
    return (time.perf_counter() - start) * total / step.spec.nbytes / threads


def _nodes(checkpoint: Checkpoint) -> Iterable[RecipeCheckpoint]:
    """Yield the operations of a recipe, each once."""
    seen: dict[int, RecipeCheckpoint] = {}
    stack = [checkpoint]
    while stack:
        found = stack.pop()
        if isinstance(found, RecipeCheckpoint) and id(found) not in seen:
            seen[id(found)] = found
            stack.extend(found._inputs)
    return seen.values()


def _computed(checkpoint: RecipeCheckpoint) -> list[Step]:
    return [step for step in checkpoint._steps.values() if not step.copy]


def _per_thread(checkpoint: Checkpoint) -> int:
    """Return what one thread holds at most while it computes one chunk, its operands included."""
    if not isinstance(checkpoint, RecipeCheckpoint):
        return CHUNK  # a tensor that is copied, if the kernel does not do it
    own = max((_of_step(checkpoint, step) for step in _computed(checkpoint)), default=CHUNK)
    return own + max((_per_thread(c) for c in checkpoint._inputs if _makes(c)), default=0)


def _makes(checkpoint: Checkpoint) -> bool:
    return isinstance(checkpoint, RecipeCheckpoint)


def _of_step(checkpoint: RecipeCheckpoint, step: Step) -> int:
    """Return what computing a chunk of one tensor takes: buffers, blocks, what is measured, its own."""
    from memcard.maths.floats import BLOCK

    out = checkpoint.piece(step.name, CHUNK)
    share = min(1.0, out / max(1, step.spec.nbytes))
    read = [checkpoint._inputs[i].specs[key] for i, key in step.needs]
    buffers = sum(s.nbytes if step.whole else int(s.nbytes * share) for s in read)
    buffers += sum(checkpoint._inputs[i].specs[key].nbytes for i, key in step.small)
    blocks = (_BLOCKS + len(read)) * 8 * min(BLOCK, step.spec.elements)
    temporary: Any = getattr(checkpoint._op, "temporary", None)
    own = temporary(step) if temporary else 0
    return min(out, step.spec.nbytes) + buffers + blocks + own + _measured(step, len(read))


def _measured(step: Step, inputs: int) -> int:
    """Return what the search for thresholds keeps, the most a method that measures holds."""
    if not step.measure:
        return 0
    from memcard.maths.deltas import RUN
    from memcard.maths.select import KEPT

    found = 16 * min(RUN, step.spec.elements)
    # candidates with their places, twice while they are put in order; the sample is smaller
    return found + 2 * 16 * min(KEPT, step.spec.elements // 16) + 8 * inputs * (1 << 15)


def _surveyed(checkpoint: RecipeCheckpoint) -> int:
    """Return what a survey of the whole model keeps: some numbers per column, or nothing."""
    if not isinstance(checkpoint._op, Surveying):
        return 0
    columns: Mapping[str, int] = {s.name: s.block for s in _computed(checkpoint) if s.measure}
    return 3 * 8 * sum(columns.values())
