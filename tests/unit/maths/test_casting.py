"""Casting between stored dtypes, and what is told about it."""

import numpy as np
import pytest

from fixtures import small
from memcard.core.tensors import DTYPES, Spec
from memcard.formats import open_file
from memcard.maths.casting import Cast, Loss, cast
from memcard.maths.floats import STORED
from memcard.maths.rounding import BLOCK


@pytest.mark.parametrize("target", STORED)
@pytest.mark.parametrize("origin", STORED)
def test_a_cast_is_exact_or_the_nearest_value(origin, target):
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(1000) * 3).astype(STORED[origin])
    out = np.empty(1000, STORED[target])

    loss = cast(values, out)

    assert loss.overflow == loss.unordered == 0
    wide = values.astype("f8")
    assert np.array_equal(out.astype("f8"), wide.astype(STORED[target]).astype("f8"))


def test_blocks_do_not_show():
    values = np.random.default_rng(0).standard_normal(2 * BLOCK + 3, np.float32)
    out = np.empty(values.size, np.float16)

    cast(values, out)

    assert np.array_equal(out, values.astype(np.float16))


def test_overflow_is_told_from_what_was_infinite_before():
    values = np.array([np.nan, -np.inf, 7e4, 1e-30, 1e-7, 1.0], np.float32)

    assert cast(values, np.empty(6, np.float16)) == Loss(1, 2, 2, 1)


def test_losses_add_up_and_nothing_is_false():
    assert Loss(1, 2, 3, 4) + Loss(1, 1, 1, 1) == Loss(2, 3, 4, 5)
    assert not Loss()
    assert Loss(gone=1)


def open_cast(tmp_path, arrays, dtype, names):
    path = small.save(tmp_path / "a.safetensors", arrays)
    return Cast(open_file(path), DTYPES[dtype], names=frozenset(names))


def test_only_the_named_tensors_are_cast(tmp_path):
    arrays = {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32), "n": np.arange(2)}

    result = open_cast(tmp_path, arrays, "F16", ["a"])

    assert [str(spec) for spec in result.specs.values()] == ["F16 [3]", "F32 [3]", "I64 [2]"]
    assert bytes(result.read("a")) == np.ones(3, np.float16).tobytes()
    assert bytes(result.read("b")) == arrays["b"].tobytes()
    assert result.extent("a") is None
    assert result.extent("b") is not None


def test_any_range_of_bytes_can_be_read(tmp_path):
    values = np.random.default_rng(0).standard_normal(1000, np.float32)
    result = open_cast(tmp_path, {"w": values}, "F16", ["w"])
    whole = values.astype(np.float16).tobytes()

    for offset, size in ((0, 2000), (1, 7), (999, 2), (1998, 2), (3, 0)):
        into = bytearray(size)
        result.readinto("w", memoryview(into), offset)
        assert bytes(into) == whole[offset : offset + size]


def test_losses_are_kept_per_tensor(tmp_path):
    arrays = {"a": np.array([1e9, 1], np.float32), "b": np.ones(2, np.float32)}
    result = open_cast(tmp_path, arrays, "F16", arrays)

    for name in arrays:
        result.read(name)

    assert result.losses == {"a": Loss(overflow=1)}
    assert result.specs["a"] == Spec(DTYPES["F16"], (2,))
