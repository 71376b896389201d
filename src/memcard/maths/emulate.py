"""Weighted sums as other programs compute them, rounding where they round.

A merge that someone else made is kept as its recipe only if the recipe gives its very bits. Each style here
is the arithmetic of a program or of a few lines of PyTorch that people use; ``W`` is rounded to the dtype of
the result last in each of them, and the weights are rounded to float32 first.

    float32          sum of w_i W_i, in float32 from left to right: a script that calls .float()
    float32_mean     the same, then divided by the sum of the weights: a script that divides at the end
    fused_mean       the same, each product added without being rounded: addcmul, mergekit's linear
    stored           every product and every sum rounded to the stored dtype: 0.7 * a + 0.3 * b of halves
    stored_alpha     the first product rounded, then add(b, alpha=w) with w in the stored dtype, fused
    lerp             a + w (b - a), or b - (b - a)(1 - w) from w = 0.5 on, in float32, fused: torch.lerp
    float32_change   a + w (b - c), in float32: add difference
    stored_change    the same, every step rounded to the stored dtype
    running_change   a moving average: m = W_0, then m = m + r (W_i - m), every step rounded to the stored dtype;
                     r is w_i by the sum of the weights so far, with six digits (0.2 when 0.64, 0.16, 0.2 are given)
    running_scale    the same as m.mul(1 - r).add(W_i, alpha=r), the second step fused
    running_lerp     the same as m.lerp(W_i, r)

Sources: PyTorch's ATen/native/cpu (BinaryOpsKernel, LerpKernel), https://github.com/pytorch/pytorch; mergekit 0.1.5,
run as a reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memcard.maths.floats import Array, decode, encode
from memcard.maths.rounding import round_to, scratch

Single = NDArray[np.float32]
_PIECE = 1 << 14


def emulate(parts: Sequence[Array], weights: Sequence[float], style: str, out: Array) -> int:
    """Write the weighted sum of ``parts`` in the arithmetic of ``style``.

    Args:
        parts: stored floats of up to 32 bits, all as long as ``out``.
        weights: one per part; for the styles of changes one number, and parts a, b, c (c = a if left out).
        style: one of ``STYLES``.
        out: stored floats.

    Returns:
        How many values written are NaN or infinite.
    """
    bad, work = 0, STYLES[style]
    numbers = [float(np.float32(w)) for w in weights]
    with np.errstate(all="ignore"):  # what is not finite is counted
        for at in range(0, out.size, _PIECE):
            piece = out[at : at + _PIECE]
            values = [_single(part[at : at + _PIECE]) for part in parts]
            made = work(values, numbers, _Rounding(parts[0].dtype))
            bad += round_to(np.ascontiguousarray(made), piece).wild
    return bad


class _Rounding:
    """Rounds float32 to a stored dtype and back."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)

    def __call__(self, values: Single) -> Single:
        if self._dtype == np.float32:
            return values
        narrow = np.empty(values.size, self._dtype)
        encode(values.astype(np.float64), narrow)
        return _single(narrow)


_Style: TypeAlias = Callable[[Sequence[Single], Sequence[float], _Rounding], Single]


def _single(values: Array) -> Single:
    wide = scratch(60, values.size, np.float64)
    decode(values, wide)
    return wide.astype(np.float32)


def _number(value: float) -> np.float32:
    return np.float32(value)


def _float32(values: Sequence[Single], weights: Sequence[float], _: _Rounding) -> Single:
    total = values[0] * _number(weights[0])
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + value * _number(weight)
    return total


def _float32_mean(values: Sequence[Single], weights: Sequence[float], cut: _Rounding) -> Single:
    return _float32(values, weights, cut) / _total(weights)


def _fused_mean(values: Sequence[Single], weights: Sequence[float], _: _Rounding) -> Single:
    total = np.zeros_like(values[0])
    for value, weight in zip(values, weights, strict=True):
        total = _fused(value, _number(weight), total)
    return total / _total(weights)


def _total(weights: Sequence[float]) -> np.float32:
    total = _number(0)
    for weight in weights:
        total = total + _number(weight)
    return total


def _stored(values: Sequence[Single], weights: Sequence[float], cut: _Rounding) -> Single:
    total = cut(values[0] * _number(weights[0]))
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = cut(total + cut(value * _number(weight)))
    return total


def _stored_alpha(values: Sequence[Single], weights: Sequence[float], cut: _Rounding) -> Single:
    total = cut(values[0] * _number(weights[0]))
    for value, weight in zip(values[1:], weights[1:], strict=True):
        short = cut(np.full(1, weight, np.float32))[0]  # PyTorch gives alpha the stored dtype
        total = cut(_fused(value, short, total))
    return total


def _lerp(values: Sequence[Single], weights: Sequence[float], _: _Rounding) -> Single:
    (a, b), weight = values, _number(weights[-1])
    if weight < _number(0.5):
        return _fused(b - a, weight, a)
    return _fused(b - a, weight - _number(1), b)


def _fused(value: Single, factor: np.float32, addend: Single) -> Single:
    """Multiply and add with one rounding: the product of two float32 is exact in float64."""
    made: Single = (value.astype(np.float64) * float(factor) + addend).astype(np.float32)
    return made


def _float32_change(values: Sequence[Single], weights: Sequence[float], _: _Rounding) -> Single:
    a, b, *rest = values
    return a + (b - (rest[0] if rest else a)) * _number(weights[0])


def _stored_change(values: Sequence[Single], weights: Sequence[float], cut: _Rounding) -> Single:
    a, b, *rest = values
    change = cut(b - (rest[0] if rest else a))
    return cut(a + cut(change * _number(weights[0])))


def _running(step: Callable[[Single, Single, float, _Rounding], Single]) -> _Style:
    """Return the style of a moving average whose steps are these."""

    def style(values: Sequence[Single], weights: Sequence[float], cut: _Rounding) -> Single:
        mean, total = values[0], weights[0]
        for value, weight in zip(values[1:], weights[1:], strict=True):
            total += weight
            rate = float(f"{weight / total:.6g}") if total else 0.0
            mean = step(mean, value, rate, cut)
        return mean

    return style


def _change_step(mean: Single, value: Single, rate: float, cut: _Rounding) -> Single:
    return cut(mean + cut(cut(value - mean) * _number(rate)))


def _scale_step(mean: Single, value: Single, rate: float, cut: _Rounding) -> Single:
    short = cut(np.full(1, rate, np.float32))[0]  # as in _stored_alpha
    return cut(_fused(value, short, cut(mean * _number(1 - rate))))


def _lerp_step(mean: Single, value: Single, rate: float, cut: _Rounding) -> Single:
    return cut(_lerp((mean, value), (rate,), cut))


STYLES: Mapping[str, _Style] = {
    "float32": _float32,
    "float32_mean": _float32_mean,
    "fused_mean": _fused_mean,
    "stored": _stored,
    "stored_alpha": _stored_alpha,
    "lerp": _lerp,
    "float32_change": _float32_change,
    "stored_change": _stored_change,
    "running_change": _running(_change_step),
    "running_scale": _running(_scale_step),
    "running_lerp": _running(_lerp_step),
}
RUNNING = ("running_change", "running_scale", "running_lerp")
CHANGES = ("float32_change", "stored_change")
