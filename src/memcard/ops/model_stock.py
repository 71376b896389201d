"""Model Stock: how far to go from the base towards the mean of the fine-tunes, from their angles.

    cos = mean of the cosines between di and dj, all pairs of the N fine-tunes
    t   = N cos / (1 + (N - 1) cos)
    W   = W0 + lambda * t * (d1 + ... + dN) / N

One t per tensor, or with ``filter_wise`` one for each index of its first dimension. The cosine with a
change of nothing is 0, and t is 0 where the divisor is less than 1e-6 from zero. Changes that oppose
each other give a negative t, of any size: away from the mean. The paper's argument knows only 0..1,
which ``clamp`` keeps to.

Source: Jang, Yun, Han 2024, "Model Stock", arXiv:2403.19522; the mean over all pairs as in mergekit.
"""

from __future__ import annotations

from itertools import combinations
from typing import cast

import numpy as np

from memcard.maths.deltas import BLOCK, RUN, blocks, dot, total
from memcard.maths.floats import Array, Double
from memcard.ops._deltas import DeltaMethod, Piece, Whole
from memcard.recipes.op import Param

_SINGULAR = 1e-6


def ratios(whole: Whole) -> Double:
    """Return t, of the tensor or of each of its rows."""
    found = _ratios(whole)
    return np.clip(found, 0.0, 1.0) if whole.params["clamp"] else found


def _ratios(whole: Whole) -> Double:
    if whole.params["filter_wise"]:
        return np.concatenate([_ratio(gram) for gram in _grams(whole)])
    count = len(whole.inputs.weights)
    gram = np.zeros((count, count, 1))
    for _, deltas in whole.blocks():
        for i, j in _pairs(count):
            gram[i, j] += dot(deltas[i], deltas[j])
    return _ratio(gram)


def _grams(whole: Whole) -> list[Array]:
    """Return the dot products row by row, [changes, changes, rows] for each run of rows."""
    columns, grams = whole.inputs.columns, []
    run, size = (max(1, n // columns) * columns for n in (RUN, BLOCK))
    for start in range(0, whole.count, run):
        parts = whole.read(start, min(run, whole.count - start))
        for _, _, deltas in blocks(parts, whole.inputs.dtypes, size=size):
            rows = [d.reshape(-1, columns) for d in deltas]
            gram = np.zeros((len(rows), len(rows), len(rows[0])))
            for i, j in _pairs(len(rows)):
                gram[i, j] = (rows[i] * rows[j]).sum(axis=1)
            grams.append(gram)
    return grams


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, i) for i in range(count)] + list(combinations(range(count), 2))


def _ratio(gram: Array) -> Double:
    """Return t from the upper half of a Gram matrix, [changes, changes, rows]."""
    count = len(gram)
    norms = np.sqrt(np.stack([gram[i, i] for i in range(count)]))
    cosines = np.zeros((0, gram.shape[2]))
    for i, j in combinations(range(count), 2):
        length = norms[i] * norms[j]
        cosine = np.clip(gram[i, j] / np.where(length == 0, 1, length), -1, 1)
        cosines = np.concatenate([cosines, cosine[None]])
    mean = cosines.sum(axis=0) / len(cosines)
    divisor = 1 + (count - 1) * mean
    singular = np.abs(divisor) < _SINGULAR
    return np.where(singular, 0.0, count * mean / np.where(singular, 1.0, divisor))


def model_stock(piece: Piece) -> Double:
    """Return t times the mean change."""
    ratio = cast("Double", piece.step.stats)
    out = total(piece.deltas)
    np.divide(out, len(piece.deltas), out=out)
    rows = np.arange(piece.start, piece.start + out.size) // piece.inputs.columns
    return np.multiply(out, ratio[rows] if len(ratio) > 1 else ratio[0], out=out)


PLUGIN = DeltaMethod(
    title="Model Stock",
    source="arXiv:2403.19522",
    own={
        "filter_wise": Param("bool", False, "one ratio per output channel, not per tensor"),
        "clamp": Param("bool", False, "keep the ratio in 0..1; opposed changes give the base"),
    },
    mix=model_stock,
    measure_whole=ratios,
    fewest=2,
)
