"""Models of continuous noise levels: pictures of diffusers' EDM schedulers, read off the tensors that mark them."""

import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.diffusers_models import family, save
from fixtures.long import mostly_slow
from memcard.architectures import ARCHITECTURES
from memcard.errors import CorruptError, UsageError
from memcard.formats import open_file
from memcard.generation.denoise import conditions, decode, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.guidance import guess_of, mixture, picture_of
from memcard.generation.load import load
from memcard.generation.parts import assemble, with_vae
from memcard.generation.passes import Picture, paint
from memcard.generation.sampler import EDM
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose

PROMPT = "a photo of a cat"
USED = {"width": 64, "height": 64, "steps": 3, "negative": "blurry"}
MEAN, STD = [-1.6, 2.3, 2.6, -0.2], [8.4, 5.9, 8.3, 5.1]  # near Playground's
MARKS = {
    "playground": {"edm_mean": torch.tensor(MEAN).view(1, 4, 1, 1), "edm_std": torch.tensor(STD).view(1, 4, 1, 1)},
    "cosxl": {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)},
}  # fmt: skip
LEVELS = {
    "playground": {"sigma_max": 80.0, "sigma_data": 0.5, "prediction_type": "epsilon"},
    "cosxl": {
        "sigma_max": 120.0,
        "sigma_data": 1.0,
        "prediction_type": "v_prediction",
        "sigma_schedule": "exponential",
    },
}
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {}),
    "euler": ("EDMEulerScheduler", {}),
    "dpmpp_2m_sde": ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
}


@pytest.fixture(scope="module", params=mostly_slow(["playground", "cosxl"], "playground"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def values() -> dict[str, Tensor]:
    return {k: v / 4 for k, v in family("sdxl")[1].items()}


@pytest.fixture(scope="module")
def file(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp(name) / f"{name}.safetensors", {**values(), **MARKS[name]})


@pytest.fixture(scope="module")
def pipeline(file: Path) -> Pipeline:
    found = load(assemble(open_file(file), file.name), device="cpu", dtype="F32", encoder=True)
    for module in found.modules.values():
        for value in module.parameters():
            value.data = value.data.clone()
    return found


@pytest.fixture(scope="module")
def theirs(name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parts of a pipeline without any mark, and Playground's scale put into its VAE."""
    from diffusers import DiffusionPipeline

    from memcard.jobs.convert import convert

    root: Path = tmp_path_factory.mktemp("theirs")
    convert(save(root / "d.safetensors", values()), f"{root / 'folder'}/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = DiffusionPipeline.from_pretrained(root / "folder", local_files_only=True)
    found: dict[str, Any] = {k: v for k, v in pipe.components.items() if k != "scheduler"}
    for module in found.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(requires_grad=False)
            for weight in module.parameters():
                weight.data = weight.data.clone()
    if name == "playground":
        own = {"latents_mean": MEAN, "latents_std": STD, "scaling_factor": 0.5}
        found["vae"].register_to_config(**own)
    return found


def settings(pipeline: Pipeline, **said: Any) -> Settings:
    usual = {"prediction_type": pipeline.prediction, **pipeline.engine.usual(pipeline)}  # type: ignore[attr-defined]
    return choose(ARCHITECTURES[pipeline.architecture], {}, {**USED, **said}, usual)


def asked(theirs: dict[str, Any], name: str, used: Settings, kind: str, **more: Any) -> Tensor:
    import diffusers

    scheduler, options = SAMPLERS[used.sampler]
    levels = {**LEVELS[name], **options, "sigma_schedule": used.schedule}
    pipe = getattr(diffusers, f"StableDiffusionXL{kind}Pipeline")(
        **theirs, scheduler=getattr(diffusers, scheduler)(**levels)
    )
    pipe.set_progress_bar_config(disable=True)
    found: Tensor = pipe(
        PROMPT,
        negative_prompt="blurry",
        num_inference_steps=used.steps,
        guidance_scale=used.cfg,
        generator=torch.Generator("cpu").manual_seed(5),
        **more,
    ).images
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said",
    [{}, {"sampler": "euler", "schedule": "karras"}, {"sampler": "dpmpp_2m_sde", "cfg": 1.0}],
    ids=lambda said: " ".join(f"{k}={v}" for k, v in said.items()) or "usual",
)
def test_the_bits_are_those_of_diffusers(
    pipeline: Pipeline, theirs: Any, name: str, said: dict[str, Any]
) -> None:
    used = settings(pipeline, **said)
    told = conditions(pipeline, PROMPT, used.negative, used)

    mine = decode(pipeline, denoise(pipeline, told, used, 5), used)[0]
    want = asked(theirs, name, used, "", width=64, height=64, output_type="pt")[0].permute(1, 2, 0)

    assert mine.std() > 0.01
    assert torch.isfinite(mine).all()
    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
def test_out_of_a_picture(pipeline: Pipeline, theirs: Any, name: str) -> None:
    used = settings(pipeline, steps=5)
    told = conditions(pipeline, PROMPT, used.negative, used)
    pixels = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))

    mine = paint(pipeline, told, used, 5, picture=Picture(pixels, 0.6))[1]
    image = pixels.permute(2, 0, 1)[None]
    want = asked(theirs, name, used, "Img2Img", image=image, strength=0.6, output_type="latent")

    assert float((mine - want).abs().max()) == 0.0


def test_the_usual_settings_are_those_of_the_model(pipeline: Pipeline, name: str) -> None:
    used = settings(pipeline)

    assert used.prediction_type == {"playground": "edm", "cosxl": "edm_v_prediction"}[name]
    assert (used.sampler, used.schedule) == (
        "dpmpp_2m",
        LEVELS[name].get("sigma_schedule", "karras"),
    )
    assert used.cfg == (3.0 if name == "playground" else 6.0)


def test_a_folder_of_diffusers_says_it_in_its_configs(
    file: Path, name: str, tmp_path: Path
) -> None:
    import json

    from memcard.jobs.convert import convert

    convert(file, f"{tmp_path / 'folder'}/")
    scheduler = tmp_path / "folder/scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "EDMEulerScheduler", **LEVELS[name]}), "utf-8")
    vae = tmp_path / "folder/vae/config.json"
    own = {"latents_mean": MEAN, "latents_std": STD, "scaling_factor": 0.5}
    if name == "playground":
        vae.write_text(json.dumps({**json.loads(vae.read_text("utf-8")), **own}), "utf-8")

    with closing(open_file(tmp_path / "folder")) as folder, closing(open_file(file)) as single:
        one, other = assemble(folder, "folder"), assemble(single, "file")

    names = ("sigma_max", "sigma_data", "latents_mean", "latents_std", "latents_scale")
    ours, same = ({n: a.scheduler.get(n) for n in names} for a in (one, other))
    assert one.prediction == other.prediction
    assert (ours["sigma_max"], ours["sigma_data"], ours["latents_scale"]) == (
        *(same["sigma_max"], same["sigma_data"], same["latents_scale"]),
    )
    for key in ("latents_mean", "latents_std"):
        assert ours[key] == pytest.approx(same[key])


def test_another_vae_keeps_the_scale_of_the_latents(file: Path, name: str) -> None:
    vae = save(
        file.parent / "vae.safetensors",
        {k.removeprefix("vae."): v for k, v in values().items() if k.startswith("vae.")},
    )

    with closing(open_file(file)) as checkpoint, closing(open_file(vae)) as other:
        assembly = assemble(checkpoint, "file")
        swapped = with_vae(assembly, other, "vae")

    assert swapped.scheduler == assembly.scheduler
    assert ("latents_mean" in swapped.scheduler) == (name == "playground")


def test_a_sampler_without_such_levels_names_those_that_have_them(pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match=r"cannot run a model of continuous .* dpmpp_2m, .*euler"):
        settings(pipeline, sampler="ddim")
    with pytest.raises(
        UsageError, match=r"no schedule 'beta' for EDM\. It has: karras, exponential"
    ):
        settings(pipeline, schedule="beta")


@pytest.mark.parametrize("kind", sorted(EDM))
def test_the_picture_in_a_guess_is_that_of_the_scheduler(kind: str) -> None:
    from diffusers import EDMEulerScheduler

    said = "epsilon" if kind == "edm" else "v_prediction"
    scheduler = EDMEulerScheduler(sigma_data=0.5, prediction_type=said)
    scheduler.set_timesteps(7)
    sample, guess = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    at = mixture(scheduler, scheduler.timesteps[3], kind)
    sigma = scheduler.sigmas[3]
    seen = scheduler.precondition_inputs(sample, sigma)

    found = picture_of(guess, seen, at, kind)

    assert at.level == pytest.approx(float(sigma), rel=1e-5)
    want = scheduler.precondition_outputs(sample, guess, sigma)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(guess_of(found, seen, at, kind), guess, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "marks",
    [
        {"edm_vpred.sigma_max": torch.tensor(0.001)},
        {"edm_vpred.sigma_max": torch.tensor(float("nan"))},
        {"edm_mean": torch.zeros(4), "edm_std": torch.zeros(0)},
        {"edm_mean": torch.zeros(4), "edm_std": torch.zeros(2000)},
    ],
    ids=["not rising", "no number", "empty", "too many"],
)
def test_levels_that_are_none_are_refused(marks: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(tmp_path / "bad.safetensors", {**values(), **marks})

    with (
        closing(open_file(path)) as checkpoint,
        pytest.raises(CorruptError, match=r"bad: .*damaged"),
    ):
        assemble(checkpoint, "bad")


def test_the_model_judges_pictures_at_its_own_levels(pipeline: Pipeline) -> None:
    from memcard.generation.scorers._likelihood import _noised

    used = settings(pipeline)
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    scheduler = pipeline.engine.scheduler(pipeline, settings(pipeline, sampler="euler"))

    noisy, target, moment = _noised(pipeline, used, clean, noise, 0.5)
    level = torch.exp(4 * moment)
    sample = clean + level * noise

    torch.testing.assert_close(noisy, scheduler.precondition_inputs(sample, level))
    found = scheduler.precondition_outputs(sample, target, level)
    torch.testing.assert_close(found, clean, rtol=1e-3, atol=1e-3)
