"""Means on a sphere as plain weighted sums: all angles follow from the inputs' dot products.

The Gram matrix of n tensors (n x n dot products) is found in one pass. Every spherical mean here lies
in the span of its inputs, so n coefficients say all about it, and a second pass adds up. Nothing of the
tensors' size is kept in float64.

Sources: Shoemake 1985, "Animating rotation with quaternion curves"; the methods of mergekit 0.1.5 where
they differ from it, as each function says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import acos, cos, pi, sin, sqrt
from typing import TypeAlias

import numpy as np

from memcard.maths.floats import BLOCK, Array, Double, decode, scratch

Views: TypeAlias = Callable[[int, int], Sequence[Array]]

# Dot products are added up over blocks of this many values, block after block: the sum depends on
# neither threads nor chunks.
REDUCED = 1 << 20

_NEARLY_PARALLEL = 0.9995  # mergekit's limit, beyond which slerp becomes lerp
_TINY = 1e-8
# Squared sine of the least angle that nuslerp calls one. mergekit has 1e-16, which float64 cannot tell
# from 0 and which blows rounding up where two tensors are opposite; at 1e-6 radians both ways agree.
STRAIGHT = 1e-12


class NoDirectionError(ValueError):
    """The inputs cancel each other: no direction lies between them."""


def gram(read: Views, elements: int, inputs: int, *, from_first: bool = False) -> Double:
    """Return the dot products of all pairs of tensors in float64.

    Args:
        read: (first element, how many) to the stored floats of each input.
        elements: how many values an input has.
        inputs: how many inputs there are.
        from_first: of the differences from the first input, which is not one of the n then.

    Returns:
        Symmetric, n x n.
    """
    count = inputs - from_first
    total = np.zeros((count, count))
    with np.errstate(all="ignore"):  # NaN and infinity show in the result
        for at in range(0, elements, REDUCED):
            total += gram_of_block(read(at, min(REDUCED, elements - at)), from_first)
    return total


def gram_of_block(parts: Sequence[Array], from_first: bool) -> Double:
    """Return the share of at most ``REDUCED`` values in ``gram``.

    The sums are numpy's pairwise ones: a BLAS adds in an order that depends on its threads.
    """
    count = len(parts) - from_first
    total = np.zeros((count, count))
    for at in range(0, parts[0].size, BLOCK):
        values = [scratch(i, len(p[at : at + BLOCK]), np.float64) for i, p in enumerate(parts)]
        for part, value in zip(parts, values, strict=True):
            decode(part[at : at + BLOCK], value)
        if from_first:
            base, *values = values
            for value in values:
                np.subtract(value, base, out=value)
        product = scratch(len(parts), values[0].size, np.float64)
        for i in range(count):
            for j in range(i + 1):
                np.multiply(values[i], values[j], out=product)
                total[i, j] += product.sum()
    low = np.tril(total, -1)
    return np.asarray(total + low.T)


def column_dots(read: Views, elements: int, columns: int) -> Array:
    """Return A.A, B.B and A.B of each column of two matrices, or of their changes from a base.

    Args:
        read: (first element, how many) to the stored floats of A and B, or of base, A and B.
        elements: how many values a matrix has.
        columns: how many of them make a row.

    Returns:
        [3, columns], float64; rows are added in order.
    """
    total = np.zeros((3, columns))
    piece = max(1, BLOCK // columns) * columns
    with np.errstate(all="ignore"):
        for at in range(0, elements, piece):
            a, b, _ = rows(read(at, min(piece, elements - at)), columns)
            total += [np.sum(x * y, axis=0) for x, y in ((a, a), (b, b), (a, b))]
    return total


def rows(arrays: Sequence[Array], columns: int) -> tuple[Array, Array, Array | None]:
    """Return A and B as rows of float64, less the base if it stands before them; then the base."""
    wide: list[Array] = []
    for array in arrays:
        wide.append(np.empty(array.size))
        decode(array, wide[-1])
    shaped = [array.reshape(-1, columns) for array in wide]
    base = shaped.pop(0) if len(shaped) > 2 else None
    if base is not None:
        for row in shaped:
            np.subtract(row, base, out=row)
    return shaped[0], shaped[1], base


def slerp_weights(dots: Double, t: float) -> tuple[float, float]:
    """Return the coefficients of the two tensors, mergekit's "slerp".

    The angle is that between the directions; the tensors keep their lengths (sd-mecha scales them to
    one length first, which is another result where the lengths differ). Closer than acos 0.9995 to
    parallel or antiparallel: plain interpolation.

    Args:
        dots: ``gram`` of the two.
        t: 0 gives the first, 1 the second.
    """
    first, second = (sqrt(dots[i, i]) if dots[i, i] > _TINY**2 else 1.0 for i in range(2))
    cosine = _clip(float(dots[0, 1]) / first / second)
    if not abs(cosine) <= _NEARLY_PARALLEL:
        return 1.0 - t, t
    return arc_weights(acos(cosine), t)


def arc_weights(angle: float, t: float) -> tuple[float, float]:
    """Return sin((1 - t) angle) / sin(angle) and sin(t angle) / sin(angle)."""
    return sin((1.0 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)


def nuslerp_weights(dots: Double, t: float) -> tuple[float, float]:
    """Return the coefficients of the two tensors, mergekit's "nuslerp".

    As ``slerp_weights``, with plain interpolation only where the sine of the angle is at most 1e-6.
    """
    first, second = (max(sqrt(dots[i, i]), 1e-7) for i in range(2))
    cosine = _clip(float(dots[0, 1]) / first / second)
    if not 1.0 - cosine * cosine > STRAIGHT:
        return 1.0 - t, t
    return arc_weights(acos(cosine), t)


def multislerp_weights(
    dots: Double, weights: Sequence[float], eps: float = _TINY
) -> tuple[float, ...]:
    """Return the coefficients of n tensors, mergekit's "multislerp".

    Directions are projected to the plane that touches the sphere at their weighted mean, averaged
    there, and bent back; the length is the weighted mean of the lengths. One step of a Karcher mean.

    Raises:
        NoDirectionError: three or more directions cancel each other. (Two: plain interpolation.)
    """
    share = np.asarray(weights, np.float64)
    if not np.isfinite(dots).all():
        return tuple(share.tolist())
    norms = np.sqrt(np.diag(dots))
    unit = dots / np.outer(norms + eps, norms + eps)
    length = _norm(share, unit)
    if length < eps:
        if len(share) > 2:
            raise NoDirectionError
        return tuple(share.tolist())
    mean = share / length
    tangent = share - float(share @ (unit @ mean)) * mean
    reach = _norm(tangent, unit) + eps
    made = (mean * cos(reach) + tangent * (sin(reach) / reach)) * float(share @ norms)
    return tuple((made / (norms + eps)).tolist())


def karcher_weights(
    dots: Double, weights: Sequence[float], *, max_iter: int, tol: float
) -> tuple[float, ...]:
    """Return the coefficients of n tensors: their Karcher mean on the sphere, mergekit's "karcher".

    The length is the weighted mean of the lengths. A tensor of length ``tol`` or less has no say in
    the direction, and neither has one that is the very antipode of the mean.

    Args:
        dots: ``gram`` of the tensors.
        weights: one per tensor, their sum 1.
        max_iter: most steps.
        tol: a step shorter than this, in radians, is the last.
    """
    if not np.isfinite(dots).all():
        return tuple(weights)
    norms = np.sqrt(np.diag(dots))
    valid = norms > tol
    share = np.where(valid, np.asarray(weights, np.float64), 0.0)
    if share.sum() <= 0:
        return tuple(weights)
    share /= share.sum()
    safe = np.where(valid, norms, 1.0)
    unit = dots / np.outer(safe, safe)
    mean = _walk(unit, share, valid, max_iter, tol)
    return tuple((mean * float(np.asarray(weights) @ norms) / safe).tolist())


def _walk(unit: Double, share: Double, valid: Array, max_iter: int, tol: float) -> Double:
    """Return the mean direction as coefficients of the unit vectors."""
    length = _norm(share, unit)
    if length < tol:
        mean = np.zeros_like(share)
        mean[int(np.argmax(valid))] = 1.0
    else:
        mean = share / length
    for _ in range(max_iter):
        along = np.clip(unit @ mean, -1.0, 1.0)
        angle = np.arccos(along)
        moves = valid & (angle >= tol) & (angle < pi - tol)
        pull = np.where(moves, share * angle / np.where(moves, np.sin(angle), 1.0), 0.0)
        tangent = pull - float(pull @ along) * mean
        reach = _norm(tangent, unit)
        if reach < tol:
            break
        mean = cos(reach) * mean + sin(reach) / reach * tangent
        mean = mean / _norm(mean, unit)
    return mean


def _norm(coefficients: Double, unit: Double) -> float:
    """Return the length of a sum of unit vectors; rounding can make its square negative."""
    return sqrt(max(0.0, float(coefficients @ (unit @ coefficients))))


def _clip(cosine: float) -> float:
    return max(-1.0, min(1.0, cosine))
