"""RegMean: the linear layer whose outputs are closest to those of all models on their own inputs.

    W = (sum W_i G_i) (sum G_i)^-1,  G_i = X_i^T X_i with its off-diagonal scaled by alpha

X_i are the inputs model i's layer saw. G_i lies in a file under the weight's name, [in, in]; for a convolution
``in`` is channels x kernel. Weights without one are averaged plainly. The matrix products and the solution
come from LAPACK: the same bits on one machine, not on every processor.

Source: Jin et al. 2023, "Dataless Knowledge Fusion by Merging Weights of Language Models", arXiv:2212.09849.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from memcard.errors import MismatchError
from memcard.maths.floats import Array, Double, combine
from memcard.ops._pairs import DTYPE
from memcard.ops._statistics import WithStatistics, split
from memcard.ops._tensorwise import emit, number, target
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param


class RegMean(WithStatistics):
    """Inputs: models, then the file of Gram matrices of each."""

    title = "RegMean"
    source = "arXiv:2212.09849"
    params: ClassVar[Mapping[str, Param]] = {
        "alpha": Param("float", 0.9, "share of the off-diagonal of the Gram matrices to use", 0, 1),
        "dtype": DTYPE,
    }
    whole: ClassVar[bool] = True
    what: ClassVar[str] = "Gram matrices"

    def shape(self, weight: tuple[int, ...]) -> tuple[int, ...]:
        """Return [in, in]."""
        return (prod(weight[1:]),) * 2

    def temporary(self, step: Step) -> int:
        """Return what solving for a tensor needs beside its inputs and its result, in bytes.

        In float64: the weights of each model, their products and the solution; the Gram matrices,
        their sum and its factors.
        """
        models, statistics = step.detail
        if not statistics:
            return 0
        columns = prod(step.spec.shape[1:])
        weights, grams = step.spec.elements * (len(models) + 3), columns**2 * (len(models) + 3)
        return 8 * (weights + grams)

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Solve for one tensor, or average a chunk of one without statistics.

        Raises:
            MismatchError: the sum of the Gram matrices has no inverse.
        """
        models, grams = split(step, parts)
        if not grams or not out:
            share = 1.0 / len(models)
            return combine(models, [share] * len(models), target(step, out))
        rows, columns = step.spec.shape[0], prod(step.spec.shape[1:])
        pairs = [
            (np.asarray(m, np.float64).reshape(rows, columns), _gram(g, columns, params))
            for m, g in zip(models, grams, strict=True)
        ]
        try:
            return emit(regmean(pairs), step, out)
        except np.linalg.LinAlgError:
            raise MismatchError(
                f"{step.name!r}: the sum of the Gram matrices has no inverse. Use statistics of "
                "more samples, or an alpha below 1."
            ) from None


def regmean(pairs: Sequence[tuple[Double, Double]]) -> Double:
    """Return (sum W G) (sum G)^-1 for pairs of W [out, in] and a symmetric G [in, in].

    Raises:
        LinAlgError: the sum of G is singular.
    """
    weighted: Any = sum(weight @ matrix for weight, matrix in pairs)
    total: Any = sum(matrix for _, matrix in pairs)
    return np.ascontiguousarray(np.linalg.solve(total.T, weighted.T).T)


def _gram(values: Array, columns: int, params: Params) -> Double:
    matrix = np.array(values, np.float64).reshape(columns, columns)
    diagonal = np.diag(matrix).copy()
    matrix *= number(params, "alpha")
    np.fill_diagonal(matrix, diagonal)
    return matrix


PLUGIN = RegMean()
