"""Checkpoints seen through: parts, and tensors put together from pieces of others."""

import numpy as np
import pytest

from fixtures import small
from memcard.core.tensors import DTYPES, Spec
from memcard.core.views import Arrangement, Part, Piece, Rearranged
from memcard.errors import NotFoundError
from memcard.formats import open_file

F16 = DTYPES["F16"]
A, B = np.arange(12, dtype=np.float16).reshape(4, 3), np.arange(6, dtype=np.float16).reshape(2, 3)


@pytest.fixture
def opened(tmp_path):
    return open_file(small.save(tmp_path / "a.safetensors", {"a": A, "b": B}))


def view(opened, *pieces, shape, transposed=False):
    made = Arrangement(Spec(F16, shape), tuple(pieces), transposed)
    return Rearranged(opened, {"x": made})


def test_a_part_has_some_tensors_only(opened):
    assert list(Part(opened, ["b"]).specs) == ["b"]


def test_rows_of_one_tensor(opened):
    found = view(opened, Piece("a", 6, 12), shape=(2, 3))

    assert np.array_equal(small.array_of(found, "x"), A[1:3])
    extent, whole = found.extent("x"), opened.extent("a")
    assert (extent.offset, extent.size) == (whole.offset + 6, 12)


def test_rows_of_two_tensors(opened):
    found = view(opened, Piece("b", 0, 12), Piece("a", 0, 24), shape=(6, 3))

    assert np.array_equal(small.array_of(found, "x"), np.concatenate([B, A]))
    assert found.extent("x") is None


@pytest.mark.parametrize(("offset", "size"), [(0, 36), (5, 20), (11, 2), (35, 1), (12, 0)])
def test_any_range_is_the_range_of_the_whole(opened, offset, size):
    found = view(opened, Piece("b", 0, 12), Piece("a", 0, 24), shape=(6, 3))
    whole, into = bytes(found.read("x")), bytearray(size)

    found.readinto("x", memoryview(into), offset)

    assert bytes(into) == whole[offset : offset + size]


def test_a_transposed_matrix(opened):
    found = view(opened, Piece("a", 0, 24), shape=(3, 4), transposed=True)

    assert np.array_equal(small.array_of(found, "x"), A.T)
    assert found.extent("x") is None
    into = bytearray(10)
    found.readinto("x", memoryview(into), 3)
    assert bytes(into) == A.T.tobytes()[3:13]


def test_an_unknown_name_is_refused(opened):
    with pytest.raises(NotFoundError, match="'y'"):
        view(opened, Piece("a", 0, 24), shape=(4, 3)).read("y")
