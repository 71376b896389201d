"""The scripts that make the starter: killed trainings end in the same bits, and what they make is read."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memcard

EXAMPLE = Path(__file__).parents[2] / "examples" / "starter"
BASE = Path(memcard.__file__).parent / "starter" / "base.safetensors"
STYLES = ("3d render", "flat icon", "cartoon", "retro drawing", "black stencil")


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, EXAMPLE / script, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MEMCARD_HOME", None)
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder with pictures of three objects: coloured noise instead of npm packages."""
    return _work(tmp_path)


def _work(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    names = [(thing, style) for thing in ("robot", "pizza", "lion") for style in STYLES]
    rgba = rng.integers(0, 256, (len(names), 64, 64, 4), dtype=np.uint8)
    things, styles = zip(*names, strict=True)
    np.savez_compressed(
        folder / "pictures.npz", rgba=rgba, objects=np.array(things), styles=np.array(styles)
    )
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a base that was trained for two steps, and is a file of the starter."""
    work = _work(tmp_path_factory.mktemp("starter"))
    out = work / "starter"
    out.mkdir()
    run("train.py", "--work", work, "--steps", 2, "--batch", 4)
    run("ship.py", "--work", work, "--out", out, "--force")
    return work


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_training_of_the_starter_ends_in_the_same_bits(work: Path, ranks: int) -> None:
    told = run("killing.py", "--work", work, "--steps", 8, "--ranks", ranks, "--seed", 3)

    assert "tensors of step 8 are the same" in told
    assert "killed 0 times" not in told


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetune_neon", "lora_pixel", "vae_crisp"])
def test_what_is_derived_becomes_a_file_of_the_starter(
    trained: Path, tmp_path: Path, name: str
) -> None:
    work = Path(shutil.copytree(trained, tmp_path / "work"))
    out = work / "starter"
    how = () if name == "vae_crisp" else ("--name", name)
    script = "derive.py" if how else "crisp.py"
    run(script, "--work", work, "--base", out / "base.safetensors", *how, "--steps", 2)
    run("ship.py", "--work", work, "--out", out, "--force")

    made, shipped = out / f"{name}.safetensors", BASE.with_name(f"{name}.safetensors")
    card = json.loads(header(made)["__metadata__"]["memcard.card"])
    assert shapes(made) == shapes(shipped)
    assert card["training"]["steps"] == 2
    assert card["license"] == "Apache-2.0"


def header(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    found: dict[str, Any] = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return found


def shapes(path: Path) -> dict[str, list[int]]:
    return {n: facts["shape"] for n, facts in header(path).items() if n != "__metadata__"}
