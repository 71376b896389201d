"""Random numbers that depend on a seed, a name and a position, and on nothing else.

Value i of a stream is the i-th output of SplitMix64 whose state starts at the stream's key, so any part
of a stream can be had by itself: threads and chunks change nothing. The key is made of the seed, the
tensor's name and the number of the input, by BLAKE2b.

Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figures 16 and 17
(the finaliser is David Stafford's variant 13).
"""

from __future__ import annotations

from hashlib import blake2b
from math import ceil

import numpy as np
from numpy.typing import NDArray

from memcard.maths.floats import scratch

_STEP = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio, made odd
_MASK = (1 << 64) - 1
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_BITS, _PLACE = 60, 61  # numbers of scratch arrays, apart from those of the callers


def key(seed: int, name: str, stream: int) -> int:
    """Return the key of a stream, 0..2^64-1.

    Args:
        seed: any whole number of 64 bits.
        name: of the tensor.
        stream: number of the input, from 0.
    """
    text = f"memcard random 1\n{seed}\n{stream}\n{name}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def bits(stream: int, start: int, count: int) -> NDArray[np.uint64]:
    """Return values ``start`` onwards of the stream with key ``stream``, 64 random bits each.

    The array is this thread's and is used again by the next call.
    """
    z, shifted = scratch(_BITS, count, np.uint64), scratch(_PLACE, count, np.uint64)
    z[:] = _ramp(count)
    np.add(z, np.uint64((stream + (start + 1) * _STEP) & _MASK), out=z)
    for by, times in ((30, _FIRST), (27, _SECOND)):
        np.right_shift(z, np.uint64(by), out=shifted)
        np.bitwise_xor(z, shifted, out=z)
        np.multiply(z, times, out=z)
    np.right_shift(z, np.uint64(31), out=shifted)
    np.bitwise_xor(z, shifted, out=z)
    return z


def below(stream: int, start: int, share: float, count: int) -> NDArray[np.bool_]:
    """Tell for each of ``count`` values whether it is among a ``share`` of 0..1 of them."""
    if share >= 1:
        return np.ones(count, bool)
    z = bits(stream, start, count)
    np.right_shift(z, np.uint64(11), out=z)
    return z < np.uint64(ceil(share * 2.0**53))


def uniform(stream: int, start: int, count: int) -> NDArray[np.float64]:
    """Return values ``start`` onwards as multiples of 2^-53 in [0, 1)."""
    z = bits(stream, start, count)
    np.right_shift(z, np.uint64(11), out=z)
    return np.multiply(z, 2.0**-53, dtype=np.float64)


_steps: NDArray[np.uint64] = np.zeros(0, np.uint64)


def _ramp(count: int) -> NDArray[np.uint64]:
    """Return 0, 1, 2, … times the step; made once, as all blocks need the same."""
    global _steps  # noqa: PLW0603  # two threads that make it at once make the same
    ramp = _steps
    if len(ramp) < count:
        ramp = _steps = np.arange(count, dtype=np.uint64) * np.uint64(_STEP)
    return ramp[:count]
