"""A mask on SDXL, and its inpainting model of nine channels: the bits of diffusers' pipeline."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.diffusers_models import family, save
from memcard.architectures import ARCHITECTURES
from memcard.formats import open_file
from memcard.generation.denoise import conditions
from memcard.generation.load import load
from memcard.generation.parts import assemble
from memcard.generation.passes import Picture, paint
from memcard.generation.settings import resolve as choose
from memcard.jobs.convert import convert

PROMPT = "a photo of a cat"
USED = {"width": 64, "height": 64, "steps": 5, "negative": "blurry", "cfg": 4.0, "sampler": "euler"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[4, 9])
def models(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Ours and theirs."""
    import diffusers

    root: Path = tmp_path_factory.mktemp("xl")
    tensors = {k: v / 4 for k, v in family("sdxl")[1].items()}
    if request.param == 9:
        first = tensors["unet.conv_in.weight"]
        more = torch.randn(len(first), 5, 3, 3, generator=torch.Generator().manual_seed(2)) / 40
        tensors["unet.conv_in.weight"] = torch.cat([first, more], dim=1)
    save(root / "d.safetensors", tensors)
    convert(root / "d.safetensors", f"{root / 'folder'}/")
    ours = load(assemble(open_file(root / "folder"), "x"), device="cpu", dtype="F32", encoder=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = diffusers.StableDiffusionXLInpaintPipeline
        theirs = kind.from_pretrained(root / "folder", local_files_only=True)
    theirs.scheduler = diffusers.EulerDiscreteScheduler.from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    for module in (*ours.modules.values(), *theirs.components.values()):
        if isinstance(module, torch.nn.Module):
            for weight in module.requires_grad_(requires_grad=False).parameters():
                weight.data = weight.data.clone()
    return ours, theirs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_mask_on_sdxl(models: tuple[Any, Any], strength: float) -> None:
    pipeline, theirs = models
    pixels: Tensor = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(64, 64)
    mask[16:48, 8:40] = 1
    used = choose(ARCHITECTURES["sdxl"], {}, USED, {"prediction_type": pipeline.prediction})
    told = conditions(pipeline, PROMPT, used.negative, used)

    mine = paint(pipeline, told, used, 5, picture=Picture(pixels, strength, mask))[1]
    want = theirs(
        PROMPT,
        image=pixels.permute(2, 0, 1)[None],
        mask_image=mask[None, None],
        strength=strength,
        negative_prompt="blurry",
        num_inference_steps=5,
        guidance_scale=4.0,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
    ).images

    assert torch.isfinite(mine).all()
    assert float((mine - want).abs().max()) == 0.0
