"""Weights from a file into a module: complete, of the right shape, and not copied without need."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import memcard
from fixtures.small import Arrays, save
from memcard.core.checkpoint import Checkpoint
from memcard.errors import IntegrityError, MismatchError, UnsupportedError
from memcard.formats import open_file
from memcard.generation.parts import Part
from memcard.generation.weights import fill

CPU = torch.device("cpu")
NAMES = {"0.weight": "a.w", "0.bias": "a.b"}


def arrays(dtype: type = np.float32, shape: tuple[int, ...] = (3, 2)) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    size = int(np.prod(shape))
    return {"a.w": np.arange(size, dtype=dtype).reshape(shape), "a.b": np.ones(3, dtype)}


def opened(folder: Path, found: Arrays) -> Checkpoint:
    return open_file(save(folder / "x.safetensors", found))


def empty(bias: bool = True) -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(2, 3, bias=bias))


def filled(
    checkpoint: Checkpoint,
    names: Mapping[str, str] = NAMES,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    module = empty()
    there = {key: name for key, name in names.items() if name in checkpoint.specs}
    fill(Part("unet", checkpoint, there, {}, "x"), module, dtype=dtype, device=CPU)
    return module


def test_a_filled_module_computes_with_the_values_of_the_file(tmp_path: Path) -> None:
    module = filled(opened(tmp_path, arrays()))

    assert module(torch.tensor([1.0, 10.0])).tolist() == [11.0, 33.0, 55.0]
    assert not any(p.requires_grad for p in module.parameters())


def test_weights_lie_as_torch_likes_them_whatever_the_file(tmp_path: Path) -> None:
    for extra in range(0, 64, 8):  # a longer header moves the data
        path = save(tmp_path / f"{extra}.safetensors", arrays(), {"said": "x" * extra})
        state = filled(open_file(path)).state_dict()

        assert {value.data_ptr() % 64 for value in state.values()} == {0}


def test_an_aligned_weight_of_the_right_dtype_is_read_when_it_is_needed(tmp_path: Path) -> None:
    for extra in range(0, 64, 8):
        path = save(tmp_path / f"{extra}.safetensors", arrays(), {"said": "x" * extra})
        checkpoint = open_file(path)
        extent = checkpoint.extent("a.w")
        assert extent is not None
        state = filled(checkpoint).state_dict()
        with path.open("r+b") as file:  # what nobody should do, seen through
            file.seek(extent.offset)
            file.write(np.float32(7).tobytes())

        assert (state["0.weight"].flatten().tolist()[0] == 7) == (extent.offset % 64 == 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_makes_one_exact_copy(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = opened(tmp_path, arrays())

    module = filled(checkpoint, dtype=dtype)

    weight = module.state_dict()["0.weight"]
    assert weight.dtype == dtype
    assert weight.flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_packed_checkpoint_gives_the_same_weights(tmp_path: Path) -> None:
    library = memcard.Library(tmp_path / "library")
    library.add([save(tmp_path / "x.safetensors", arrays())], how="move")
    library.pack()

    with library.open("x") as checkpoint:
        state = filled(checkpoint, dtype=torch.float64).state_dict()

    assert not (tmp_path / "x.safetensors").exists()
    assert state["0.weight"].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert state["0.bias"].tolist() == [1, 1, 1]


def test_weights_that_cannot_be_decoded_end_the_filling(tmp_path: Path) -> None:
    library = memcard.Library(tmp_path / "library")
    library.add([save(tmp_path / "x.safetensors", arrays())], how="move")
    library.pack()
    (pack,) = (tmp_path / "library" / "packs").glob("*/*.pack")

    with library.open("x") as checkpoint:
        values = arrays()["a.w"].tobytes()
        pack.write_bytes(pack.read_bytes().replace(values[8:16], values[:8]))

        with pytest.raises(IntegrityError, match="is damaged"):
            filled(checkpoint)


def test_missing_weights_are_counted_and_named(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {"a.w": arrays()["a.w"]})

    with pytest.raises(MismatchError, match=r"x: the unet lacks 1 of 2 weights: 0\.bias"):
        filled(checkpoint)


def test_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, arrays(shape=(3, 4)))

    with pytest.raises(MismatchError, match=r"'a\.w' is \(3, 4\), needed \(3, 2\)"):
        filled(checkpoint)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"first 'a\.w': I64 \[3, 2\]"):
        filled(opened(tmp_path, arrays(np.int64)))


def test_tensors_the_module_does_not_have_are_left_alone(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {**arrays(), "a.more": np.zeros(2, np.int64)})

    assert len(filled(checkpoint, {**NAMES, "1.weight": "a.more"}).state_dict()) == 2


def test_names_of_clip_with_and_without_their_first_level_are_the_same(tmp_path: Path) -> None:
    names = {f"text_model.{key}": name for key, name in NAMES.items()}

    assert filled(opened(tmp_path, arrays()), names)(torch.ones(2)).tolist() == [2, 6, 10]
