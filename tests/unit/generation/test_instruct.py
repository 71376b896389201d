"""Models that follow instructions change a picture as diffusers' pipelines do."""

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

PROMPT = "make it winter"
USED = {"width": 64, "height": 64, "steps": 3, "negative": "blurry", "sampler": "euler"}
CLASSES = {
    "sd1": "StableDiffusionInstructPix2PixPipeline",
    "sdxl": "StableDiffusionXLInstructPix2PixPipeline",
    "cosxl": "StableDiffusionXLInstructPix2PixPipeline",
}
LEVELS = {"edm_vpred.sigma_max": 120.0, "edm_vpred.sigma_min": 0.002}


def tensors(name: str) -> dict[str, Tensor]:
    """A family with a UNet of eight channels."""
    found = {k: v / 4 for k, v in family(name)[1].items()}
    first = found["unet.conv_in.weight"]
    more = torch.randn(len(first), 4, 3, 3, generator=torch.Generator().manual_seed(2)) / 40
    found["unet.conv_in.weight"] = torch.cat([first, more], dim=1)
    return found


@pytest.fixture(
    scope="module", params=["sd1", "cosxl", pytest.param("sdxl", marks=pytest.mark.slow)]
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp(name)
    save(root / "d.safetensors", tensors("sd1" if name == "sd1" else "sdxl"))
    convert(root / "d.safetensors", root / "plain.safetensors", dialect="ldm")
    if name != "cosxl":
        return root / "plain.safetensors"
    from fixtures.diffusers_models import load as values

    made = values(open_file(root / "plain.safetensors"))
    return save(
        root / "cosxl.safetensors", {**made, **{k: torch.tensor(v) for k, v in LEVELS.items()}}
    )


@pytest.fixture(scope="module")
def pipeline(file: Path) -> Pipeline:
    found = load(assemble(open_file(file), file.name), device="cpu", dtype="F32", encoder=True)
    for module in found.modules.values():
        for value in module.parameters():
            value.data = value.data.clone()
    return found


@pytest.fixture(scope="module")
def theirs(file: Path, name: str) -> Any:
    import diffusers

    folder = file.parent / "folder"
    convert(file.parent / "plain.safetensors", f"{folder}/")
    kind = getattr(diffusers, CLASSES[name])
    own = {"is_cosxl_edit": True} if name == "cosxl" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = kind.from_pretrained(folder, local_files_only=True, **own)
    found.scheduler = diffusers.EulerDiscreteScheduler.from_config(found.scheduler.config)
    if name == "cosxl":
        found.scheduler = diffusers.EDMEulerScheduler(
            0.002,
            120.0,
            sigma_data=1.0,
            sigma_schedule="exponential",
            prediction_type="v_prediction",
        )
    found.set_progress_bar_config(disable=True)
    for module in found.components.values():
        if isinstance(module, torch.nn.Module):
            for weight in module.parameters():
                weight.data = weight.data.clone()
    return found


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))


def settings(pipeline: Pipeline, **said: Any) -> Settings:
    usual = {"prediction_type": pipeline.prediction, **pipeline.engine.usual(pipeline)}  # type: ignore[attr-defined]
    return choose(ARCHITECTURES[pipeline.architecture], {}, {**USED, **said}, usual)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said", [{}, {"cfg": 5.0, "image_cfg": 1.2}, {"cfg": 1.0}], ids=["usual", "both", "no guidance"]
)
def test_the_bits_are_those_of_diffusers(
    pipeline: Pipeline, theirs: Any, pixels: Tensor, said: dict[str, Any]
) -> None:
    used = settings(pipeline, **said)
    told = conditions(pipeline, PROMPT, used.negative, used)

    mine = paint(pipeline, told, used, 5, picture=Picture(pixels, 0.75))[1]
    size = {} if pipeline.architecture == "sd1" else {"width": 64, "height": 64}
    want = theirs(
        PROMPT,
        **size,
        image=pixels.permute(2, 0, 1)[None],
        negative_prompt=used.negative,
        num_inference_steps=used.steps,
        guidance_scale=used.cfg,
        image_guidance_scale=used.image_cfg,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
    ).images

    assert (used.cfg, used.image_cfg) == (said.get("cfg", 7.5), said.get("image_cfg", 1.5))
    assert torch.isfinite(mine).all()
    assert float((mine - want).abs().max()) == 0.0


def test_a_prompt_longer_than_the_negative_one_is_asked_for_alone(
    pipeline: Pipeline, pixels: Tensor
) -> None:
    used = settings(pipeline)
    told = conditions(pipeline, "snow " * 90, used.negative, used)

    assert torch.isfinite(paint(pipeline, told, used, 5, picture=Picture(pixels, 1.0))[1]).all()


def test_what_it_cannot_use_is_refused(pipeline: Pipeline, pixels: Tensor) -> None:
    used = settings(pipeline)
    told = conditions(pipeline, PROMPT, used.negative, used)
    near = settings(pipeline, image_cfg=0.5)
    masked = Picture(pixels, 1.0, torch.ones(64, 64))

    with pytest.raises(UsageError, match=r"follows instructions .* Name the picture with --image"):
        paint(pipeline, told, used, 5)
    with pytest.raises(UsageError, match="no use for --mask"):
        paint(pipeline, told, used, 5, picture=masked)
    with pytest.raises(UsageError, match=r"image cfg 0\.5 is below 1"):
        paint(pipeline, told, near, 5, picture=Picture(pixels, 1.0))
    for upscaler in ("latent", "lanczos"):
        first = (pixels[None], torch.zeros(1, 4, 8, 8))
        with pytest.raises(UsageError, match="second pass"):
            enlarge(pipeline, told, first, used, Larger(2.0, upscaler=upscaler), 5)


def test_image_cfg_is_of_such_models_alone(twin_pipeline: Pipeline) -> None:
    used = settings(twin_pipeline, image_cfg=1.5)
    told = conditions(twin_pipeline, PROMPT, used.negative, used)

    with pytest.raises(UsageError, match="Leave --image-cfg out"):
        paint(twin_pipeline, told, used, 5)
