"""A save of `memcard finetune` promoted: the file that the run itself would have ended in."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixtures import small
from fixtures.diffusers_models import family, save
from fixtures.runs import run_folder
from fixtures.training import write_save
from memcard.errors import MismatchError, NotFoundError
from memcard.formats import open_file
from memcard.jobs import runs
from memcard.jobs.convert import convert
from memcard.jobs.finetune import finetune
from memcard.jobs.library import Library

TINY: dict[str, Any] = {
    "steps": 2, "batch": 2, "width": 64, "height": 64, "prompts": ("a",), "sheet_every": 0,
    "device": "cpu", "checkpointing": False, "precision": "fp32", "lr": 1e-3, "save_every": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("finetune")
    save(root / "d.safetensors", {k: v / 4 for k, v in family("sd1")[1].items()})
    base = root / "sd1.safetensors"
    convert(root / "d.safetensors", base, dialect="ldm", dtype="fp16")
    (root / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a red thing", "a blue thing"):
        image = Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))
        image.save(root / "pictures" / f"{name}.png")
    return base, root / "pictures"


def whole(path):
    opened = open_file(path)
    found = (
        {n: (str(s), bytes(opened.read(n))) for n, s in opened.specs.items()},
        dict(opened.metadata),
    )
    opened.close()
    return found


@pytest.mark.parametrize(
    "options",
    [{"rank": 2}, pytest.param({"rank": 2, "ema": 0.5}, marks=pytest.mark.slow)],
    ids=["lora", "ema"],
)
def test_the_last_save_of_a_lora_is_what_the_run_ended_in(parts, tmp_path, options):
    base, pictures = parts
    made = finetune(base, pictures, tmp_path / "style", **TINY, **options)
    Library().add([base])

    done = runs.promote("style", "newest", "again", average="" if "ema" in options else None)

    tensors, metadata = whole(Library().locate("again"))
    wanted, _ = whole(made.files[0])
    assert tensors == wanted
    assert metadata["ss_network_dim"] == "2"
    assert "ss_num_train_images" not in metadata
    result, card = json.loads(metadata["memcard.finetune"]), json.loads(metadata["memcard.card"])
    assert (result["steps"], card["kind"], len(card["parents"])) == (2, "lora", 2)
    assert json.loads(metadata["memcard.promoted"])["step"] == done.step == 2


@pytest.mark.slow
def test_the_last_save_of_a_whole_fine_tune_is_what_the_run_ended_in(parts, tmp_path):
    base, pictures = parts
    made = finetune(base, pictures, tmp_path / "mine", **TINY)
    Library().add([base])
    runs.promote("mine", "2", "again")
    assert whole(Library().locate("again"))[0] == whole(made.files[0])[0]


def test_without_the_base_it_is_refused(tmp_path, monkeypatch):
    settings = {
        "job": "finetune",
        "base": {"name": "near.safetensors", "sha256": "0" * 64},
        "options": {"kind": "lora", "rank": 2, "steps": 1, "lr": 0.1},
    }
    folder = run_folder(tmp_path / "style", settings=settings)
    write_save(folder, 1)

    with pytest.raises(
        NotFoundError, match=r"near\.safetensors .* the base of style, is not at hand"
    ):
        runs.promote(str(folder), "newest", "again")
    small.save(tmp_path / "near.safetensors", small.weights(1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        MismatchError, match=r"is not the near\.safetensors this run was begun with"
    ):
        runs.promote(str(folder), "newest", "again")
