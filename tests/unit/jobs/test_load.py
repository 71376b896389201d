from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import memcard
from memcard.core import extras
from memcard.errors import MemcardError, NotFoundError, UsageError


def test_load_gives_what_the_safetensors_package_gives(twin_path: Path) -> None:
    found, expected = memcard.load(twin_path), load_file(twin_path)

    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)


def test_load_takes_names_of_the_starter_and_torch_files(tmp_path: Path) -> None:
    starter = memcard.load("starter")
    torch.save({"state_dict": starter, "epoch": 3}, tmp_path / "x.ckpt")

    found = memcard.load(tmp_path / "x.ckpt")

    assert all(found[name].equal(tensor) for name, tensor in starter.items())


def test_the_old_torch_format_is_loaded_too(tmp_path: Path) -> None:
    made = {"a": torch.randn(3, 4), "b": torch.arange(5), "t": torch.randn(4, 2).t()}
    torch.save(made, tmp_path / "old.pt", _use_new_zipfile_serialization=False)

    found = memcard.load(tmp_path / "old.pt")

    assert all(found[name].equal(tensor) for name, tensor in made.items())


def test_shards_are_loaded_as_one(tmp_path: Path, twin_path: Path) -> None:
    memcard.convert(twin_path, tmp_path / "cut.safetensors", max_shard=4_000_000)

    found = memcard.load(tmp_path / "cut.safetensors.index.json")

    expected = load_file(twin_path)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)


def test_a_delta_is_loaded_as_the_checkpoint_it_makes() -> None:
    base, tuned = memcard.load("starter"), memcard.load("starter/neon")

    assert base.keys() == tuned.keys()
    assert any(not base[name].equal(tuned[name]) for name in base)


def test_load_to_a_device() -> None:
    assert {tensor.device.type for tensor in memcard.load("starter", device="meta").values()} == {
        "meta"
    }


def test_one_tensor_of_an_open_checkpoint(twin_path: Path) -> None:
    with memcard.open(twin_path) as checkpoint:
        name = next(iter(checkpoint.specs))
        tensor = checkpoint.tensor(name)
        some = checkpoint.tensors([name])
    expected = load_file(twin_path)[name]

    assert tensor.equal(expected)  # also after close
    assert some[name].data_ptr() == tensor.data_ptr()
    with pytest.raises(MemcardError, match="closed"):
        checkpoint.tensor(name)


def test_a_name_that_is_not_there(twin_path: Path) -> None:
    with memcard.open(twin_path) as checkpoint, pytest.raises(NotFoundError, match="'nope'"):
        checkpoint.tensor("nope")


def test_without_torch_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, twin_path: Path
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)

    with (
        memcard.open(twin_path) as checkpoint,
        pytest.raises(UsageError, match=r"pip install 'memcard\[torch\]'"),
    ):
        checkpoint.tensors()


def test_opening_does_not_import_torch(twin_path: Path) -> None:
    code = f"import sys, memcard; memcard.open({str(twin_path)!r}); memcard.load; print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
