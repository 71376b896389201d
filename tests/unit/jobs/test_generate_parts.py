"""A picture says which files gave what its checkpoint lacks, and is made again with them; a T5 may stay out."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL.PngImagePlugin import PngInfo

from fixtures import flow_models
from fixtures.diffusers_models import save
from memcard.errors import NotFoundError, UsageError
from memcard.jobs._pictures import Result
from memcard.jobs.add import add
from memcard.jobs.generate import run
from memcard.jobs.generate_again import run_again
from memcard.jobs.image_info import read_image
from memcard.store.layout import Layout

SAID = {"steps": 2, "width": 32, "height": 32, "seed": 1, "dtype": "F32", "device": "cpu"}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bare transformer of Flux.1's twin, and what it lacks, under the names people have them by."""
    folder = tmp_path_factory.mktemp("flux")
    parts = flow_models.lone("flux", folder)
    names = {"transformer": "flux1-dev", "clip_l": "clip_l", "t5xxl": "t5xxl_fp16", "vae": "ae"}
    return {part: save(folder / f"{name}.safetensors", parts[part]) for part, name in names.items()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return Layout(tmp_path / "home")


def sd3(folder: Path, *without: str) -> Path:
    folder.mkdir()
    return flow_models.files("sd3", folder, *without)["single file"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pixels(result: Result) -> np.ndarray:
    return np.asarray(result.pictures[0].image)


def kept(result: Result, path: Path) -> dict[str, Any]:
    """Save the picture; return what it says in our JSON."""
    image = result.pictures[0].image
    info = PngInfo()
    for key in ("parameters", "memcard"):
        info.add_text(key, image.info[key])
    image.save(path, pnginfo=info)
    said: dict[str, Any] = json.loads(image.info["memcard"])
    return said


def test_named_and_found_parts_are_told_with_their_hashes(
    flux: dict[str, Path], home: Layout, tmp_path: Path
) -> None:
    add(home, [flux["t5xxl"], flux["vae"]])

    result = run("a cat", flux["transformer"], text_encoders=[flux["clip_l"]], **SAID)

    said = kept(result, tmp_path / "a.png")
    assert {entry["sha256"] for entry in said["parts"]} == {
        sha256(flux[part]) for part in ("clip_l", "t5xxl", "vae")
    }
    assert "t5" not in said, "the family cannot do without"
    info = read_image(tmp_path / "a.png")
    assert {used.hashes[0] for used in info.parts} == {
        sha256(flux[part]) for part in ("clip_l", "t5xxl", "vae")
    }


def test_a_picture_is_made_again_with_the_parts_it_names(
    flux: dict[str, Path], home: Layout, tmp_path: Path
) -> None:
    parts = [flux["clip_l"], flux["t5xxl"], flux["vae"]]
    first = run("a cat", flux["transformer"], text_encoders=parts, **SAID)
    kept(first, tmp_path / "a.png")
    with pytest.raises(NotFoundError, match="--text-encoder") as missing:
        run_again(source=tmp_path / "a.png", device="cpu", dtype="F32")
    assert str(missing.value).count("The part") == 3

    add(home, list(flux.values()))
    again = run_again(source=tmp_path / "a.png", device="cpu", dtype="F32")

    assert np.array_equal(pixels(first), pixels(again))


def test_a_checkpoint_that_is_whole_names_no_parts(home: Layout, tmp_path: Path) -> None:
    said = kept(run("a cat", "starter", **SAID), tmp_path / "a.png")

    assert "parts" not in said
    assert "t5" not in said


def test_a_t5_that_can_be_done_without_stays_out(home: Layout, tmp_path: Path) -> None:
    found = sd3(tmp_path / "whole")
    without = sd3(tmp_path / "bare", "text_encoder_3")

    whole = run("a cat", found, **SAID)
    out = run("a cat", found, t5=False, **SAID)
    bare = run("a cat", without, **SAID)

    assert np.array_equal(pixels(out), pixels(bare))
    assert not np.array_equal(pixels(out), pixels(whole))
    assert "t5" not in kept(whole, tmp_path / "whole.png")
    assert kept(out, tmp_path / "out.png")["t5"] is False
    assert kept(bare, tmp_path / "bare.png")["t5"] is False


def test_a_picture_without_t5_is_made_again_without(home: Layout, tmp_path: Path) -> None:
    found = sd3(tmp_path / "whole")
    first = run("a cat", found, t5=False, **SAID)
    kept(first, tmp_path / "a.png")
    add(home, [found])

    again = run_again(source=tmp_path / "a.png", device="cpu", dtype="F32")
    other = run_again(source=tmp_path / "a.png", device="cpu", dtype="F32", t5=True)

    assert np.array_equal(pixels(first), pixels(again))
    assert not np.array_equal(pixels(first), pixels(other))


def test_a_family_that_needs_its_t5_says_so(flux: dict[str, Path], home: Layout) -> None:
    parts = [flux["clip_l"], flux["t5xxl"], flux["vae"]]

    with pytest.raises(UsageError, match="--no-t5"):
        run("a cat", flux["transformer"], text_encoders=parts, t5=False, **SAID)
