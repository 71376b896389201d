"""A base that learns is told what diffusers' own pipelines tell it; what comes back is the file it was."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from fixtures.diffusers_models import family, save
from memcard.errors import MismatchError
from memcard.formats import open_file
from memcard.generation.load import load
from memcard.generation.parts import assemble
from memcard.generation.tokenizer_files import tokenizer_files
from memcard.jobs._finetune_models import Base, build, read_base
from memcard.jobs._finetune_tuned import Tuned
from memcard.jobs.convert import convert

SLOW = ("sd2", "sdxl")


@pytest.fixture(
    scope="module", params=["sd1", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]
)
def path(request: Any, tmp_path_factory: Any) -> Path:
    root: Path = tmp_path_factory.mktemp(request.param)
    save(root / "d.safetensors", {k: v / 4 for k, v in family(request.param)[1].items()})
    convert(root / "d.safetensors", root / f"{request.param}.safetensors", dialect="ldm")
    return root / f"{request.param}.safetensors"


@pytest.fixture(scope="module")
def base(path: Path) -> Iterator[Base]:
    checkpoint = open_file(path)
    yield read_base(checkpoint, path.name)
    checkpoint.close()


@pytest.mark.filterwarnings("ignore")
def test_words_and_latents_are_those_of_diffusers(base: Base, path: Path, tmp_path: Path) -> None:
    convert(path, f"{tmp_path / 'folder'}/", dtype="fp32")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    model = build(base, device="cpu")
    prompts = ["a red thing on a table", "two"]
    picture = torch.rand(1, 3, 64, 64) * 2 - 1

    with torch.no_grad():
        ours = model.words(prompts)
        theirs = pipeline.encode_prompt(
            prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        mean = pipeline.vae.encode(picture).latent_dist.mean * pipeline.vae.config.scaling_factor

    assert torch.allclose(ours.states, theirs[0], atol=1e-5)
    assert (ours.pooled is not None) == (base.family == "sdxl")
    if ours.pooled is not None:
        assert torch.allclose(ours.pooled, theirs[2], atol=1e-5)
    assert torch.allclose(model.encode(picture), mean, atol=1e-5)
    assert model.factor == pipeline.vae_scale_factor


def test_the_numbers_of_the_base_are_read_off_it(base: Base) -> None:
    assert {"sd1": (64, (512, 512)), "sd2": (64, (768, 768)), "sdxl": (32, (1024, 1024))}[
        base.family
    ] == (base.step, base.size)
    assert (
        base.prediction == {"sd1": "epsilon", "sd2": "v_prediction", "sdxl": "epsilon"}[base.family]
    )


def test_a_base_that_learnt_nothing_comes_back_byte_for_byte(base: Base) -> None:
    model = build(base, device="cpu")
    same = {
        f"{part}.{name}": value
        for part, module in model.modules().items()
        for name, value in module.named_parameters()
    }

    tuned = Tuned(base, same, {})

    assert tuned.notes == ()
    assert set(tuned.specs) == set(base.source.specs)
    assert tuned.learnt
    assert all(tuned.read(n) == base.source.read(n) for n in base.source.specs)


def test_one_weight_that_learnt_changes_its_own_tensor_alone(base: Base) -> None:
    name = "unet.conv_in.weight"
    value = torch.full(base.view.specs[name].shape, 0.25)

    tuned = Tuned(base, {name: value}, {})
    into = memoryview(bytearray(8))
    (changed,) = tuned.learnt
    tuned.readinto(changed, into, 8)

    assert (np.frombuffer(tuned.read(changed), np.float32) == 0.25).all()
    assert np.frombuffer(into, np.float32).tolist() == [0.25, 0.25]
    assert tuned.extent(changed) is None
    other = next(n for n in tuned.specs if n != changed)
    assert tuned.extent(other) == base.source.extent(other)


def test_values_the_dtype_cannot_hold_are_refused(path: Path, tmp_path: Path) -> None:
    convert(path, tmp_path / "half.safetensors", dtype="fp16")
    checkpoint = open_file(tmp_path / "half.safetensors")
    half = read_base(checkpoint, "half")
    name = "unet.conv_in.weight"

    with pytest.raises(MismatchError, match=r"1 tensors hold values that F16.* cannot.*conv_in"):
        Tuned(half, {name: torch.full(half.view.specs[name].shape, 1e6)}, {})
    checkpoint.close()


def test_a_part_alone_is_refused_with_what_it_lacks(path: Path, tmp_path: Path) -> None:
    convert(path, tmp_path / "part.safetensors", without="vae")
    checkpoint = open_file(tmp_path / "part.safetensors")

    with pytest.raises(MismatchError, match="part: lacks vae"):
        read_base(checkpoint, "part")
    checkpoint.close()


def test_a_base_is_told_what_it_predicts_where_its_file_does_not_say(base: Base) -> None:
    other = "epsilon" if base.prediction == "v_prediction" else "v_prediction"

    assert read_base(base.source, "x", prediction=other).prediction == other
    with pytest.raises(MismatchError, match="--prediction"):
        read_base(base.source, "x", prediction="flow")


@pytest.mark.parametrize("name", ["sd1", pytest.param("sd2", marks=pytest.mark.slow), "sdxl"])
def test_its_networks_are_those_that_paint(name: str, tmp_path: Path) -> None:
    save(tmp_path / "d.safetensors", {k: v / 4 for k, v in family(name)[1].items()})
    with closing(open_file(tmp_path / "d.safetensors")) as checkpoint:
        painting = load(assemble(checkpoint, name), device="cpu", dtype="BF16", encoder=True)
        model = build(read_base(checkpoint, name), device="cpu", precision="bf16")
        mine = {"unet": model.unet, **{text.name: text.module for text in model.texts}}

    for component, module in mine.items():
        theirs, ours = painting.modules[component].state_dict(), module.state_dict()
        assert type(module) is type(painting.modules[component])
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert {t.dtype for t in model.vae.state_dict().values()} == {torch.float32}


def test_what_learns_is_no_window_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_IO", "mmap")
    path = tmp_path / "d.safetensors"
    save(path, {k: v / 4 for k, v in family("sd1")[1].items()})
    before = path.read_bytes()

    with closing(open_file(path)) as checkpoint:
        model = build(read_base(checkpoint, "d"), device="cpu")
        with torch.no_grad():
            for module in (model.unet, model.vae, model.texts[0].module):
                for parameter in module.parameters():
                    parameter.add_(1)

    assert path.read_bytes() == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_prompts_are_padded_as_transformers_does(name: str, tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    save(tmp_path / "d.safetensors", {k: v / 4 for k, v in family(name)[1].items()})
    for file, content in tokenizer_files({"sd1": "clip", "sd2": "clip_bang"}[name]).items():
        (tmp_path / file).write_bytes(content)
    prompts = ["", "a cat", "a <|endoftext|> in the middle", "long " * 90]
    theirs = CLIPTokenizer.from_pretrained(str(tmp_path))(
        prompts, padding="max_length", max_length=77, truncation=True
    )["input_ids"]

    with closing(open_file(tmp_path / "d.safetensors")) as checkpoint:
        (text,) = build(read_base(checkpoint, "d"), device="cpu").texts

    assert [text.tokens(prompt)[0] for prompt in prompts] == theirs
