from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16, float8_e4m3fn

from fixtures.gguf_bytes import ARCHITECTURE, BF16, F32, Q4_0, Q8_0, Info, gguf
from fixtures.small import array_of, save
from memcard.core.tensors import Spec
from memcard.core.views import Arrangement, Piece, Rearranged
from memcard.errors import NotFoundError, UnsupportedError
from memcard.formats import open_file
from memcard.generation.unpacked import Unpacked, unpacked

F8 = np.dtype(float8_e4m3fn)


def values(shape: tuple[int, ...], seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def fp8(path: Path, scale: Any, *, leaf: str = "scale_weight", **more: Any) -> Path:
    weight = values((6, 4)).astype(F8)
    tensors = {"a.weight": weight, f"a.{leaf}": scale, "a.bias": values((6,)), **more}
    return save(path, tensors)


def in_blocks(path: Path) -> tuple[Path, Any]:
    from gguf import GGMLQuantizationType as Kind
    from gguf.quants import dequantize, quantize

    eight = quantize(values((6, 64)), Kind.Q8_0)
    four = quantize(values((4, 32), 1), Kind.Q4_0)
    plain = values((8,), 2)
    content = gguf(
        [
            Info(b"eight", [64, 6], Q8_0, eight.tobytes()),
            Info(b"four", [32, 4], Q4_0, four.tobytes()),
            Info(b"plain", [8], F32, plain.tobytes()),
            Info(b"half", [8], BF16, plain.astype(bfloat16).tobytes()),
        ],
        [ARCHITECTURE],
    )
    path.write_bytes(content)
    want = {"eight": dequantize(eight, Kind.Q8_0), "four": dequantize(four, Kind.Q4_0)}
    return path, want | {"plain": plain}


@pytest.mark.parametrize("leaf", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("shape", [(), (1,), (6,), (6, 1)])
def test_a_scaled_weight_is_multiplied(leaf: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    scale = np.full(shape, 0.25, np.float32) * (1 + np.arange(max(1, int(np.prod(shape))))).reshape(
        shape
    )
    scale = scale.astype(np.float32)
    source = open_file(fp8(tmp_path / "a.safetensors", scale, leaf=leaf))

    found = unpacked(source, "a")

    want = array_of(source, "a.weight").astype(np.float32) * (
        scale.reshape(-1, 1) if scale.size > 1 else scale.reshape(())
    )
    assert list(found.specs) == ["a.weight", "a.bias"]
    assert np.array_equal(array_of(found, "a.weight"), want)
    assert found.extent("a.weight") is None
    assert found.extent("a.bias") == source.extent("a.bias")


def test_markers_are_no_weights(tmp_path: Path) -> None:
    more: dict[str, Any] = {"scaled_fp8": np.zeros(0, F8), "a.input_scale": np.ones(1, np.float32)}
    source = open_file(fp8(tmp_path / "a.safetensors", np.ones(1, np.float32), **more))

    assert list(unpacked(source, "a").specs) == ["a.weight", "a.bias"]


def test_what_is_not_packed_stays_the_same_object(tmp_path: Path) -> None:
    plain = open_file(save(tmp_path / "plain.safetensors", {"a.weight": values((2, 2))}))
    eight = {"a.weight": values((2, 2)).astype(F8)}  # torch widens these itself
    bare = open_file(save(tmp_path / "bare.safetensors", eight))

    assert unpacked(plain, "plain") is plain
    assert unpacked(bare, "bare") is bare


def test_blocks_of_gguf_are_their_numbers(tmp_path: Path) -> None:
    path, want = in_blocks(tmp_path / "a.gguf")
    source = open_file(path)

    found = unpacked(source, "a")

    assert isinstance(found, Unpacked)
    for name, array in want.items():
        assert str(found.specs[name].dtype) == "F32"
        assert np.array_equal(array_of(found, name), array), name
    assert str(found.specs["half"].dtype) == "BF16"


@pytest.mark.parametrize(("offset", "size"), [(0, 4), (6, 11), (127, 1), (100, 700), (1535, 1)])
@pytest.mark.parametrize("kind", ["gguf", "fp8"])
def test_any_run_of_bytes_can_be_read(kind: str, offset: int, size: int, tmp_path: Path) -> None:
    if kind == "gguf":
        name, found = "eight", unpacked(open_file(in_blocks(tmp_path / "a.gguf")[0]), "a")
    else:
        scale = np.arange(1, 7, dtype=np.float32)
        weight = values((6, 64)).astype(F8)
        tensors = {"a.weight": weight, "a.scale_weight": scale}
        name = "a.weight"
        found = unpacked(open_file(save(tmp_path / "a.safetensors", tensors)), "a")
    into = memoryview(bytearray(size))

    found.readinto(name, into, offset)

    assert bytes(into) == bytes(found.read(name))[offset : offset + size]


def test_rows_can_be_taken_apart(tmp_path: Path) -> None:
    """As query, key and value of one matrix are."""
    path, want = in_blocks(tmp_path / "a.gguf")
    whole = unpacked(open_file(path), "a")
    rows = 2 * 64 * 4
    spec = Spec(whole.specs["eight"].dtype, (2, 64))

    view = Rearranged(whole, {"key": Arrangement(spec, (Piece("eight", rows, rows),))})

    assert np.array_equal(array_of(view, "key"), want["eight"][2:4])


def test_other_ways_of_packing_are_refused(tmp_path: Path) -> None:
    four = {"a.weight": values((2, 2)).astype(F8), "a.weight_scale_2": np.ones(1, np.float32)}
    source = open_file(save(tmp_path / "a.safetensors", four))

    with pytest.raises(
        UnsupportedError, match=r"flux\.safetensors: its weights are packed as NVFP4"
    ):
        unpacked(source, "flux.safetensors")


def test_scales_of_another_shape_are_refused(tmp_path: Path) -> None:
    source = open_file(fp8(tmp_path / "a.safetensors", np.ones((3, 2), np.float32)))

    with pytest.raises(UnsupportedError, match=r"'a.weight' is F8_E4M3 \[6, 4\] with a scale F32"):
        unpacked(source, "a")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    found = unpacked(open_file(in_blocks(tmp_path / "a.gguf")[0]), "a")

    with pytest.raises(NotFoundError, match="no tensor 'nothing'"):
        found.readinto("nothing", memoryview(bytearray(4)))
