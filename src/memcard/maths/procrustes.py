"""The rotation that brings one matrix closest to another.

Source: Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem".
"""

from __future__ import annotations

from threading import Lock

import numpy as np

from memcard.maths.floats import Double

# LAPACK starts a thread per processor; two calls at once would wait for each other in loops.
_ONE_AT_A_TIME = Lock()


def rotated(a: Double, b: Double) -> Double:
    """Return ``a @ q``, where the orthogonal q makes the Frobenius norm of ``a @ q - b`` least.

    Wide matrices are reduced by QR first, so the SVD is of the short side: n^3 instead of p^3. (sd-mecha
    1.1.8 adds the part of ``a`` outside ``b``'s rows to it for these, which is no rotation any more.)

    Args:
        a: [n, p], float64, finite.
        b: as large.
    """
    with _ONE_AT_A_TIME:
        return _rotated(a, b)


def _rotated(a: Double, b: Double) -> Double:
    rows, columns = a.shape
    if rows >= columns:
        u, _, vh = np.linalg.svd(a.T @ b, full_matrices=False)
        return np.asarray(a @ (u @ vh))
    _, a_low = np.linalg.qr(a.T)
    b_basis, b_low = np.linalg.qr(b.T)
    u, _, vh = np.linalg.svd(a_low @ b_low.T, full_matrices=False)
    return np.asarray((a_low.T @ (u @ vh)) @ b_basis.T)
