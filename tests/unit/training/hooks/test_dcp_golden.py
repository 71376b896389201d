"""Sharded saves of version 1 are read for ever: tests/golden/dcp_v1, see docs/spec/dcp.md.

Made by ``python tests/unit/training/hooks/test_dcp_golden.py FOLDER`` with memcard 0.1.0 and torch 2.13.0.
"""

import math
import sys
from pathlib import Path

import pytest
import torch

from fixtures.dcp_ranks import box, load, save_as
from memcard.formats import open_file
from memcard.training.hooks.dcp import saves, verify

GOLDEN = Path(__file__).parents[3] / "golden" / "dcp_v1"


def tensors():
    return {
        "rows": torch.arange(65 * 7.0).reshape(65, 7),
        "columns": torch.arange(12.0).reshape(3, 4).bfloat16(),
        "one": torch.arange(7.0).half(),
        "z": torch.complex(torch.arange(3.0), -torch.arange(3.0)).to(torch.complex128),
        "step": torch.tensor(4.0),
        "none": torch.empty(0, 2),
        "fp8": torch.ones(2).to(torch.float8_e4m3fn),
    }


def plain():
    return {
        "text": "käfer 🦋",
        "numbers": [None, True, -3, 1 << 80, 0.1, -0.0, math.inf],
        "kinds": (torch.float16, torch.Size([2, 3]), {1, 2}, b"\x00\xff"),
        "long": bytes(range(256)) * 5,
        "groups": [{"lr": 0.5, "betas": (0.9, 0.999)}],
    }


def make(folder):
    """Write the golden save, as two processes would."""
    whole = tensors()
    shared = {name: whole[name] for name in ("z", "step", "none", "fp8")}
    first = {
        "rows": box(whole["rows"], (0, 33), (0, 7)),
        "columns": box(whole["columns"], (0, 3), (0, 1)),
        "one": box(whole["one"], (0, 7)),
    }
    second = {
        "rows": box(whole["rows"], (33, 65), (0, 7)),
        "columns": box(whole["columns"], (0, 3), (1, 4)),
        "one": box(whole["one"], (7, 7)),
    }
    save_as(folder, [{"model": part | shared, "run": plain()} for part in (first, second)])


def emptied(value):
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    return {key: emptied(item) for key, item in value.items()} if isinstance(value, dict) else None


def test_a_save_of_version_1_is_loaded():
    found = emptied({"model": tensors(), "run": plain()})
    found["run"]["groups"] = [{"lr": None, "betas": None}]

    load(GOLDEN / "step-4", found)

    assert saves(GOLDEN) == [GOLDEN / "step-4"]
    verify(GOLDEN / "step-4")
    assert repr(found["run"]) == repr(plain())
    for name, tensor in tensors().items():
        assert found["model"][name].dtype == tensor.dtype
        assert torch.equal(found["model"][name], tensor), name


def test_a_save_of_version_1_opens_as_a_checkpoint():
    checkpoint = open_file(GOLDEN / "step-4")

    assert {name: spec.shape for name, spec in checkpoint.specs.items()} == {
        f"model.{name}": tuple(tensor.shape) for name, tensor in tensors().items()
    }
    for name, tensor in tensors().items():
        raw = bytes(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""
        assert checkpoint.read(f"model.{name}") == raw


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "rank-00001.safetensors"])
def test_its_files_are_safetensors(name):
    assert open_file(GOLDEN / "step-4" / name).metadata["format"] == "pt"


if __name__ == "__main__":
    make(Path(sys.argv[1]))
