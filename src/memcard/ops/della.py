"""DELLA: drop changes at random, small ones more often than large ones, and add what agrees.

    pi = density - epsilon + 2 epsilon r / (n - 1);  r = 0 for the smallest of a row's n magnitudes
    mi = di / pi with probability pi, else 0
    W  = W0 + lambda * (sum of wi mi of the elected sign) / (sum of these wi)

A row is all values of one index of the first dimension, a vector is one row; of equal magnitudes the
one with the lower index has the higher rank. Without ``elect`` all changes are added (DELLA linear).
Rows are sorted one at a time, so memory is that of the longest row.

Source: Deep et al. 2024, "DELLA-Merging", arXiv:2406.11617, MAGPRUNE. mergekit agrees on the
probabilities of matrices, but makes up for the loss by matching the L1 norm.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from memcard.maths.deltas import magnitudes, zero_unless
from memcard.maths.floats import Array, Double
from memcard.maths.random import key, uniform
from memcard.maths.select import keys_of
from memcard.ops._deltas import (
    SEED,
    WEIGHTS,
    DeltaMethod,
    Piece,
    density,
    each,
    normalize,
    rescale,
    together,
)
from memcard.ops._sparse import blend, zero_sum
from memcard.recipes.nodes import Params
from memcard.recipes.op import Param


def probabilities(rows: Array, share: float, epsilon: float) -> Double:
    """Return for each change of whole rows, [rows, n], how likely it is kept."""
    count = rows.shape[1]
    # Backwards, a stable sort puts the lower of two equal indices last, which is the higher rank.
    order = np.argsort(
        keys_of(magnitudes(rows.reshape(-1))).reshape(rows.shape)[:, ::-1], kind="stable"
    )
    ranks = np.empty(rows.shape, np.float64)
    np.put_along_axis(ranks, count - 1 - order, np.arange(count, dtype=np.float64)[None], axis=1)
    chances: Double = share - epsilon + 2 * epsilon * ranks / max(1, count - 1)
    return chances


def della(piece: Piece) -> Double:
    """Return the mean of those kept changes that agree."""
    shares, epsilons = (each(k, piece.inputs, piece.params) for k in ("density", "epsilon"))
    seed, columns = cast("int", piece.params["seed"]), piece.inputs.columns
    for delta, stream, share, epsilon in zip(
        piece.deltas, piece.inputs.streams, shares, epsilons, strict=True
    ):
        if share >= 1:
            continue
        keep = probabilities(delta.reshape(-1, columns), share, epsilon).reshape(-1)
        draw = uniform(key(seed, piece.step.name, stream), piece.start, delta.size)
        zero_unless(draw < keep, delta)
        if piece.params["rescale"]:
            np.divide(delta, keep, out=delta, where=keep > 0)
    return blend(piece, agreeing=bool(piece.params["elect"]))


def _check(params: Params) -> str:
    faults = [
        f"epsilon: with density {share:g} and epsilon {epsilon:g} the probabilities reach from "
        f"{share - epsilon:g} to {share + epsilon:g}. Choose epsilon so that they lie in 0..1."
        for share, epsilon in together(params, "density", "epsilon")
        if share < 1 and not 0 <= share - epsilon <= share + epsilon <= 1
    ]
    if faults:
        return " ".join(faults)
    return "" if params["elect"] else zero_sum(params)


PLUGIN = DeltaMethod(
    title="DELLA",
    source="arXiv:2406.11617",
    own={
        "weights": WEIGHTS,
        "density": density(0.5, "mean probability of keeping a value"),
        "epsilon": Param("each", 0.15, "how far the probabilities differ from it", 0.0, 0.5),
        "rescale": rescale(default=True),
        "elect": Param("bool", True, "add only the changes that have the sign of the sum"),
        "normalize": normalize(default=True),
        "seed": SEED,
    },
    mix=della,
    rows=True,
    check=_check,
)
