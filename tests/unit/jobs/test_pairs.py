from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fixtures.small import save
from memcard.core.checkpoint import Checkpoint
from memcard.formats import open_file
from memcard.jobs._pairs import pair

ONE = np.ones(1, np.float32)
UNET = "model.diffusion_model."


def made(path: Path, *names: str) -> Checkpoint:
    return open_file(save(path, dict.fromkeys(names, ONE)))


def test_equal_names_come_first_and_keep_the_order_of_a(tmp_path: Path) -> None:
    a = made(tmp_path / "a.safetensors", "z", "x", "y")
    b = made(tmp_path / "b.safetensors", "y", "x", "w")

    found = pair(a, b)

    assert dict(found.names) == {"x": "x", "y": "y"}
    assert (list(found.names), found.only_a, found.only_b) == (["x", "y"], ("z",), ("w",))
    assert found.notes == ()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (f"{UNET}out.2.weight", "out.2.weight"),
        (f"{UNET}out.2.weight", "diffusion_model.out.2.weight"),
        ("first_stage_model.quant_conv.weight", "vae.quant_conv.weight"),
        ("transformer.proj_out.weight", "proj_out.weight"),
        ("cond_stage_model.transformer.text_model.x.weight", "text_model.x.weight"),
    ],
)
def test_a_prefix_is_looked_behind_on_either_side(one: str, two: str, tmp_path: Path) -> None:
    a, b = made(tmp_path / "a.safetensors", one), made(tmp_path / "b.safetensors", two)

    assert dict(pair(a, b).names) == {one: two}
    assert dict(pair(b, a).names) == {two: one}
    assert repr(one) in pair(a, b).notes[0]


def test_two_candidates_are_none(tmp_path: Path) -> None:
    a = made(tmp_path / "a.safetensors", "unet.conv.weight", "vae.conv.weight")
    b = made(tmp_path / "b.safetensors", "conv.weight")

    found = pair(a, b)

    assert dict(found.names) == {}
    assert len(found.only_a) == 2


def test_nothing_and_nothing(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a.safetensors"), made(tmp_path / "b.safetensors")

    found = pair(a, b)

    assert (dict(found.names), found.only_a, found.only_b, found.notes) == ({}, (), (), ())
