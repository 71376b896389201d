"""Where the values of a training save lie, as far as the save before it and its own moments tell.

AdamW moves a weight by the running mean of its gradient over the root of the running mean of its square. What
happened between two saves shows at both ends, so a weight is foretold from them by two numbers that hold for
the whole network. A value whose gradient was zero all the time only decays: that is foretold bit for bit, and
the words that never came are half of a text encoder.

All is float32, with operations that IEEE 754 rounds correctly in a fixed order: every machine finds the same
bits. Only the size of what is stored depends on a prediction being good.

Source: Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Self, TypeAlias

import numpy as np

from memcard.errors import CorruptError

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

STEPS_MOST = 128  # of decay that are followed one by one: more would make reading slow
_PIECE = 1 << 15  # values; what is computed of them stays in the second cache
_FRESH = 4  # measured: the last gradients count for so much more in the first moment than in the second one
_NEAR = np.float32(2.0**-18)  # of a second moment: what rounding it step by step may change


@dataclass(frozen=True, slots=True)
class Path:
    """What the steps between two saves did.

    Attributes:
        decay: factor of a weight in one step.
        steps: how often it was applied, 0 to ``STEPS_MOST``.
        first, second: factors of the moments over all steps, where the gradient was zero.
        drift: by what the old first moment over the root of the old second one moves a weight there.
        old, new: the same where the gradient was not zero, and what the new moments add.
        size: of the first moment, in roots of the second one.
    """

    decay: float = 1.0
    steps: int = 0
    first: float = 1.0
    second: float = 1.0
    drift: float = 0.0
    old: float = 0.0
    new: float = 0.0
    size: float = 1.0

    def to_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, found: Mapping[str, Any]) -> Self:
        """Read the numbers.

        Raises:
            CorruptError: one is missing or no finite number, or there are too many steps.
        """
        names = [f.name for f in fields(cls)]
        numbers: list[Any] = [found.get(name) for name in names]
        sound = all(type(n) in (int, float) and isfinite(n) for n in numbers)
        steps = found.get("steps")
        if not sound or not isinstance(steps, int) or not 0 <= steps <= STEPS_MOST:
            raise CorruptError(
                f"a training path has the finite numbers {', '.join(names)}, and at most {STEPS_MOST} steps; "
                f"this one says {dict(found)}. The record it stands in is damaged or forged."
            )
        return cls(**dict(zip(names, numbers, strict=True)))


def decayed(weights: Array, path: Path) -> Array:
    """Return what weights become whose gradient is zero, step by step as a trainer rounds."""
    found, factor = weights.copy(), np.float32(path.decay)
    for _ in range(path.steps):
        np.multiply(found, factor, out=found)
    return found


def foretell_second(path: Path, old: Array, out: Array) -> None:
    """Fill ``out``, which may be ``old`` itself, with what the second moment becomes where the gradient is zero."""
    for part in _pieces(out):
        with np.errstate(all="ignore"):
            found = old[part] * np.float32(path.second)
        _finite(found, old[part])
        out[part] = found


def foretell_first(
    path: Path, before: tuple[Array, Array] | None, second: Array, out: Array
) -> None:
    """Fill ``out`` with about how large the first moment is.

    Args:
        path: between the saves.
        before: first and second moment of the earlier one; None: not to be looked at.
        second: the second moment now.
        out: as long as the others.
    """
    for part in _pieces(out):
        then = None if before is None else (before[0][part], before[1][part])
        with np.errstate(all="ignore"):
            found = _sizes(path, then, second[part])
        _finite(found, second[part])
        out[part] = found


def _sizes(path: Path, before: tuple[Array, Array] | None, second: Array) -> Array:
    if before is None:
        found: Array = np.sqrt(second)
        found *= np.float32(path.size)
        return found
    # What is left of the old one, and what the gradients since then added to the square.
    gone = np.maximum(second - before[1] * np.float32(path.second), np.float32(0))
    gone[idle(before[1], second, path.second)] = 0
    gone *= np.float32(_FRESH) * np.float32(path.size) * np.float32(path.size)
    found = before[0] * np.float32(path.first)
    np.multiply(found, found, out=found)
    found += gone
    np.sqrt(found, out=found)
    return found


def foretell_weight(
    path: Path,
    weights: Array,
    before: tuple[Array, Array] | None,
    after: tuple[Array, Array] | None,
    out: Array,
) -> None:
    """Fill ``out`` with where the weights are now.

    Args:
        path: between the saves.
        weights: of the earlier one.
        before: first and second moment there; None: there are none, taken as zeros.
        after: the same of the later save; None: not known, so weights only decay.
        out: as long as the others; may be the weights themselves.
    """
    for part in _pieces(out):
        with np.errstate(all="ignore"):
            found = decayed(weights[part], path)
            if after is not None:
                ends = [
                    None if pair is None else (pair[0][part], pair[1][part])
                    for pair in (before, after)
                ]
                found += _moved(path, ends[0], (after[0][part], after[1][part]))
        _finite(found, weights[part])
        out[part] = found


def _pieces(values: Array) -> Iterator[slice]:
    for at in range(0, len(values), _PIECE):
        yield slice(at, at + _PIECE)


def _moved(path: Path, before: tuple[Array, Array] | None, after: tuple[Array, Array]) -> Array:
    """Return how far weights went beside their decay."""
    now = normalised(*after)
    if before is None:
        now *= np.float32(path.new)
        return now
    then = normalised(*before)
    still = idle(before[1], after[1], path.second)
    now *= np.float32(path.new)
    now += then * np.float32(path.old)
    if still.any():
        now[still] = then[still] * np.float32(path.drift)
    return now


def normalised(first: Array, second: Array) -> Array:
    """Return a first moment over the root of the second one; 0 where that is 0."""
    root = np.sqrt(second)
    found: Array = np.divide(first, root, out=np.zeros_like(first), where=root > 0)
    return found


def idle(old: Array, new: Array, factor: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell where a second moment only decayed, so that the gradient was zero all the time."""
    should = old * np.float32(factor)
    found: np.ndarray[Any, np.dtype[np.bool_]] = np.abs(new - should) <= _NEAR * should
    return found


def _finite(out: Array, fallback: Array) -> None:
    """Where a prediction overflows or is no number take the old value: NaNs differ between machines."""
    bad = ~np.isfinite(out)
    if bad.any():
        out[bad] = fallback[bad]
