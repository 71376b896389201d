"""Guess whether a checkpoint is another one with LoRAs baked in, and at what strengths."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations

import numpy as np

from memcard.core.checkpoint import Checkpoint
from memcard.errors import MemcardError
from memcard.jobs._discover_sample import ranges_of, read, wide
from memcard.jobs._discover_sums import Guess
from memcard.jobs.resolve import open_source
from memcard.maths.fit import Solution, steady, typed
from memcard.ops import OPS
from memcard.recipes.execute import RecipeCheckpoint, Resolver, evaluate
from memcard.recipes.nodes import Apply, Node, Params

_TENSORS = 24  # of those a LoRA changes; enough to know a strength
_EXPLAINED = (
    0.7  # of a change, what may be left: rounding to a narrow dtype can be as large as the change
)
_GOOD = 0.9  # share of sampled values that a bake must give to be one


def is_lora(checkpoint: Checkpoint) -> bool:
    """Tell whether a candidate is an adapter, not a model."""
    from memcard.architectures import identify

    return identify(checkpoint.specs, checkpoint.metadata).kind == "lora"


def with_loras(
    target: Checkpoint,
    parents: Sequence[Checkpoint],
    refs: Sequence[str],
    nodes: Sequence[Node],
    loras: Sequence[tuple[str, Node, Checkpoint]],
    resolve: Resolver = open_source,
) -> Guess | None:
    """Return the best guess, or None if no bake of one or two of the LoRAs comes near."""
    best: Guess | None = None
    for ref, node, parent in zip(refs, nodes, parents, strict=True):
        for count in (1, 2):
            for some in combinations(loras, min(count, len(loras) + 1)):
                with suppress(MemcardError):  # a LoRA of another family is no candidate
                    guess = _baked((target, parent), ref, node, some, resolve)
                    if guess is not None and (best is None or guess.right > best.right):
                        best = guess
        if best is not None and best.right == 1:
            break
    return best


def _baked(
    pair: tuple[Checkpoint, Checkpoint],
    ref: str,
    node: Node,
    loras: Sequence[tuple[str, Node, Checkpoint]],
    resolve: Resolver,
) -> Guess | None:
    if not loras:
        return None
    target, parent = pair
    wide_base = Apply("cast", (node,), Params({"dtype": "F32"}))
    changed = [
        _baking(wide_base, [lora], Params({"strengths": (1.0,)}), resolve) for _, lora, _ in loras
    ]
    names = _changed(changed[0], target, parent)
    if not names:
        return None
    solution = _strengths(target, parent, changed, names)
    for checkpoint in changed:
        checkpoint.close()
    best: Guess | None = None
    tries = [(s, a) for s in typed(solution) for a in ("", "float32")]
    for strengths, arithmetic in tries if solution.error < _EXPLAINED else ():
        if best is not None and best.right == 1:
            break
        params = Params({"strengths": tuple(strengths)} | _said(arithmetic))
        made = _baking(node, [lora for _, lora, _ in loras], params, resolve)
        right = _right(target, made, [*names, *_rest(target, names)])
        made.close()
        parts = " + ".join(
            f"{s:g} {name}" for s, (name, _, _) in zip(strengths, loras, strict=True)
        )
        found = Guess(
            Apply("lora_bake", (node, *(lora for _, lora, _ in loras)), params),
            f"{ref} with {parts} baked in",
            right,
        )
        if right >= _GOOD and (best is None or right > best.right):
            best = found
    return best


def _said(arithmetic: str) -> dict[str, str]:
    """Return the parameter that tells how products are computed; nothing where that is the default."""
    return {"arithmetic": arithmetic} if arithmetic else {}


def _baking(
    base: Node, loras: Sequence[Node], params: Params, resolve: Resolver
) -> RecipeCheckpoint:
    node = Apply("lora_bake", (base, *loras), params)
    made = evaluate(node, resolve, OPS)
    assert isinstance(made, RecipeCheckpoint)  # noqa: S101  # an operation is never a file
    return made


def _changed(made: RecipeCheckpoint, target: Checkpoint, parent: Checkpoint) -> list[str]:
    """List tensors the LoRA changes, from all over the model."""
    names = [
        name
        for name, spec in made.specs.items()
        if made.extent(name) is None
        and name in target.specs
        and target.specs[name].shape == spec.shape
        and not _same(target, parent, name)
    ]
    step = max(1, len(names) // _TENSORS)
    return names[::step]


def _same(target: Checkpoint, parent: Checkpoint, name: str) -> bool:
    if target.specs[name] != parent.specs[name]:
        return False
    ranges = ranges_of(target, name)
    return read(target, name, ranges).tobytes() == read(parent, name, ranges).tobytes()


def _strengths(
    target: Checkpoint,
    parent: Checkpoint,
    changed: Sequence[RecipeCheckpoint],
    names: Sequence[str],
) -> Solution:
    """Fit the change from the parent by the changes of the LoRAs at strength 1.

    The error is the norm of what is left by the norm of the change.
    """
    left: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    right: list[list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = [[] for _ in changed]
    for name in names:
        ranges = ranges_of(target, name)
        base = wide(read(parent, name, ranges))
        left.append(wide(read(target, name, ranges)) - base)
        for column, made in zip(right, changed, strict=True):
            column.append(wide(read(made, name, ranges)) - base)
    table = np.stack([np.concatenate(column) for column in right], axis=1)
    change = np.concatenate(left)
    found, near = steady(table, change)
    table, change = table[near], change[near]
    rest = change - table @ found
    noise = float(rest @ rest) / max(1, len(rest) - len(found))
    spread = np.sqrt(np.maximum(np.diag(np.linalg.pinv(table.T @ table)) * noise, 0))
    weights, spreads = tuple(map(float, found)), tuple(map(float, spread))
    whole = float(change @ change)
    error = np.sqrt(float(rest @ rest) / whole) if whole else 0.0
    return Solution(tuple(range(len(changed))), weights, spreads, float(error))


def _rest(target: Checkpoint, names: Sequence[str]) -> list[str]:
    """Return a few tensors beside those a LoRA changes."""
    others = [n for n, s in target.specs.items() if n not in names and s.elements]
    return others[:: max(1, len(others) // _TENSORS)]


def _right(target: Checkpoint, made: Checkpoint, names: Sequence[str]) -> float:
    equal = total = 0
    for name in names:
        if made.specs.get(name) != target.specs[name]:
            total += target.specs[name].elements
            continue
        ranges = ranges_of(target, name)
        item = target.specs[name].dtype.block_bytes
        pair = [np.frombuffer(read(c, name, ranges).tobytes(), f"u{item}") for c in (target, made)]
        equal += int(np.count_nonzero(pair[0] == pair[1]))
        total += len(pair[0])
    return equal / total if total else 0.0
