"""Casts by compiled loops: every 16-bit number, and many of 32, as torch casts them."""

import numpy as np
import pytest
import torch

kernels = pytest.importorskip("memcard.maths._cast_kernels")
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
PAIRS = [(a, b) for a in DTYPES for b in DTYPES if a != b]


def numbers(name: str) -> torch.Tensor:
    """Return all codes of a dtype, or for float32 a million, those around ties of bfloat16 among them."""
    if name != "F32":
        return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(DTYPES[name])
    codes = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint64)
    codes[: 1 << 18] = (codes[: 1 << 18] & 0xFFFF0000) | 0x8000
    codes[1 << 18 : 1 << 19] &= 0x807FFFFF  # below the smallest normal number
    return torch.from_numpy(codes.astype(np.uint32).view(np.float32).copy())


def cast(
    values: torch.Tensor, source: str, target: str, rows: list[tuple[int, int]]
) -> torch.Tensor:
    """Cast runs of values, each (first, count), to the same places of a tensor of sevens."""
    out = torch.full((len(values),), 7, dtype=DTYPES[target])
    table = np.array(
        [(i * values.itemsize, out.data_ptr() + i * out.itemsize, n) for i, n in rows], np.int64
    )
    kernels.cast_runs(source, target, values.data_ptr(), table)
    return out


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_same_bits_as_torch(source: str, target: str) -> None:
    values = numbers(source)
    found = cast(values, source, target, [(0, len(values))])
    expected = values.to(torch.float32).to(DTYPES[target])
    nan = values.isnan()
    assert torch.equal(found[~nan].view(torch.uint8), expected[~nan].view(torch.uint8))
    assert found[nan].isnan().all()
    assert nan.any()


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_runs_go_where_they_belong_and_nowhere_else(source: str, target: str) -> None:
    values = torch.arange(100).to(DTYPES[source])
    found = cast(values, source, target, [(90, 10), (3, 1), (50, 0), (17, 33)])
    expected = torch.full((100,), 7, dtype=DTYPES[target])
    for first, count in ((90, 10), (3, 1), (17, 33)):
        expected[first : first + count] = values[first : first + count].to(DTYPES[target])
    assert torch.equal(found, expected)


def test_knows_what_it_can() -> None:
    assert kernels.knows("F16", "F16") is False
    assert kernels.knows("F64", "F32") is False
    assert kernels.knows("F8_E4M3", "F16") is False
    assert {kernels.knows(*pair) for pair in PAIRS} in ({True}, {False})  # by the processor alone
