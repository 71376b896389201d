"""Out of a picture, under a mask, and a second time: the bits of diffusers' own pipelines."""

import warnings
from collections.abc import Iterator
from contextlib import closing
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
from memcard.generation.passes import Larger, Picture, check, enlarge, paint
from memcard.generation.preview import preview
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose
from memcard.jobs.convert import convert

PROMPT = "a photo of a cat"
USED = {"width": 64, "height": 64, "steps": 6, "cfg": 4.0, "negative": "blurry"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("sd1")
    save(root / "d.safetensors", {k: v / 4 for k, v in family("sd1")[1].items()})
    convert(root / "d.safetensors", root / "sd1.safetensors", dialect="ldm")
    convert(root / "sd1.safetensors", f"{root / 'folder'}/")
    return root / "folder"


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Iterator[Pipeline]:
    with closing(open_file(folder)) as checkpoint:
        yield load(assemble(checkpoint, "folder"), device="cpu", dtype="F32", encoder=True)


@pytest.fixture(scope="module")
def components(folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    for module in found.components.values():
        if isinstance(module, torch.nn.Module):
            for weight in module.parameters():
                weight.data = weight.data.clone()
    return found.components


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def mask() -> Tensor:
    found = torch.zeros(64, 64)
    found[16:48, 8:40] = 1
    return found


def settings(**said: Any) -> Settings:
    return choose(ARCHITECTURES["sd1"], {}, {**USED, **said})


def theirs(components: Any, kind: str, sampler: str, used: Settings, **more: Any) -> Tensor:
    import diffusers

    scheduler = getattr(diffusers, sampler).from_config(components["scheduler"].config)
    pipe = getattr(diffusers, kind)(
        **{**components, "scheduler": scheduler}, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    found: Tensor = pipe(
        PROMPT,
        negative_prompt=used.negative,
        num_inference_steps=used.steps,
        guidance_scale=used.cfg,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
        **more,
    ).images
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        ("euler", "EulerDiscreteScheduler"),
        ("ddim", "DDIMScheduler"),
        ("dpmpp_2m", "DPMSolverMultistepScheduler"),
        ("euler_a", "EulerAncestralDiscreteScheduler"),
    ],
)
def test_a_picture_as_the_start(
    pipeline: Pipeline, components: Any, pixels: Tensor, sampler: str, scheduler: str
) -> None:
    used = settings(sampler=sampler)
    told = conditions(pipeline, PROMPT, used.negative, used)

    _, mine = paint(pipeline, told, used, 5, picture=Picture(pixels, 0.6))
    want = theirs(
        *(components, "StableDiffusionImg2ImgPipeline", scheduler, used),
        image=pixels.permute(2, 0, 1)[None],
        strength=0.6,
    )

    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_mask_keeps_what_is_beside_it(
    pipeline: Pipeline, components: Any, pixels: Tensor, mask: Tensor, strength: float
) -> None:
    used = settings(sampler="euler")
    told = conditions(pipeline, PROMPT, used.negative, used)

    shown, mine = paint(pipeline, told, used, 5, picture=Picture(pixels, strength, mask))
    want = theirs(
        *(components, "StableDiffusionInpaintPipeline", "EulerDiscreteScheduler", used),
        image=pixels.permute(2, 0, 1)[None],
        mask_image=mask[None, None],
        strength=strength,
        width=64,
        height=64,
    )

    assert float((mine - want).abs().max()) == 0.0
    assert torch.equal(shown[0][mask == 0], pixels[mask == 0])  # to the last bit, where it stays
    assert not torch.equal(shown[0][mask == 1], pixels[mask == 1])


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model with nine channels."""
    root: Path = tmp_path_factory.mktemp("inpainting")
    tensors = {k: v / 4 for k, v in family("sd1")[1].items()}
    first = tensors["unet.conv_in.weight"]
    more = torch.randn(len(first), 5, 3, 3, generator=torch.Generator().manual_seed(2)) / 40
    tensors["unet.conv_in.weight"] = torch.cat([first, more], dim=1)
    save(root / "d.safetensors", tensors)
    convert(root / "d.safetensors", f"{root / 'folder'}/")
    return root / "folder"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_an_inpainting_model_sees_the_masked_picture(
    inpainting: Path, components: Any, pixels: Tensor, mask: Tensor, strength: float
) -> None:
    from diffusers import UNet2DConditionModel

    used = settings(sampler="euler")
    with closing(open_file(inpainting)) as checkpoint:
        pipeline = load(assemble(checkpoint, "x"), device="cpu", dtype="F32", encoder=True)
    unet = UNet2DConditionModel.from_pretrained(inpainting / "unet")
    for weight in unet.parameters():
        weight.data = weight.data.clone()
    told = conditions(pipeline, PROMPT, used.negative, used)

    _, mine = paint(pipeline, told, used, 5, picture=Picture(pixels, strength, mask))
    want = theirs(
        {**components, "unet": unet},
        *("StableDiffusionInpaintPipeline", "EulerDiscreteScheduler", used),
        image=pixels.permute(2, 0, 1)[None],
        mask_image=mask[None, None],
        strength=strength,
        width=64,
        height=64,
    )

    assert float((mine - want).abs().max()) == 0.0
    with pytest.raises(UsageError, match="inpainting model"):
        paint(pipeline, told, used, 5)


def test_little_strength_keeps_the_picture_and_much_forgets_it(
    pipeline: Pipeline, pixels: Tensor
) -> None:
    used = settings(sampler="euler", steps=10)
    told = conditions(pipeline, PROMPT, used.negative, used)
    start = paint(pipeline, told, used, 5)[0][0]

    near, far = (
        paint(pipeline, told, used, 6, picture=Picture(start, strength))[1]
        for strength in (0.1, 1.0)
    )
    begun = paint(pipeline, told, used, 5)[1]

    assert float((near - begun).abs().mean()) < float((far - begun).abs().mean())


def test_a_strength_that_leaves_no_step_is_refused(pipeline: Pipeline, pixels: Tensor) -> None:
    used = settings(steps=4)
    told = conditions(pipeline, PROMPT, used.negative, used)

    with pytest.raises(UsageError, match=r"leaves no step of 4\. Use 0\.25 or more"):
        paint(pipeline, told, used, 5, picture=Picture(pixels, 0.2))


@pytest.mark.parametrize("upscaler", ["lanczos", "latent"])
def test_the_second_pass_is_larger_and_begins_with_the_first(
    pipeline: Pipeline, upscaler: Any
) -> None:
    first, larger = settings(sampler="euler"), Larger(1.5, 0.3, None, upscaler)
    second = larger.settings(first, 8)
    told = conditions(pipeline, PROMPT, first.negative, first)
    base = paint(pipeline, told, first, 5)

    shown, latents = enlarge(pipeline, told, base, second, larger, 5)

    assert shown.shape == (1, 96, 96, 3)
    assert latents.shape[-2:] == (12, 12)
    again, _ = enlarge(pipeline, told, base, second, larger, 5)
    assert torch.equal(shown, again)
    # what changes little stays with the first pass, and so with each other; all of it anew does not
    held, near, lost = (
        enlarge(pipeline, told, base, x.settings(first, 8), x, 5)[1]
        for x in (Larger(1.5, strength, None, upscaler) for strength in (0.05, 0.1, 1.0))
    )
    assert float((held - near).abs().mean()) < float((lost - near).abs().mean()) / 2


def test_a_preview_has_the_colours_of_the_picture(starter_pipeline: Pipeline) -> None:
    used = choose(ARCHITECTURES["starter"], {}, {"steps": 8})
    told = conditions(starter_pipeline, "3d render of a red apple, sky blue background", "", used)
    pixels, latents = paint(starter_pipeline, told, used, 4)

    import numpy as np

    small = np.asarray(preview(starter_pipeline, latents, side=64), np.float32) / 255
    want = pixels[0].numpy()

    assert small.shape == want.shape
    assert np.abs(small - want).mean() < 0.12
    assert np.corrcoef(small.ravel(), want.ravel())[0, 1] > 0.8


@pytest.mark.parametrize(
    ("picture", "larger", "says"),
    [
        (Picture(torch.zeros(1, 1, 3), 0.0), None, "strength 0 is not in 0..1"),
        (None, Larger(1.0), "hires scale 1 is not above 1"),
        (None, Larger(9.0), "hires scale 9 is not"),
        (None, Larger(2.0, 1.5), "hires strength 1.5 is not"),
        (None, Larger(2.0, 0.5, 0), "hires steps 0"),
    ],
)
def test_numbers_out_of_range_are_refused(picture: Any, larger: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check(picture, larger)
