"""Values from all over some checkpoints, at the same places in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memcard.core.checkpoint import Checkpoint
from memcard.maths.fit import Double, rounding_step
from memcard.maths.floats import PRECISION, Array, can_compute, decode, stored

_RUN, _RUNS = 512, 8  # values read in one place, places in a tensor
_ROWS = 1 << 17  # values from which weights are solved
_WILD = 1e100  # rounding steps
_MANY = 200  # tensors; of more, fewer values of each
_AT_ONCE = 1 << 16  # bytes from the first place to the last
_WITHIN = 1 << 20  # values, the first of a tensor: packed ones are decoded in such blocks


@dataclass(frozen=True)
class Sample:
    """The sampled values of one tensor.

    Attributes:
        name: of the tensor.
        target: as stored.
        parents: of each candidate, as stored; None where it has no such tensor, or of another shape.
    """

    name: str
    target: Array
    parents: tuple[Array | None, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return int(self.target.size)

    def kept(self) -> tuple[int, ...]:
        """Return the candidates whose values are these, bit for bit."""
        mine, dtype = self.target.tobytes(), self.target.dtype
        same = (p is not None and p.dtype == dtype and p.tobytes() == mine for p in self.parents)
        return tuple(i for i, one in enumerate(same) if one)


def fewest(kept: Mapping[str, Sequence[int]], first: Sequence[int] = ()) -> dict[str, int]:
    """Choose of whom each tensor is, so that few have to be named.

    Args:
        kept: by name, the candidates that have the tensor; at least one.
        first: candidates that are named in any case, the preferred first.
    """
    found: dict[str, int] = {}
    order = list(first)
    while left := [n for n in kept if n not in found]:
        if order:
            one = order.pop(0)
        else:  # whoever has most of the rest; of equals the first
            counts = Counter(i for name in left for i in kept[name])
            one = min(counts, key=lambda i: (-counts[i], i))
        found |= {name: one for name in left if one in kept[name]}
    return {name: found[name] for name in kept}


def take(target: Checkpoint, parents: Sequence[Checkpoint]) -> list[Sample]:
    """Sample every tensor of floats."""
    found = []
    run = _RUN if len(target.specs) <= _MANY else _RUN // 8
    for name, spec in target.specs.items():
        if not can_compute(spec.dtype) or spec.elements == 0:
            continue
        ranges = _ranges(spec.elements, run)
        parts: list[Array | None] = []
        for parent in parents:
            other = parent.specs.get(name)
            fits = other is not None and other.shape == spec.shape and can_compute(other.dtype)
            parts.append(read(parent, name, ranges) if fits else None)
        found.append(Sample(name, read(target, name, ranges), tuple(parts)))
    return found


def read(checkpoint: Checkpoint, name: str, ranges: Sequence[tuple[int, int]]) -> Array:
    """Read some runs of values of one tensor."""
    spec = checkpoint.specs[name]
    item = spec.dtype.block_bytes
    first, last = ranges[0][0], max(start + count for start, count in ranges)
    if (last - first) * item <= _AT_ONCE:  # one read of a little more takes less than many
        span = memoryview(bytearray((last - first) * item))
        checkpoint.readinto(name, span, first * item)
        parts = [span[(s - first) * item : (s - first + n) * item] for s, n in ranges]
        return stored(memoryview(b"".join(parts)), spec.dtype)
    whole = memoryview(bytearray(sum(n for _, n in ranges) * item))
    at = 0
    for start, count in ranges:
        checkpoint.readinto(name, whole[at : at + count * item], start * item)
        at += count * item
    return stored(whole, spec.dtype)


def ranges_of(checkpoint: Checkpoint, name: str) -> list[tuple[int, int]]:
    """Return where ``take`` reads a tensor of a small checkpoint."""
    return _ranges(checkpoint.specs[name].elements, _RUN)


def _ranges(elements: int, run: int) -> list[tuple[int, int]]:
    if elements <= run * _RUNS:
        return [(0, elements)]
    return [(min(elements, _WITHIN) // _RUNS * i, run) for i in range(_RUNS)]


def wide(values: Array) -> Double:
    """Return float64."""
    out = np.empty(values.size)
    with np.errstate(invalid="ignore"):
        decode(values, out)
    return out


@dataclass(frozen=True)
class Columns:
    """The samples of several tensors, one after the other, without what is not finite."""

    target: Double
    parents: tuple[Double, ...]
    unit: Double


def columns(samples: Sequence[Sample], chosen: Sequence[int]) -> Columns:
    """Put the samples of the chosen candidates into columns; all of them have every tensor.

    Of more than ``_ROWS`` values every second, third and so on is taken: columns of all candidates take memory.
    """
    few = slice(None, None, 1 + sum(s.size for s in samples) // _ROWS)
    target = np.concatenate([wide(s.target[few]) for s in samples])
    parents = [np.concatenate([wide(_there(s.parents[i])[few]) for s in samples]) for i in chosen]
    unit = np.concatenate([_unit(s.target[few]) for s in samples])
    with np.errstate(all="ignore"):
        fine = np.abs(target) / unit < _WILD
        for parent in parents:
            fine &= np.abs(parent) / unit < _WILD
    return Columns(target[fine], tuple(p[fine] for p in parents), unit[fine])


def _there(part: Array | None) -> Array:
    if part is None:
        raise ValueError("a candidate lacks a tensor it was chosen for")
    return part


def _unit(values: Array) -> Double:
    bits, least = PRECISION[_names()[values.dtype]]
    numbers = np.nan_to_num(wide(values), nan=1.0, posinf=1.0, neginf=1.0)
    return rounding_step(numbers, bits, 2.0**least)


def _names() -> Mapping[Any, str]:
    from memcard.maths.floats import STORED

    return {dtype: name for name, dtype in STORED.items()}
