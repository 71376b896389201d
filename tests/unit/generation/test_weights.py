"""Weights from a file into a module: complete, of the right shape, and not copied without need."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import memcard
from fixtures.small import Arrays, save
from memcard.core.architecture import Target
from memcard.core.checkpoint import Checkpoint
from memcard.errors import IntegrityError, MismatchError, UnsupportedError
from memcard.formats import open_file
from memcard.generation.weights import fill, tensor

CPU = torch.device("cpu")
TARGETS = {"a.w": Target("unet", "0.weight"), "a.b": Target("unet", "0.bias")}


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
    targets: Mapping[str, Target] = TARGETS,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    module = empty()
    fill("unet", module, checkpoint, targets, dtype=dtype, device=CPU)
    return module


def test_a_filled_module_computes_with_the_values_of_the_file(tmp_path: Path) -> None:
    module = filled(opened(tmp_path, arrays()))

    assert module(torch.tensor([1.0, 10.0])).tolist() == [11.0, 33.0, 55.0]
    assert not any(p.requires_grad for p in module.parameters())


def test_a_weight_of_the_right_dtype_lies_in_the_mapped_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_IO", "mmap")
    checkpoint = opened(tmp_path, arrays())
    address = np.frombuffer(checkpoint.read("a.w"), np.float32).ctypes.data

    module = filled(checkpoint)

    assert module.state_dict()["0.weight"].data_ptr() == address
    assert tensor(checkpoint, "a.w", (6,)).data_ptr() == address


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


def test_a_convolution_of_one_pixel_is_taken_as_a_matrix(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, arrays(shape=(3, 2, 1, 1)))
    targets = {**TARGETS, "a.w": Target("unet", "0.weight", (3, 2))}

    assert filled(checkpoint, targets).state_dict()["0.weight"].shape == (3, 2)


def test_missing_weights_are_counted_and_named(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {"a.w": arrays()["a.w"]})
    targets = {"a.w": TARGETS["a.w"]}

    with pytest.raises(MismatchError, match=r"the unet lacks 1 of 2 weights: 0\.bias"):
        filled(checkpoint, targets)


def test_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, arrays(shape=(3, 4)))

    with pytest.raises(MismatchError, match=r"'a\.w' is \(3, 4\), needed \(3, 2\)"):
        filled(checkpoint)


def test_weights_of_another_component_do_not_count(tmp_path: Path) -> None:
    targets = {name: Target("vae", target.key) for name, target in TARGETS.items()}

    with pytest.raises(MismatchError, match="lacks 2 of 2"):
        filled(opened(tmp_path, arrays()), targets)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"first 'a\.w': I64 \[3, 2\]"):
        filled(opened(tmp_path, arrays(np.int64)))


def test_tensors_the_module_does_not_have_are_left_alone(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {**arrays(), "a.more": np.zeros(2, np.int64)})
    targets = {**TARGETS, "a.more": Target("unet", "1.weight")}

    assert len(filled(checkpoint, targets).state_dict()) == 2
