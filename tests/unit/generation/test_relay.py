"""The refiner of SDXL: alone over a picture, and after a base, as diffusers chains both pipelines."""

import warnings
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.diffusers_models import family, save
from memcard.architectures import ARCHITECTURES
from memcard.errors import UsageError
from memcard.formats import open_file
from memcard.generation import relay
from memcard.generation.denoise import Start, conditions, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.load import load
from memcard.generation.parts import assemble
from memcard.generation.passes import Picture, paint
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose
from memcard.jobs.convert import convert

PROMPT = "a photo of a cat"
USED = {"width": 64, "height": 64, "steps": 5, "cfg": 4.0, "negative": "blurry"}
SAMPLERS = {
    "euler": "EulerDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root: Path = tmp_path_factory.mktemp("relay")
    found = {}
    for name in ("sdxl", "sdxl_refiner"):
        save(root / f"{name}.safetensors", {k: v / 4 for k, v in family(name)[1].items()})
        convert(root / f"{name}.safetensors", f"{root / name}/")
        found[name] = root / name
    return found


def loaded(folder: Path) -> Pipeline:
    checkpoint = open_file(folder)
    found = load(assemble(checkpoint, folder.name), device="cpu", dtype="F32", encoder=True)
    for module in found.modules.values():  # aligned memory, as the reference has it
        for value in module.parameters():
            value.data = value.data.clone()
    return found


@pytest.fixture(scope="module")
def base(folders: dict[str, Path]) -> Pipeline:
    return loaded(folders["sdxl"])


@pytest.fixture(scope="module")
def refiner(folders: dict[str, Path]) -> Pipeline:
    return loaded(folders["sdxl_refiner"])


@pytest.fixture(scope="module")
def theirs(folders: dict[str, Path]) -> dict[str, Any]:
    from diffusers import DiffusionPipeline

    found = {}
    for name, folder in folders.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        for module in pipe.components.values():
            if isinstance(module, torch.nn.Module):
                for weight in module.parameters():
                    weight.data = weight.data.clone()
        found[name] = pipe
    return found


def settings(pipeline: Pipeline, **said: Any) -> Settings:
    usual = {"prediction_type": pipeline.prediction}
    return choose(ARCHITECTURES[pipeline.architecture], {}, {**USED, **said}, usual)


def asked(pipe: Any, sampler: str, **more: Any) -> Tensor:
    import diffusers

    pipe.scheduler = getattr(diffusers, SAMPLERS[sampler]).from_config(pipe.scheduler.config)
    found: Tensor = pipe(
        PROMPT,
        negative_prompt="blurry",
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
        **more,
    ).images
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("negative", ["blurry", ""])
def test_the_refiner_over_a_picture(refiner: Pipeline, theirs: Any, negative: str) -> None:
    used = settings(refiner, sampler="euler", negative=negative)
    pixels = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))
    told = conditions(refiner, PROMPT, used.negative, used)

    mine = paint(refiner, told, used, 5, picture=Picture(pixels, 0.6))[1]
    pipe = theirs["sdxl_refiner"]
    want = asked(pipe, "euler", image=pixels.permute(2, 0, 1)[None], strength=0.6) if (
        negative
    ) else pipe(
        PROMPT, image=pixels.permute(2, 0, 1)[None], strength=0.6, num_inference_steps=5,
        guidance_scale=4.0, generator=torch.Generator("cpu").manual_seed(5), output_type="latent",
    ).images  # fmt: skip

    assert torch.isfinite(mine).all()
    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("sampler", "share"),
    [
        ("euler", 0.8),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("dpmpp_2m", 0.6), ("euler_a", 0.5), ("heun", 0.7))
        ),
    ],
)
def test_a_base_and_its_refiner_in_a_row(
    base: Pipeline, refiner: Pipeline, theirs: Any, sampler: str, share: float
) -> None:
    used = settings(base, sampler=sampler)
    told = conditions(base, PROMPT, used.negative, used)
    more = conditions(refiner, PROMPT, used.negative, used)

    half = denoise(base, told, used, 5, until=share)
    mine = denoise(refiner, more, used, 5, start=lambda source: Start(half, 1.0, since=share))
    begun = asked(theirs["sdxl"], sampler, width=64, height=64, denoising_end=share)
    want = asked(theirs["sdxl_refiner"], sampler, image=begun, denoising_start=share)

    assert float((half - begun).abs().max()) == 0.0
    assert float((mine - want).abs().max()) == 0.0
    assert float((mine - denoise(base, told, used, 5)).abs().max()) > 1e-3


def test_a_refiner_alone_has_nothing_to_finish(refiner: Pipeline) -> None:
    used = settings(refiner, sampler="euler")
    told = conditions(refiner, PROMPT, used.negative, used)

    with pytest.raises(UsageError, match=r"finishes a picture\. Name one with --image"):
        paint(refiner, told, used, 5)


def test_both_models_need_a_step(base: Pipeline) -> None:
    scheduler = base.engine.scheduler(base, settings(base, sampler="euler"))

    with pytest.raises(UsageError, match="leaves the base no step"):
        relay.until(scheduler, scheduler.timesteps, 0.01)
    with pytest.raises(UsageError, match="has no step left"):
        relay.since(scheduler, 0.9999)
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(UsageError, match="give a share between 0 and 1"):
            relay.check(share)


def test_both_looks_of_a_step_stay_together() -> None:
    config = SimpleNamespace(num_train_timesteps=1000)
    moments = torch.tensor([999, 700, 700, 400, 400, 100, 100])
    scheduler = SimpleNamespace(config=config, timesteps=moments, order=2)

    assert [relay.since(scheduler, share) for share in (0.5, 0.25)] == [2, 0]


def test_a_bare_refiner_takes_its_text_encoder_from_the_base(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    from memcard.generation.lone_parts import lone_parts

    bare = {k: v for k, v in family("sdxl_refiner")[1].items() if k.startswith("unet.")}
    path = save(tmp_path / "refiner.safetensors", bare)
    with closing(open_file(path)) as checkpoint, closing(open_file(folders["sdxl"])) as other:
        assembly = assemble(checkpoint, "refiner")
        found = lone_parts(other, assembly, "base")

        assert assembly.missing == ("text_encoder_2", "vae")
        assert assembly.with_parts(found.values()).missing == ()
