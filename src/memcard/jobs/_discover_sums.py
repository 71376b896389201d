"""Guess which weighted sum of the candidates a checkpoint is, and in whose arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, permutations
from typing import Any

import numpy as np

from memcard.core.checkpoint import Checkpoint
from memcard.jobs._discover_sample import Sample, columns, fewest
from memcard.maths.emulate import RUNNING, emulate
from memcard.maths.fit import Solution, search, solve, typed
from memcard.maths.floats import STORED, Array, combine
from memcard.recipes.nodes import Apply, Node, Params

# Root mean square of the error of a sum, in rounding steps: 0.29 if rounded once; sums whose every
# step is rounded stay below 1.
_GOOD = 1.5
_SURE = 0.9999  # share of values a formula must give for larger ones not to be tried
_WORTH = 0.5  # of the wrong values, what one more checkpoint may leave: relatives always explain a little
_SOLUTIONS = 4  # of one size, those of the least error
_FEW, _TRIED = 8, 6  # tensors for a first look at a formula; formulas that are looked at again
_BY_BLOCK = 2  # formulas for which other weights are looked for in each tensor
_MOVING, _SAME_RATE = 5, 1e-3  # snapshots of a moving average; by what its rates may differ
_NAMES = {dtype: name for name, dtype in STORED.items()}


@dataclass(frozen=True)
class Guess:
    """A recipe that may be the one.

    Attributes:
        node: the recipe.
        title: in one line.
        right: share of the sampled values that it gives bit for bit.
    """

    node: Node
    title: str
    right: float


@dataclass(frozen=True)
class _Formula:
    """A weighted sum in somebody's arithmetic: an operation with its settings."""

    op: str
    chosen: tuple[int, ...]
    weights: tuple[float, ...]
    style: str = ""
    normalize: bool = False  # rounds once more, and many sums of round weights are ties

    def make(self, parts: Sequence[Array], weights: Sequence[float], out: Array) -> None:
        with np.errstate(all="ignore"):
            if self.style:
                emulate(parts, weights, self.style, out)
            else:
                total = sum(weights) if self.normalize else 1.0
                combine(parts, [w / total for w in weights], out)

    def params(self, dtype: str, weights: Sequence[float]) -> dict[str, Any]:
        if self.op == "cast":
            return {"dtype": dtype}
        if self.style:
            return {"weights": tuple(weights), "style": self.style, "dtype": dtype}
        return {"weights": tuple(weights), "normalize": self.normalize, "dtype": dtype}

    def right(self, samples: Sequence[Sample], weights: Sequence[float]) -> int:
        """Count the sampled values it gives bit for bit."""
        found = 0
        for sample in samples:
            parts = [p for i in self.chosen if (p := sample.parents[i]) is not None]
            out = np.empty(sample.size, sample.target.dtype)
            self.make(parts, weights, out)
            item = out.dtype.itemsize
            found += int(np.count_nonzero(out.view(f"u{item}") == sample.target.view(f"u{item}")))
        return found


def guesses(
    samples: Sequence[Sample], refs: Sequence[str], nodes: Sequence[Node], target: Checkpoint
) -> Guess | None:
    """Return the best guess, or None if no weighted sum comes near.

    Args:
        samples: of all tensors of floats.
        refs: what people call the candidates.
        nodes: their recipes.
        target: the checkpoint in question.
    """
    whole = [i for i in range(len(refs)) if any(s.parents[i] is not None for s in samples)]
    kept = {s.name: found for s in samples if (found := s.kept())}
    mixed = [s for s in samples if s.name not in kept and _common(s, whole)]
    if not mixed:
        return _patchwork(fewest(kept), samples, refs, nodes, target)
    best: Guess | None = None
    for formulas in _formulas(mixed, whole):
        fewer = best
        for rank, formula in enumerate(_ranked(formulas, mixed)):
            blocks = _by_weights(formula, mixed, alike=rank >= _BY_BLOCK)
            guess = _assembled(formula, blocks, kept, samples, refs, nodes, target)
            if guess is not None and (best is None or guess.right > best.right):
                best = guess
            if best is not None and best.right == 1:
                break
        if fewer is not None and best is not None and best.right < 1 - _WORTH * (1 - fewer.right):
            best = fewer
        if best is not None and best.right > _SURE:
            break
    return best


def untouched(samples: Sequence[Sample], place: int) -> float:
    """Return the share of the tensors that one candidate has too, as they are or cast."""
    cast = _Formula("cast", (place,), (1.0,))
    same = sum(_common(s, [place]) and cast.right([s], (1.0,)) == s.size for s in samples)
    return same / max(1, len(samples))


def _common(sample: Sample, whole: Sequence[int]) -> bool:
    return bool(whole) and all(sample.parents[i] is not None for i in whole)


def _formulas(mixed: Sequence[Sample], whole: Sequence[int]) -> Iterator[list[_Formula]]:
    """Yield formulas of one checkpoint, of two and so on."""
    table = columns(mixed, whole)
    nothing = True
    known = search(table.target, table.parents, table.unit, good=_GOOD)
    for _, solutions in groupby(known, key=lambda s: len(s.chosen)):
        nothing = False
        yield _written(list(solutions), whole)
    if nothing:  # other weights in every block: a tensor of its own says which candidates count
        known = iter(sorted(_one_tensor(mixed, whole), key=lambda s: len(s.chosen)))
        for _, solutions in groupby(known, key=lambda s: len(s.chosen)):
            yield _written(list(solutions), whole)


def _written(solutions: Sequence[Solution], whole: Sequence[int]) -> list[_Formula]:
    """Return the formulas that people may have written for these solutions."""
    found: list[_Formula] = []
    for solution in solutions[:_SOLUTIONS]:
        chosen = tuple(whole[i] for i in solution.chosen)
        for weights in typed(solution):
            found += _styles(chosen, weights)
    return found


def _ranked(formulas: Sequence[_Formula], mixed: Sequence[Sample]) -> list[_Formula]:
    """Return the formulas that give most of a few values, the best first; of equals the first."""
    few = sorted(mixed, key=lambda s: -s.size)[:_FEW]
    rights = {formula: formula.right(few, formula.weights) for formula in formulas}
    return sorted(rights, key=lambda formula: -rights[formula])[:_TRIED]


def _one_tensor(mixed: Sequence[Sample], whole: Sequence[int]) -> list[Solution]:
    largest = sorted(mixed, key=lambda s: -s.size)[:3]
    found: list[Solution] = []
    for sample in largest:
        table = columns([sample], whole)
        found += list(search(table.target, table.parents, table.unit, good=_GOOD))[:1]
    return found


def _styles(chosen: tuple[int, ...], weights: tuple[float, ...]) -> Iterator[_Formula]:
    if len(chosen) == 1:
        yield _Formula("cast", chosen, (1.0,))
        return
    yield _Formula("weighted_average", chosen, weights)
    if sum(weights) > 0 and abs(sum(weights) - 1) < 1e-6:
        yield _Formula("weighted_average", chosen, weights, normalize=True)
    yield from _moving(chosen, weights)
    change = _as_change(chosen, weights)
    if change is not None:
        order, scale = change
        for style in ("float32_change", "stored_change"):
            yield _Formula("emulated_sum", order, (scale,), style)
    for order in _orders(len(chosen)):
        some, numbers = tuple(chosen[i] for i in order), tuple(weights[i] for i in order)
        for style in ("float32", "float32_mean", "fused_mean", "stored", "stored_alpha"):
            yield _Formula("emulated_sum", some, numbers, style)
        whole = tuple(n / min(numbers) for n in numbers) if min(numbers) > 0 else ()
        if whole and all(abs(n - round(n)) < 1e-6 for n in whole):
            parts = tuple(float(round(n)) for n in whole)
            yield _Formula("emulated_sum", some, parts, "float32_mean")
        if len(chosen) == 2 and abs(sum(weights) - 1) < 1e-6:
            yield _Formula("emulated_sum", some, numbers, "lerp")
            for style in ("float32_change", "stored_change"):
                yield _Formula("emulated_sum", some, (numbers[1],), style)


def _moving(chosen: tuple[int, ...], weights: tuple[float, ...]) -> Iterator[_Formula]:
    """Yield the moving averages of three or more that have these weights: each step has the same rate."""
    if not 3 <= len(chosen) <= _MOVING or min(weights) <= 0 or abs(sum(weights) - 1) > 1e-6:
        return
    for order in permutations(range(len(chosen))):
        some, numbers = tuple(chosen[i] for i in order), tuple(weights[i] for i in order)
        rates = [w / sum(numbers[: i + 1]) for i, w in enumerate(numbers)][1:]
        if max(rates) - min(rates) < _SAME_RATE * max(rates):
            for style in RUNNING:
                yield _Formula("emulated_sum", some, numbers, style)


def _orders(count: int) -> list[tuple[int, ...]]:
    forward = tuple(range(count))
    return [forward, forward[::-1]] if count == 2 else [forward]


def _as_change(
    chosen: tuple[int, ...], weights: tuple[float, ...]
) -> tuple[tuple[int, ...], float] | None:
    """Return a, b, c and s if this is a + s (b - c)."""
    if len(chosen) != 3:
        return None
    for a in range(3):
        b, c = (i for i in range(3) if i != a)
        if abs(weights[a] - 1) < 1e-4 and abs(weights[b] + weights[c]) < 1e-4:
            b, c = (b, c) if weights[b] > 0 else (c, b)
            return (chosen[a], chosen[b], chosen[c]), weights[b]
    return None


def _by_weights(
    formula: _Formula, mixed: Sequence[Sample], *, alike: bool
) -> Mapping[tuple[float, ...], list[Sample]]:
    """Group the tensors by the weights that give them; the formula's own serve where they fit.

    If ``alike``, they serve everywhere.
    """
    if alike:
        return {formula.weights: list(mixed)}
    groups: dict[tuple[float, ...], list[Sample]] = {formula.weights: []}
    for sample in mixed:
        weights = formula.weights
        if len(formula.chosen) > 1 and formula.right([sample], weights) < 0.5 * sample.size:
            weights = _own(formula, sample) or weights
        groups.setdefault(weights, []).append(sample)
    return {w: found for w, found in groups.items() if found}


def _own(formula: _Formula, sample: Sample) -> tuple[float, ...] | None:
    """Return the weights this one tensor asks for, if they serve it better."""
    table = columns([sample], formula.chosen)
    if table.target.size <= 4 * len(formula.chosen):
        return None
    solution = solve(table.target, table.parents, table.unit)
    best, right = None, formula.right([sample], formula.weights)
    for weights in typed(solution):
        # of a change, the weight of what is added
        own = weights[1:2] if len(formula.weights) == 1 else weights
        found = formula.right([sample], own)
        if found > right:
            best, right = own, found
    return best


def _assembled(
    formula: _Formula,
    blocks: Mapping[tuple[float, ...], list[Sample]],
    kept: Mapping[str, Sequence[int]],
    samples: Sequence[Sample],
    refs: Sequence[str],
    nodes: Sequence[Node],
    target: Checkpoint,
) -> Guess | None:
    dtypes = {_NAMES[s.target.dtype] for found in blocks.values() for s in found}
    if len(dtypes) != 1:
        return None
    dtype = dtypes.pop()
    # What the formula gives anyway needs no third checkpoint that has it too.
    theirs = set(formula.chosen)
    needed = {
        s.name: found
        for s in samples
        if (found := kept.get(s.name))
        and (theirs & set(found) or not _explained(formula, s, dtype))
    }
    taken = fewest(needed, formula.chosen)
    right = sum(formula.right(found, weights) for weights, found in blocks.items())
    total = sum(s.size for found in blocks.values() for s in found)
    main = max(blocks, key=lambda w: len(blocks[w]))
    title = _title(formula, main, refs)
    if len(blocks) > 1:
        title += f", other weights in {sum(map(len, blocks.values())) - len(blocks[main])} tensors"
    foreign = {n: i for n, i in taken.items() if i != formula.chosen[0]}
    order = [*formula.chosen, *dict.fromkeys(i for i in taken.values() if i not in formula.chosen)]
    rules: list[dict[str, Any]] = [
        {"names": tuple(s.name for s in found), "set": formula.params(dtype, weights)}
        for weights, found in blocks.items()
        if weights != main
    ]
    for i in dict.fromkeys(taken.values()):
        names = tuple(n for n, j in taken.items() if j == i)
        rules.append({"names": names, "keep": order.index(i)})
    names_from = order.index(formula.chosen[0])
    inputs = tuple(nodes[i] for i in order)
    settings = formula.params(dtype, main)
    if not rules:
        node: Node = Apply(formula.op, inputs, Params(settings))
    else:
        node = Apply(
            "by_block",
            inputs,
            Params(
                {
                    "method": formula.op,
                    "settings": settings,
                    "rules": tuple(rules),
                    "merged": len(formula.chosen),
                    "names_from": names_from,
                }
            ),
        )
    if foreign:
        title += f", {len(foreign)} tensors as in {', '.join(_few(refs[i] for i in dict.fromkeys(foreign.values())))}"
    return Guess(node, title, right / total if total else 1.0)


def _explained(formula: _Formula, sample: Sample, dtype: str) -> bool:
    """Whether a formula gives all sampled values of a tensor."""
    if _NAMES[sample.target.dtype] != dtype or not _common(sample, formula.chosen):
        return False
    return formula.right([sample], formula.weights) == sample.size


def _few(names: Iterator[str]) -> list[str]:
    return list(names)[:3]


def _patchwork(
    kept: Mapping[str, int],
    samples: Sequence[Sample],
    refs: Sequence[str],
    nodes: Sequence[Node],
    target: Checkpoint,
) -> Guess | None:
    """Nothing is computed: all tensors are those of candidates."""
    if not kept or len(kept) < 0.5 * len(samples):
        return None
    counts = {i: sum(j == i for j in kept.values()) for i in kept.values()}
    main = max(counts, key=lambda i: counts[i])
    order = [main, *(i for i in counts if i != main)]
    if len(order) == 1:
        return Guess(nodes[main], f"the tensors of {refs[main]}", 1.0)
    rules = tuple(
        {"names": tuple(n for n, j in kept.items() if j == i), "keep": order.index(i)}
        for i in order
    )
    node = Apply(
        "by_block",
        tuple(nodes[i] for i in order),
        Params({"method": "identity", "settings": {}, "rules": rules, "merged": 1}),
    )
    parts = ", ".join(f"{counts[i]} tensors of {refs[i]}" for i in order)
    return Guess(node, parts, 1.0)


def _title(formula: _Formula, weights: Sequence[float], refs: Sequence[str]) -> str:
    names = [refs[i] for i in formula.chosen]
    if formula.op == "cast":
        return f"{names[0]}, cast"
    if len(weights) == 1:
        minus = names[2] if len(names) > 2 else names[0]
        return f"{names[0]} + {weights[0]:g} ({names[1]} - {minus})"
    if formula.style.endswith("_mean"):
        weights = [w / sum(weights) for w in weights]
    text = f"{weights[0]:g} {names[0]}"
    for weight, name in zip(weights[1:], names[1:], strict=True):
        text += f" {'-' if weight < 0 else '+'} {abs(weight):g} {name}"
    return text
