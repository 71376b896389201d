"""The difference codec: small for close weights, exact for all bits, deaf to hostile sizes."""

import struct

import ml_dtypes
import numpy as np
import pytest
import zstandard

from memcard.codecs import CODECS
from memcard.errors import CorruptError, MismatchError

DELTA, PLANES = CODECS["delta_zstd"], CODECS["planes_zstd"]


def close_pair(dtype):
    rng = np.random.default_rng(0)
    base = rng.standard_normal(50_000).astype("f4") * 0.05
    return base.astype(dtype), (base + rng.standard_normal(50_000).astype("f4") * 1e-4).astype(
        dtype
    )


@pytest.mark.parametrize(
    ("dtype", "share"), [("f2", 0.40), (ml_dtypes.bfloat16, 0.20), ("f4", 0.62)]
)
def test_close_weights_take_less_than_by_themselves(dtype, share):
    base, new = close_pair(dtype)

    packed = DELTA.encode(memoryview(new.tobytes()), new.itemsize, memoryview(base.tobytes()))
    alone = PLANES.encode(memoryview(new.tobytes()), new.itemsize)

    assert len(packed) < share * new.nbytes
    assert len(packed) < 0.75 * len(alone)


def test_neighbours_on_the_number_line_differ_by_one_whatever_their_sign_or_exponent():
    base = np.array([0.0, -0.0, 1.0, -1.0, 1000.0, 6e-8], "f2")
    new = np.nextafter(base, np.float16(np.inf)).astype("f2")

    packed = DELTA.encode(memoryview(new.tobytes()), 2, memoryview(base.tobytes()))
    low = packed[8:14]  # two lengths, then the low bytes as they are

    assert list(low) == [2, 4, 2, 2, 2, 2]  # zigzag of +1; from -0.0 over +0.0 it is +2


@pytest.mark.parametrize("pattern", [0x7E01, 0xFE01, 0x7C00, 0xFC00, 0x8000, 0x0001, 0xFFFF])
def test_special_values_keep_their_bits(pattern):
    base, new = np.full(100, 0x3C00, "<u2"), np.full(100, pattern, "<u2")
    out = bytearray(200)

    packed = DELTA.encode(memoryview(new.tobytes()), 2, memoryview(base.tobytes()))
    DELTA.decode(memoryview(packed), memoryview(out), 2, memoryview(base.tobytes()))

    assert out == new.tobytes()


def test_a_base_is_asked_for():
    with pytest.raises(MismatchError, match="needs a base of 4 bytes, none"):
        DELTA.encode(memoryview(b"1234"), 2)
    with pytest.raises(MismatchError, match="2 bytes are given"):
        DELTA.encode(memoryview(b"1234"), 2, memoryview(b"12"))


def test_a_plane_that_claims_to_be_huge_is_refused_before_it_is_unpacked():
    bomb = zstandard.ZstdCompressor().compress(bytes(100 << 20))
    packed = struct.pack("<I", len(bomb)) + bomb

    with pytest.raises(CorruptError, match="claims another size"):
        PLANES.decode(memoryview(packed), memoryview(bytearray(10)), 1)


def test_bytes_behind_the_last_plane_are_refused():
    packed = PLANES.encode(memoryview(b"abcdefgh"), 1) + b"x"

    with pytest.raises(CorruptError, match="its header says"):
        PLANES.decode(memoryview(packed), memoryview(bytearray(8)), 1)
