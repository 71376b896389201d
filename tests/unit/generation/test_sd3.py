"""Stable Diffusion 3: our picture is that of diffusers' StableDiffusion3Pipeline, in every layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import flow_models
from fixtures.diffusers_models import save
from fixtures.flow_models import PROMPT
from memcard.architectures import ARCHITECTURES
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.generation.denoise import conditions, decode, denoise, encode_pixels
from memcard.generation.engine import Pipeline
from memcard.generation.engines import ENGINES
from memcard.generation.latents import generator
from memcard.generation.load import load
from memcard.generation.parts import assemble
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose

LAYOUTS = ("diffusers names", "single file", "folder")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Path]]:
    made: dict[Any, dict[str, Path]] = {}

    def of(name: str, *without: str) -> dict[str, Path]:
        key = (name, *without)
        if key not in made:
            made[key] = flow_models.files(name, tmp_path_factory.mktemp("sd3"), *without)
        return made[key]

    return of


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    made: dict[Any, Any] = {}

    def of(name: str, *without: str) -> Any:
        key = (name, *without)
        if key not in made:
            folder = tmp_path_factory.mktemp("sd3-words")
            made[key] = flow_models.reference(name, folder, *without)
        return made[key]

    return of


def pipeline_of(path: Path, *, encoder: bool = False) -> Pipeline:
    assembly = assemble(open_file(path), "sd3")
    assert (assembly.family, assembly.missing, assembly.notes) == ("sd3", (), ())
    return load(assembly, device="cpu", dtype="F32", encoder=encoder)


def settings_of(pipeline: Pipeline, said: dict[str, Any]) -> Settings:
    user = {"width": 64, "height": 96, "steps": 2, **said}
    return choose(ARCHITECTURES["sd3"], {}, user, {"prediction_type": pipeline.prediction})


def ours(pipeline: Pipeline, used: Settings, seed: int = 5) -> Tensor:
    told = conditions(pipeline, PROMPT, used.negative, used)
    return decode(pipeline, denoise(pipeline, told, used, seed), used)[0]


def theirs(pipe: Any, used: Settings, seed: int = 5) -> Tensor:
    found: Tensor = pipe(
        prompt=PROMPT,
        negative_prompt=used.negative,
        height=used.height,
        width=used.width,
        num_inference_steps=used.steps,
        guidance_scale=used.cfg,
        clip_skip=used.clip_skip - 1,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="pt",
    ).images[0]
    return found.permute(1, 2, 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("sd3", {"negative": "blurry"}, id="3.5 medium"),
        pytest.param("sd3-large", {"cfg": 3.5}, id="one attention", marks=pytest.mark.slow),
        pytest.param("sd3", {"cfg": 1.0, "clip_skip": 2}, id="skip", marks=pytest.mark.slow),
        pytest.param("sd3", {"width": 128, "height": 64}, id="wide", marks=pytest.mark.slow),
    ],
)
def test_it_gives_the_same_bits(name: str, said: dict[str, Any], files: Any, pipes: Any) -> None:
    pipeline = pipeline_of(files(name)["single file"])
    used = settings_of(pipeline, said)

    mine, want = ours(pipeline, used), theirs(pipes(name), used)

    assert mine.shape == want.shape == (used.height, used.width, 3)
    assert mine.std() > 0.01
    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
def test_it_does_without_t5(files: Any, pipes: Any) -> None:
    pipeline = pipeline_of(files("sd3", "text_encoder_3")["single file"])
    used = settings_of(pipeline, {})

    mine, want = ours(pipeline, used), theirs(pipes("sd3", "text_encoder_3"), used)

    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_every_layout_gives_the_same_picture(files: Any) -> None:
    paths = files("sd3")
    pipelines = {name: pipeline_of(paths[name]) for name in LAYOUTS}
    used = settings_of(pipelines["folder"], {})

    pictures = {name: ours(pipeline, used) for name, pipeline in pipelines.items()}

    assert all(torch.equal(found, pictures["folder"]) for found in pictures.values())


@pytest.mark.filterwarnings("ignore")
def test_a_clip_l_without_a_projection_passes_its_state_on(files: Any, tmp_path: Path) -> None:
    tensors = flow_models.tensors("sd3")
    tensors["text_encoder.text_projection.weight"] = torch.eye(64)
    one = save(tmp_path / "eye.safetensors", tensors)
    del tensors["text_encoder.text_projection.weight"]
    two = save(tmp_path / "none.safetensors", tensors)

    pictures = []
    for path in (one, two):
        pipeline = pipeline_of(path)
        pictures.append(ours(pipeline, settings_of(pipeline, {"steps": 1})))

    assert torch.equal(*pictures)


@pytest.mark.filterwarnings("ignore")
def test_a_clip_g_needs_its_projection(tmp_path: Path) -> None:
    tensors = flow_models.tensors("sd3")
    del tensors["text_encoder_2.text_projection.weight"]
    path = save(tmp_path / "none.safetensors", tensors)

    with pytest.raises(MismatchError, match=r"text_projection\.weight.*clip_g\.safetensors"):
        pipeline_of(path)


@pytest.mark.filterwarnings("ignore")
def test_pictures_become_latents_as_in_diffusers(files: Any, pipes: Any) -> None:
    pipeline = pipeline_of(files("sd3")["single file"], encoder=True)
    pixels = torch.rand(96, 64, 3, generator=generator(1))

    found = encode_pixels(pipeline, pixels, settings_of(pipeline, {}), generator(2))

    vae = pipes("sd3").vae
    latents = vae.encode((pixels * 2 - 1).permute(2, 0, 1)[None]).latent_dist.sample(generator(2))
    want = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    assert torch.equal(found, want)


@pytest.mark.filterwarnings("ignore")
def test_the_kinds_have_settings_of_their_own(files: Any) -> None:
    medium, large = (pipeline_of(files(name)["single file"]) for name in ("sd3", "sd3-large"))

    engine: Any = medium.engine
    assert engine.usual(medium) == {"steps": 40, "cfg": 4.5}
    assert engine.usual(large) == {"cfg": 3.5}


@pytest.mark.filterwarnings("ignore")
def test_a_picture_larger_than_the_places_is_refused(files: Any) -> None:
    pipeline = pipeline_of(files("sd3")["single file"])
    used = settings_of(pipeline, {"width": 512})

    with pytest.raises(UsageError, match="Use 256 or less"):
        conditions(pipeline, PROMPT, "", used)


@pytest.mark.filterwarnings("ignore")
def test_long_prompts_take_more_chunks_of_clip_alone(files: Any) -> None:
    pipeline = pipeline_of(files("sd3")["single file"])
    used = settings_of(pipeline, {"steps": 1, "width": 32, "height": 32})

    told = conditions(pipeline, "a cat, " * 60, "", used)

    wanted, unwanted = told.at(0)
    assert unwanted is not None
    assert wanted["states"].shape == (1, 77 * 3 + 256, 128)
    assert unwanted["states"].shape == (1, 77 + 256, 128)
    assert torch.isfinite(denoise(pipeline, told, used, 1)).all()


def test_the_family_has_an_engine_and_settings() -> None:
    used = choose(ARCHITECTURES["sd3"], {}, {}, {"prediction_type": "flow"})

    assert (used.cfg, used.guidance, used.steps, used.sampler) == (4.5, None, 28, "euler")
    assert ENGINES["sd3"].optional == ("text_encoder_3",)
