"""Low-rank approximation: a randomised SVD of a matrix, and an exact one of a sum of products.

The first costs five products of the matrix with a thin one, where a full SVD costs as many as the matrix
is wide: at rank 32, 34 times less for 640x640 and 143 times for 1280x5120; for 320x320, which takes a
millisecond, 12 times. Large products are in float32, everything small in float64.

Sources: Halko, Martinsson & Tropp 2011, "Finding structure with randomness", arXiv:0909.4061,
algorithms 4.4 and 5.1; random signs instead of normal numbers: their section 4.6.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import import_module
from math import sqrt
from types import ModuleType
from typing import NamedTuple

import numpy as np

from memcard.maths._blas import one_thread
from memcard.maths.floats import Array

# Columns more than the rank asked for. Small matrices have few singular values near the last one wanted, so
# that each matters more. Measured at rank 32 with two passes, error over the best there is: 640x640 1.007,
# 320x1280 1.008, 1280x1280 1.005; 320x320 1.010 with 16 columns more, 1.008 with 24.
_EXTRA, _EXTRA_SMALL = 16, 24
_SMALL = 512
_PASSES = 2
_WIDE = 2
_REDUCE = 1 << 20
_RUN = 1024
_ROUGH = 1e-4  # ratio of the lengths left over below which columns count as nearly dependent


class Factors(NamedTuple):
    """``up @ down`` is the approximation; both are float64 and of like size."""

    up: Array
    down: Array
    kept: float  # share of the squared length of the matrix, 0..1


def squared_length(values: Array) -> float:
    """Return the sum of squares: of float32 over runs of 1024 in float32, the runs in float64."""
    flat = values.reshape(-1)
    whole = flat.size // _RUN * _RUN
    runs = flat[:whole].reshape(-1, _RUN)
    # numpy's own loop: a BLAS may use threads, and their number changes bits.
    ends = [np.einsum("ij,ij->i", part, part) for part in (runs, flat[whole:].reshape(1, -1))]
    return float(sum(np.sum(end, dtype=np.float64) for end in ends))


def approximate(
    matrix: Array,
    rank: int,
    *,
    energy: float | None = None,
    seed: int = 0,
    name: str = "",
) -> Factors:
    """Return the best product of a rank, or of the least rank that keeps enough, nearly.

    Args:
        matrix: [rows, columns], float32, finite.
        rank: of the product, or with ``energy`` the highest allowed; at least 1.
        energy: share of the squared length to keep, 0 < energy <= 1; None for all the rank gives.
        seed: of the random signs.
        name: of the matrix; the signs depend on it and on nothing else.

    Returns:
        Error at most 1.01 times the best of that rank on weights of trained models.
    """
    with one_thread():
        return _approximate(matrix, rank, energy, seed, name)


def _approximate(matrix: Array, rank: int, energy: float | None, seed: int, name: str) -> Factors:
    whole = squared_length(matrix)
    most = min(rank, *matrix.shape)
    tried = most if energy is None else min(32, most)
    while True:
        left, values, right = _sketch(matrix, tried, seed, name)
        share = np.cumsum(values**2) / whole if whole else np.ones(len(values))
        if energy is None:
            return _factors(left, values, right, tried, share)
        enough = int(np.searchsorted(share, energy)) + 1
        if enough <= tried or tried == most:
            return _factors(left, values, right, min(enough, most), share)
        tried = min(2 * tried, most)


def recompress(up: Array, down: Array, rank: int) -> Factors:
    """Return the best product of a rank for ``up @ down``, without ever forming that.

    Exact: an orthogonal basis of either factor, and the SVD of the little matrix between them.

    Args:
        up: [rows, n], float64.
        down: [n, columns], float64.
        rank: of the product, at least 1.
    """
    with one_thread():
        left, small = np.linalg.qr(up)
        right, other = np.linalg.qr(down.T)
        u, values, v = np.linalg.svd(small @ other.T)
        count = min(rank, len(values))
        whole = float(np.sum(values**2))
        share = np.cumsum(values**2) / whole if whole else np.ones(len(values))
        return _factors(
            left @ u[:, : len(values)], values, v[: len(values)] @ right.T, count, share
        )


def _factors(left: Array, values: Array, right: Array, rank: int, share: Array) -> Factors:
    # Both factors get the root: halves have little range, and no factor shall need more than the other.
    root = np.sqrt(values[:rank])
    up, down = left[:, :rank] * root, right[:rank] * root[:, None]
    return Factors(up, down, min(1.0, float(share[rank - 1])))


def _sketch(matrix: Array, rank: int, seed: int, name: str) -> tuple[Array, Array, Array]:
    """Return the first singular vectors and values, float64, largest first."""
    if len(matrix) < matrix.shape[1]:  # bases of the shorter side cost less
        right, values, left = _sketch(matrix.T, rank, seed, name)
        return left.T, values, right.T
    basis = _domain(matrix, rank, seed, name)
    image = (matrix if basis is None else _times(matrix, basis)).astype(np.float64)
    # The eigenvectors of the little Gram matrix; in float64 its squares cost nothing that matters.
    squares, turn = np.linalg.eigh(image.T @ image)
    squares, turn = squares[::-1][:rank], turn[:, ::-1][:, :rank]
    values = np.sqrt(np.maximum(squares, 0.0))
    lengths = np.where(values > 0, values, 1.0)
    right = turn if basis is None else basis.astype(np.float64) @ turn
    return image @ (turn / lengths), values, right.T


def _domain(matrix: Array, rank: int, seed: int, name: str) -> Array | None:
    """Return a basis of nearly all that a matrix does not send to zero, float32, [columns, about rank].

    The matrix is at least as long as wide. Between the two products of a pass nothing is made orthogonal:
    what float32 loses there is below 1e-3 of the largest singular value. None: all of it.
    """
    rows, columns = matrix.shape
    width = rank + (_EXTRA if rows >= _SMALL else _EXTRA_SMALL)
    if columns <= _WIDE * width:  # a sketch that wide saves nothing over all of it
        return None
    basis = _signs(columns, width, seed, name)
    for _ in range(_PASSES):
        basis = _orthogonal(_times(matrix.T, _times(matrix, basis)))
    return basis


def _times(matrix: Array, thin: Array) -> Array:
    """Return ``matrix @ thin``, by the compiled loop wherever there can be one: bits shall not change."""
    loops = _loops()
    found: Array = matrix @ thin if loops is None else loops.times(matrix, thin)
    return found


@cache
def _loops() -> ModuleType | None:
    try:
        return import_module("memcard.maths._thin_kernels")
    except Exception:  # noqa: BLE001  # no llvmlite here, or a broken one: the BLAS does it
        return None


def _orthogonal(columns: Array) -> Array:
    """Return an orthogonal basis of the columns, float32, by the Cholesky factor of their Gram matrix.

    A third of the time of a QR of LAPACK. In float64 it is as good for float32 unless columns are nearly
    dependent; then it is that QR.
    """
    wide = columns.astype(np.float64)
    try:
        factor = np.linalg.cholesky(wide.T @ wide)
        lengths = np.diag(factor)
        if lengths.min() > _ROUGH * lengths.max():
            found: Array = (wide @ np.linalg.inv(factor).T).astype(np.float32)
            return found
    except np.linalg.LinAlgError:
        pass
    return np.linalg.qr(columns)[0]


def _signs(rows: int, columns: int, seed: int, name: str) -> Array:
    """Return random signs that depend on seed and name alone."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw(-(-rows * columns // 64))
    bits = np.unpackbits(np.asarray(words, "<u8").view(np.uint8), bitorder="little")
    signs = bits[: rows * columns].astype(np.float32).reshape(rows, columns)
    return signs * np.float32(2) - np.float32(1)


def relative_error(matrix: Array, up: Array, down: Array) -> float:
    """Return ``|matrix - up @ down| / |matrix|``, 0 for a matrix of zeros; products in float32."""
    whole, left = squared_length(matrix), 0.0
    up, down = up.astype(np.float32), down.astype(np.float32)
    height = max(1, _REDUCE // max(1, matrix.shape[1]))
    with one_thread():
        for row in range(0, len(matrix), height):
            left += squared_length(matrix[row : row + height] - up[row : row + height] @ down)
    return sqrt(left / whole) if whole else 0.0
