"""What LoRA's relatives do to a weight: changes that add up, and changes that depend on the weight.

The first kind streams by rows (``Hadamard``, ``Kronecker``, ``Dense``, beside ``low_rank.LowRank``).
The second needs the whole matrix, as an array [out, in, kernel] in float64.

Sources: LoHa: Hyeon-Woo et al. 2021, arXiv:2108.06098; LoKr and the rest of LyCORIS: Yeh et al. 2023,
arXiv:2309.14859; (IA)3: Liu et al. 2022, arXiv:2205.05638; GLoRA: Chavan et al. 2023,
arXiv:2306.07967; OFT: Qiu et al. 2023, arXiv:2306.07280; BOFT: Liu et al. 2023, arXiv:2311.06243;
DoRA: Liu et al. 2024, arXiv:2402.09353; OFT as PEFT has it: PEFT ``tuners/oft/layer.py``
(Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Final

import numpy as np

from memcard.maths.floats import Array, scratch
from memcard.maths.low_rank import LowRank

NEUMANN_TERMS: Final = 5  # PEFT's default for OFT
_SHORT: Final = 2  # terms up to which the series has no power of its own


@dataclass(frozen=True, slots=True)
class Hadamard:
    """LoHa: ``scale * (one * two)``, the product of two low-rank matrices value by value."""

    one: LowRank
    two: LowRank
    scale: float

    def fill(self, first: int, last: int, out: Array, term: Array) -> None:
        """Write rows of the change."""
        other = scratch(3, out.size, np.float64).reshape(out.shape)
        self.one.fill(first, last, out, term)
        self.two.fill(first, last, other, term)
        np.multiply(out, other, out=out)
        np.multiply(out, self.scale, out=out)


@dataclass(frozen=True, slots=True)
class Kronecker:
    """LoKr: ``scale * kron(left, right)``; left is [a, b], right [c, d * kernel]."""

    left: Array
    right: Array
    scale: float

    def fill(self, first: int, last: int, out: Array, term: Array) -> None:
        """Write rows of the change."""
        index = np.arange(first, last)
        left, right = self.left[index // len(self.right)], self.right[index % len(self.right)]
        shaped = out.reshape(len(index), self.left.shape[1], self.right.shape[1])
        np.multiply(left[:, :, None], right[:, None, :], out=shaped)
        np.multiply(out, self.scale, out=out)


@dataclass(frozen=True, slots=True)
class Dense:
    """A difference that is stored as it is: ``scale * values``; values is [rows, columns]."""

    values: Array
    scale: float

    def fill(self, first: int, last: int, out: Array, term: Array) -> None:
        """Write rows of the change."""
        np.multiply(self.values[first:last], self.scale, out=out)


def scaled(weight: Array, factors: Array, strength: float, *, on_input: bool) -> Array:
    """Return (IA)3: ``W + strength * W * factors``, along the inputs or the outputs.

    Args:
        weight: [out, in, kernel].
        factors: one number per input or output; 0 changes nothing.
        strength: 0 gives the weight back.
        on_input: which of the two.
    """
    shape = (1, -1, 1) if on_input else (-1, 1, 1)
    found: Array = weight + strength * (weight * factors.reshape(shape))
    return found


def generalised(weight: Array, change: Array, a1: Array, a2: Array, scale: float) -> Array:
    """Return GLoRA: ``W + scale * (W a1 a2 + change)``.

    Args:
        weight: [out, in, kernel].
        change: b1 b2, [out, in, kernel].
        a1: [in, rank].
        a2: [rank, in].
        scale: strength * alpha / rank.
    """
    inward = np.moveaxis(weight, 1, 2) @ a1 @ a2  # [out, kernel, in]
    found: Array = weight + scale * (np.moveaxis(inward, 2, 1) + change)
    return found


def rotations(blocks: Array, limit: float) -> Array:
    """Return the orthogonal matrices of OFT by Cayley's transform, ``(I + Q)(I - Q)^-1``.

    Args:
        blocks: [..., n, n]; Q is their skew part.
        limit: longest Q, measured over all blocks at once; 0 for no limit.
    """
    skew = blocks - np.swapaxes(blocks, -1, -2)
    length = float(np.sqrt(np.sum(skew * skew)))
    if 0 < limit < length:
        skew = skew * (limit / length)
    one = np.eye(blocks.shape[-1])
    found: Array = (one + skew) @ np.linalg.inv(one - skew)
    return found


def rotated(weight: Array, turns: Array, rescale: Array | None, strength: float) -> Array:
    """Return OFT: ``W + strength * (rescale * R^T W - W)``, R block by block along the outputs.

    Args:
        weight: [out, in, kernel].
        turns: [blocks, n, n], blocks * n = out.
        rescale: one number per output, or None.
        strength: 0 gives the weight back.
    """
    rows = weight.reshape(len(turns), turns.shape[1], -1)
    made = (np.swapaxes(turns, 1, 2) @ rows).reshape(weight.shape)
    if rescale is not None:
        made = made * rescale.reshape(-1, 1, 1)
    found: Array = weight + strength * (made - weight)
    return found


def butterflied(weight: Array, turns: Array, rescale: Array | None, strength: float) -> Array:
    """Return BOFT: one stage of rotations after another, each on rows farther apart.

    Strength moves every stage towards the identity, not the result, as LyCORIS and ComfyUI do; here
    it moves ``rescale`` towards 1, too.

    Args:
        weight: [out, in, kernel].
        turns: [stages, blocks, n, n], blocks * n = out, n even.
        rescale: one number per output, or None.
        strength: 0 gives the weight back.
    """
    out, size = weight.shape[0], turns.shape[-1]
    rows, one = weight.reshape(out, -1), np.eye(size)
    for stage, turn in enumerate(turns):
        far = 2**stage * size // 2
        mixed = rows.reshape(-1, 2, far, rows.shape[1]).swapaxes(1, 2)
        mixed = (strength * turn + (1 - strength) * one) @ mixed.reshape(-1, size, rows.shape[1])
        rows = mixed.reshape(-1, far, 2, rows.shape[1]).swapaxes(1, 2).reshape(out, -1)
    made = rows.reshape(weight.shape)
    if rescale is not None:
        made = made * (1 + strength * (rescale.reshape(-1, 1, 1) - 1))
    return made


def triangle(count: int) -> int:
    """Return n where ``count`` is n (n - 1) / 2, the values above a diagonal; 0 if there is no such n."""
    size = (1 + isqrt(1 + 8 * count)) // 2
    return size if count and size * (size - 1) // 2 == count else 0


def turned_inputs(weight: Array, above: Array, terms: int, strength: float) -> Array:
    """Return PEFT's OFT: ``W + strength * (W R^T - W)``, R block by block along the inputs.

    Args:
        weight: [out, in, kernel].
        above: [blocks, n (n - 1) / 2], the values above the diagonals of the skew matrices; one block
            counts for all.
        terms: of the series that stands for the rotation; 0 for the rotation itself.
        strength: 0 gives the weight back.
    """
    size = triangle(above.shape[1])
    skew, (i, j) = np.zeros((len(above), size, size)), np.triu_indices(size, 1)
    skew[:, i, j], skew[:, j, i] = above, -above
    turns = _series(skew, terms) if terms else _cayley(skew)
    rows = np.moveaxis(weight.reshape(len(weight), -1, size), 1, 0)  # [blocks, out, n]
    made = np.moveaxis(rows @ np.swapaxes(turns, 1, 2), 0, 1).reshape(weight.shape)
    found: Array = weight + strength * (made - weight)
    return found


def _cayley(skew: Array) -> Array:
    one = np.eye(skew.shape[-1])
    found: Array = (one - skew) @ np.linalg.inv(one + skew)
    return found


def _series(skew: Array, terms: int) -> Array:
    """Return ``I + 2 Q + 2 Q^2 + … + Q^last``, the last power once; ``last`` is 4 for 5 terms.

    It is near ``(I + Q)(I - Q)^-1``, which turns the other way than ``_cayley``: PEFT defines both so,
    and a file's configuration tells which of the two was trained.
    """
    found = np.broadcast_to(np.eye(skew.shape[-1]), skew.shape).copy()
    if terms <= _SHORT:
        return found + 2 * skew if terms == _SHORT else found
    power, last = skew, max(3, terms - 1)
    for exponent in range(1, last + 1):
        power = skew if exponent == 1 else power @ skew
        found += power if exponent == last else 2 * power
    return found


def decomposed(
    weight: Array, change: Array, magnitude: Array, strength: float, *, on_input: bool
) -> Array:
    """Return DoRA: ``W + strength * (V * magnitude / |V| - W)`` with ``V = W + change``.

    LyCORIS interpolates the scale of V instead; the two agree at strength 1. Here strength 0 gives W
    back. A row of zeros stays one.

    Args:
        weight: [out, in, kernel].
        change: of the direction, without the strength; the same shape.
        magnitude: one number per input or per output.
        strength: of the whole change.
        on_input: whether the lengths are those of the columns, not of the rows.
    """
    moved = weight + change
    axes, shape = ((0, 2), (1, -1, 1)) if on_input else ((1, 2), (-1, 1, 1))
    length = np.sqrt(np.sum(moved * moved, axis=axes, keepdims=True))
    length[length == 0] = 1.0
    found: Array = weight + strength * (moved * (magnitude.reshape(shape) / length) - weight)
    return found
