"""Folders that memcard writes are loaded by diffusers, offline, with equal weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from fixtures.diffusers_models import FAMILIES, family, load, save
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.jobs.convert import convert
from memcard.jobs.resolve import starter_folder

T5 = {"sd3": "tokenizer_3", "flux": "tokenizer_2"}
SLOW = ("sd2", "sdxl", "sdxl_refiner", "sd3", "flux")  # loading takes diffusers seconds each


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in FAMILIES],
)
def written(request: Any, tmp_path_factory: Any) -> tuple[str, Path, dict[str, torch.Tensor], Any]:
    """A family, the folder made of its LDM single file, its tensors, and the result."""
    path = tmp_path_factory.mktemp(request.param)
    tensors = family(request.param)[1]
    convert(save(path / "d.safetensors", tensors), path / "ldm.safetensors", dialect="ldm")
    result = convert(path / "ldm.safetensors", f"{path / 'folder'}/", dialect="diffusers")
    return request.param, path / "folder", tensors, result


@pytest.mark.filterwarnings("ignore")
def test_diffusers_loads_the_folder_with_equal_weights(written: Any) -> None:
    name, folder, tensors, result = written

    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)

    models = {n: m for n, m in pipeline.components.items() if isinstance(m, torch.nn.Module)}
    loaded = {f"{n}.{k}": v for n, m in models.items() for k, v in m.state_dict().items()}
    named = {k.replace(".text_model.", "."): v for k, v in tensors.items()}
    loaded = {k.replace(".text_model.", "."): v for k, v in loaded.items()}
    assert loaded.keys() == named.keys()
    assert [k for k in named if not torch.equal(loaded[k], named[k])] == []
    assert not any("tokenizer" in note for note in result.notes)
    if name in T5:
        words = getattr(pipeline, T5[name])
        assert words("a photo of a cat").input_ids == [3, 9, 1202, 13, 3, 9, 1712, 1]


def test_the_folder_becomes_the_single_file_again(written: Any, tmp_path: Path) -> None:
    _, folder, _, _ = written
    convert(folder, tmp_path / "back.safetensors", dialect="ldm")

    one, two = (
        open_file(folder.parent / "ldm.safetensors"),
        open_file(tmp_path / "back.safetensors"),
    )
    assert dict(one.specs).keys() == dict(two.specs).keys()
    assert [n for n in one.specs if one.read(n) != two.read(n)] == []


@pytest.mark.filterwarnings("ignore")
def test_the_tokenizer_gives_the_ids_of_the_packaged_one(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    from memcard.generation.tokenizer import tokenizer
    from memcard.generation.tokenizer_files import tokenizer_files

    for name, text in tokenizer_files("clip").items():
        (tmp_path / name).write_bytes(text)

    found = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)

    prompt = "A photo of 2 cats' whiskers, naïve café (masterpiece:1.2)"
    ids = found(prompt, padding="max_length", max_length=77).input_ids
    assert ids == tokenizer("clip").encode(prompt, 77)[0]


@pytest.mark.filterwarnings("ignore")
def test_one_component_of_a_bare_file_is_a_folder_of_its_own(tmp_path: Path) -> None:
    tensors = family("sd1")[1]
    bare = {n.removeprefix("unet."): v for n, v in tensors.items() if n.startswith("unet.")}
    source = save(tmp_path / "unet.safetensors", bare)

    convert(source, f"{tmp_path / 'unet'}/")

    model = UNet2DConditionModel.from_pretrained(tmp_path / "unet", local_files_only=True)
    assert all(torch.equal(value, bare[name]) for name, value in model.state_dict().items())


def test_parts_that_went_are_no_longer_listed(written: Any, tmp_path: Path) -> None:
    name, folder, _, _ = written
    convert(folder, f"{tmp_path / 'small'}/", without="vae")

    index = json.loads((tmp_path / "small" / "model_index.json").read_text())
    assert index["vae"] == [None, None]
    assert not (tmp_path / "small" / "vae").exists()
    tokenizer = "tokenizer_2" if name == "sdxl_refiner" else "tokenizer"
    assert (tmp_path / "small" / tokenizer / "vocab.json").exists()


def test_a_folder_needs_names_that_a_dictionary_knows(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", {"strange.weight": torch.ones(2)})

    with pytest.raises(MismatchError, match="a diffusers folder needs diffusers' names"):
        convert(source, f"{tmp_path / 'folder'}/")
    with pytest.raises(UsageError, match="Leave --dialect ldm out"):
        convert(source, f"{tmp_path / 'folder'}/", dialect="ldm")

    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_dtype_of_a_config_follows_the_weights(written: Any, tmp_path: Path) -> None:
    name, folder, _, _ = written
    part = "text_encoder_2" if name == "sdxl_refiner" else "text_encoder"
    source = tmp_path / "copy"
    convert(folder, f"{source}/")
    config = source / part / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "torch_dtype": "float32"}))

    convert(source, f"{tmp_path / 'half'}/", dtype="bf16")

    there = json.loads((tmp_path / "half" / part / "config.json").read_text())
    assert there["torch_dtype"] == "bfloat16"


def test_the_starter_becomes_the_folder_it_was_trained_in(tmp_path: Path) -> None:
    convert("starter", f"{tmp_path / 'starter'}/")

    for path in sorted((starter_folder() / "config").glob("*/*config.json")):
        if path.parent.name == "tokenizer":
            continue  # says in other words what vocab.json and merges.txt are
        trained = json.loads(path.read_text("utf-8"))
        place = path.relative_to(starter_folder() / "config")
        mine = json.loads((tmp_path / "starter" / place).read_text("utf-8"))
        mine.pop("pad_token_id", None)  # CLIP never looks at it
        assert {key: trained[key] for key in mine if key in trained} == mine, place


def test_v_prediction_is_said_in_the_scheduler_or_in_words(tmp_path: Path) -> None:
    tensors = family("sdxl")[1]
    ldm = tmp_path / "ldm.safetensors"
    convert(save(tmp_path / "d.safetensors", tensors), ldm, dialect="ldm")
    marked = {**load(open_file(ldm)), "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    source = save(tmp_path / "v.safetensors", marked)

    file = convert(source, tmp_path / "vd.safetensors", dialect="diffusers")
    convert(source, f"{tmp_path / 'folder'}/")

    scheduler = (tmp_path / "folder" / "scheduler" / "scheduler_config.json").read_text()
    assert json.loads(scheduler)["prediction_type"] == "v_prediction"
    assert json.loads(scheduler)["rescale_betas_zero_snr"] is True
    assert open_file(file.path).metadata["modelspec.prediction_type"] == "v"
    assert any("Markers left out: v_pred, ztsnr" in note for note in file.notes)
