"""Base, LoRA and residual give the fine-tune back, bit for bit."""

import json

import numpy as np
import pytest

from fixtures import small
from memcard.errors import MismatchError, UsageError
from memcard.jobs.delta import delta_apply
from memcard.jobs.lora import lora_bake
from memcard.jobs.lora_extract import lora_extract


@pytest.fixture
def pair(tmp_path):
    """A base, and a fine-tune that changes a layer, a convolution, a bias, and adds a tensor."""
    rng = np.random.default_rng(0)
    base = {
        "a.weight": rng.standard_normal((48, 40)).astype("f2"),
        "c.weight": rng.standard_normal((8, 6, 3, 3)).astype("f2"),
        "a.bias": rng.standard_normal(48).astype("f2"),
        "same.weight": rng.standard_normal((20, 20)).astype("f2"),
    }
    low = rng.standard_normal((48, 2)) @ rng.standard_normal((2, 40)) / 20
    tuned = base | {
        "a.weight": (base["a.weight"] + low + rng.standard_normal((48, 40)) / 500).astype("f2"),
        "c.weight": base["c.weight"] * np.float16(1.01),
        "a.bias": base["a.bias"] + np.float16(0.5),
        "new": np.arange(3),
    }
    files = (("base", base), ("tuned", tuned))
    return tuple(small.save(tmp_path / f"{n}.safetensors", a, {"k": n}) for n, a in files)


@pytest.mark.parametrize("rank", [1, 8])
def test_base_and_lora_and_residual_are_the_fine_tune(pair, tmp_path, rank):
    base, tuned = pair
    rest = tmp_path / "rest.safetensors"

    made = lora_extract(base, tuned, tmp_path / "l.safetensors", rank=rank, residual=rest)

    styled = lora_bake(base, [(made.out, 1.0)], tmp_path / "styled.safetensors").out
    assert styled.read_bytes() != tuned.read_bytes()
    back = delta_apply(styled, rest, out=tmp_path / "back.safetensors")
    assert back.out.read_bytes() == tuned.read_bytes()
    assert made.residual is not None
    assert made.residual.out == rest
    facts = json.loads(json.dumps(made.to_dict()))
    assert facts["residual"]["nbytes"] == rest.stat().st_size


def test_nothing_but_the_two_files_is_left(pair, tmp_path):
    before = set(tmp_path.iterdir())

    lora_extract(*pair, tmp_path / "l.safetensors", rank=2, residual=tmp_path / "r.safetensors")

    assert {p.name for p in set(tmp_path.iterdir()) - before} == {
        "l.safetensors",
        "r.safetensors",
    }


def test_the_residual_of_another_lora_is_refused(pair, tmp_path):
    rest = tmp_path / "rest.safetensors"
    lora_extract(*pair, tmp_path / "l.safetensors", rank=2, residual=rest)
    other = lora_extract(*pair, tmp_path / "o.safetensors", rank=4)
    styled = lora_bake(pair[0], [(other.out, 1.0)], tmp_path / "styled.safetensors").out

    with pytest.raises(MismatchError, match=r"base\+l\.safetensors"):
        delta_apply(styled, rest, out=tmp_path / "back.safetensors")


def test_a_better_lora_leaves_a_smaller_residual(pair, tmp_path):
    sizes = [
        lora_extract(
            *pair,
            tmp_path / f"l{rank}.safetensors",
            rank=rank,
            residual=tmp_path / f"r{rank}.safetensors",
        ).residual.nbytes
        for rank in (1, 2)
    ]

    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [("l.safetensors", "name of the LoRA"), ("r.ckpt", "safetensors file"), ("tuned.safetensors", "input")],
)  # fmt: skip
def test_a_residual_that_cannot_be_is_refused_before_the_work(pair, tmp_path, name, text):
    with pytest.raises(UsageError, match=text):
        lora_extract(*pair, tmp_path / "l.safetensors", residual=tmp_path / name)

    assert not (tmp_path / "l.safetensors").exists()


def test_a_residual_between_dialects_is_refused_with_a_way_out(pair, tmp_path):
    other = small.save(tmp_path / "o.safetensors", {"unet.a.weight": np.ones((4, 4), "f2")})

    with pytest.raises(MismatchError, match="--dialect"):
        lora_extract(
            pair[0], other, tmp_path / "l.safetensors", residual=tmp_path / "r.safetensors"
        )
