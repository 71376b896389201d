"""Stable Diffusion 2 depth paints what diffusers' own pipeline does."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.diffusers_models import family, save
from memcard.architectures import ARCHITECTURES
from memcard.errors import UsageError
from memcard.formats import open_file
from memcard.generation.denoise import conditions
from memcard.generation.engine import Pipeline
from memcard.generation.load import load
from memcard.generation.parts import assemble
from memcard.generation.passes import Larger, Picture, enlarge, paint
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose
from memcard.jobs.convert import convert

PROMPT = "a photo of a cat"
USED = {"width": 64, "height": 64, "steps": 4, "negative": "blurry", "cfg": 4.0, "sampler": "euler"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("depth")
    tensors = {k: v / 4 for k, v in family("sd2")[1].items()}
    first = tensors["unet.conv_in.weight"]
    more = torch.randn(len(first), 1, 3, 3, generator=torch.Generator().manual_seed(2)) / 40
    tensors["unet.conv_in.weight"] = torch.cat([first, more], dim=1)
    save(root / "d.safetensors", tensors)
    convert(root / "d.safetensors", f"{root / 'folder'}/")
    return root / "folder"


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    found = load(assemble(open_file(folder), "depth"), device="cpu", dtype="F32", encoder=True)
    for module in found.modules.values():
        for value in module.parameters():
            value.data = value.data.clone()
    return found


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
        own = {n: pipe.components[n] for n in ("vae", "text_encoder", "tokenizer", "unet")}
        scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        found = diffusers.StableDiffusionDepth2ImgPipeline(
            **own, scheduler=scheduler, depth_estimator=None, feature_extractor=None
        )
    for name in ("vae", "text_encoder", "unet"):
        own[name].requires_grad_(requires_grad=False)
        for weight in own[name].parameters():
            weight.data = weight.data.clone()
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def depths() -> Tensor:
    return torch.rand(64, 64, 1, generator=torch.Generator().manual_seed(2)).expand(64, 64, 3)


def settings(pipeline: Pipeline, **said: Any) -> Settings:
    usual = {"prediction_type": pipeline.prediction}
    return choose(ARCHITECTURES[pipeline.architecture], {}, {**USED, **said}, usual)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cfg", [4.0, 1.0])
def test_the_bits_are_those_of_diffusers(
    pipeline: Pipeline, theirs: Any, pixels: Tensor, depths: Tensor, cfg: float
) -> None:
    used = settings(pipeline, cfg=cfg)
    told = conditions(pipeline, PROMPT, used.negative, used)

    mine = paint(pipeline, told, used, 5, picture=Picture(pixels, 0.75), control=depths)[1]
    other = paint(pipeline, told, used, 5, picture=Picture(pixels, 0.75), control=1 - depths)[1]
    want = theirs(
        PROMPT,
        image=pixels.permute(2, 0, 1)[None],
        depth_map=depths[None, ..., 0],
        strength=0.75,
        negative_prompt="blurry",
        num_inference_steps=4,
        guidance_scale=cfg,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
    ).images

    assert torch.isfinite(mine).all()
    assert float((mine - other).abs().max()) > 1e-4  # the map counts
    assert float((mine - want).abs().max()) == 0.0


def test_a_run_without_a_map_is_refused(pipeline: Pipeline, pixels: Tensor, depths: Tensor) -> None:
    used = settings(pipeline)
    told = conditions(pipeline, PROMPT, used.negative, used)
    picture = Picture(pixels, 0.75)

    for given in ({}, {"picture": picture}, {"control": depths}):
        with pytest.raises(UsageError, match=r"Name the picture with --image and its map"):
            paint(pipeline, told, used, 5, **given)
    with pytest.raises(UsageError, match="of one grey"):
        paint(pipeline, told, used, 5, picture=picture, control=torch.ones(64, 64, 3))
    first = (pixels[None], torch.zeros(1, 4, 8, 8))
    with pytest.raises(UsageError, match="use the upscaler lanczos"):
        enlarge(pipeline, told, first, used, Larger(2.0, upscaler="latent"), 5)
