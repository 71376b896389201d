from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import DTYPES, QUANTIZED, Spec
from memcard.errors import MismatchError, UsageError
from memcard.formats import create, open_file
from memcard.ops import OPS
from memcard.recipes.bake import pour
from memcard.recipes.execute import RecipeCheckpoint
from memcard.recipes.nodes import Params
from memcard.recipes.op import complete

KINDS = ("Q8_0", "Q4_0", "Q5_1", "TQ2_0", "MXFP4")


def recipe(source: Checkpoint, dtype: str = "F32") -> RecipeCheckpoint:
    op = OPS["dequantize"]
    return RecipeCheckpoint(op, [source], complete("dequantize", op, Params({"dtype": dtype})), {})


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Checkpoint, dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "flux")
    expected = {}
    for name in KINDS:
        kind = GGMLQuantizationType[name]
        raw = quants.quantize(rng.standard_normal((5, 3, 512)).astype("f4"), kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
        expected[name] = quants.dequantize(raw, kind)
    plain = {"half": rng.standard_normal((2, 3)).astype("f2"), "ids": np.arange(5)}
    for name, array in plain.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return open_file(tmp_path / "x.gguf"), expected | plain


def test_blocks_become_the_values_of_the_reference(packed: Any) -> None:
    source, expected = packed

    result = recipe(source)

    assert list(result.specs) == list(expected)
    for name, array in expected.items():
        assert result.specs[name].shape == array.shape
        assert bytes(result.read(name)) == array.tobytes()


def test_everything_else_passes_untouched(packed: Any) -> None:
    source, _ = packed

    result = recipe(source, "BF16")

    assert result.specs["half"] == Spec(DTYPES["F16"], (2, 3))
    assert result.specs["ids"].dtype.name == "I64"
    assert result.specs["Q8_0"] == Spec(DTYPES["BF16"], (5, 3, 512))
    assert result.extent("half") == source.extent("half")
    assert result.extent("Q8_0") is None


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_pieces_that_cut_through_blocks_are_the_same_bytes(dtype: str, packed: Any) -> None:
    result = recipe(packed[0], dtype)
    rng = np.random.default_rng(3)
    for name in KINDS:
        whole, at = bytes(result.read(name)), 0
        while at < len(whole):
            part = bytearray(min(int(rng.integers(1, 3000)), len(whole) - at))
            result.readinto(name, memoryview(part), at)
            assert part == whole[at : at + len(part)]
            at += len(part)


@pytest.mark.parametrize("chunk", [16, 1000, 4096, 1 << 20])
def test_a_file_is_the_same_whatever_the_chunk(chunk: int, packed: Any, tmp_path: Path) -> None:
    source, expected = packed

    pour(recipe(source), create(tmp_path / "x.safetensors"), chunk=chunk, threads=3)

    written = open_file(tmp_path / "x.safetensors")
    assert {n: bytes(written.read(n)) for n in written.specs} == {
        n: array.tobytes() for n, array in expected.items()
    }


def test_memory_is_that_of_a_chunk_not_of_the_tensor(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "flux")
    kind = GGMLQuantizationType.Q8_0
    values = np.zeros((2000, 8192), "f4")  # 16 M values: 64 MB as float32, 17 MB in blocks
    writer.add_tensor("w", quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    del values
    result = recipe(open_file(tmp_path / "x.gguf"), "F16")
    sink = create(tmp_path / "x.safetensors")

    tracemalloc.start()
    pour(result, sink, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 30e6


def test_a_type_without_a_formula_is_refused_by_name() -> None:
    op = OPS["dequantize"]
    specs = {"a": Spec(QUANTIZED["Q8_K"], (256,)), "b": Spec(QUANTIZED["Q4_K"], (256,))}

    with pytest.raises(
        MismatchError, match=r"(?s)'a' is Q8_K \[256\].*another quantisation"
    ) as caught:
        op.plan([specs], complete("dequantize", op, Params()))

    assert "'b'" not in str(caught.value)


def test_gguf_is_asked_for_only_where_there_are_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memcard.core.extras.find_spec", lambda name: None)
    op = OPS["dequantize"]
    params = complete("dequantize", op, Params())

    assert op.plan([{"a": Spec(DTYPES["F32"], (2,))}], params)[0].copy
    with pytest.raises(UsageError, match=r"pip install 'memcard\[gguf\]'"):
        op.plan([{"a": Spec(QUANTIZED["Q8_0"], (32,))}], params)
