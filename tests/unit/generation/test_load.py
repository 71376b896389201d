"""What is loaded: in the dtype that is asked for, and no more of a VAE than is needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import diffusers_models, flow_models, videos, wan
from memcard.architectures import ARCHITECTURES
from memcard.formats import open_file
from memcard.generation.cache import Cache
from memcard.generation.denoise import conditions, decode, denoise, encode_pixels
from memcard.generation.engine import Pipeline
from memcard.generation.latents import generator
from memcard.generation.load import load
from memcard.generation.parts import assemble
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose

CPU = torch.device("cpu")
FEW = 10**9  # bytes: more than all of them together
SMALL = {"width": 32, "height": 32, "steps": 2, "frames": 9}
FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux", "ltx_video", "wan21")
CLIPS = {"ltx_video": lambda: videos.ltx("0.9.1")[1], "wan21": wan.tensors}
ENCODER = ("vae.encoder.", "vae.quant_conv.")


def tensors(name: str) -> dict[str, Tensor]:
    if name in ("sd1", "sd2", "sdxl"):
        return {k: v / 4 for k, v in diffusers_models.family(name)[1].items()}
    return CLIPS[name]() if name in CLIPS else flow_models.tensors(name)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder: Path = tmp_path_factory.mktemp("families")

    def of(name: str) -> Path:
        found = folder / f"{name}.safetensors"
        return found if found.exists() else diffusers_models.save(found, tensors(name))

    return of


def pipeline_of(path: Path, dtype: str = "F32", **said: Any) -> Pipeline:
    assembly = assemble(open_file(path), path.name)
    assert (assembly.family, assembly.missing) == (path.stem, ())
    return load(assembly, device="cpu", dtype=dtype, **said)


def settings(pipeline: Pipeline, **said: Any) -> Settings:
    frames = {} if pipeline.architecture in CLIPS else {"frames": 1}
    usual = {"prediction_type": pipeline.prediction}
    user = {**SMALL, **frames, **said}
    return choose(ARCHITECTURES[pipeline.architecture], {}, user, usual)


def paint(pipeline: Pipeline, **said: Any) -> Tensor:
    used = settings(pipeline, **said)
    told = conditions(pipeline, "a photo of a cat", used.negative, used)
    return decode(pipeline, denoise(pipeline, told, used, 5), used)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["F16", pytest.param("BF16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_paints_in_half_precision(
    name: str, dtype: str, path: Callable[[str], Path]
) -> None:
    want = paint(pipeline_of(path(name)))

    half = pipeline_of(path(name), dtype)
    found = paint(half)

    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert found.std() > 0.01
    assert half.extras["notes"] == []  # the VAE did not have to be loaded again
    assert float((found - want).abs().mean()) < (0.003 if dtype == "F16" else 0.02)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_half_of_a_vae_that_reads_pictures_is_loaded_when_one_is_read(
    name: str, path: Callable[[str], Path]
) -> None:
    cache = Cache(CPU, FEW)
    half = pipeline_of(path(name), cache=cache)
    encoder = sum(v.nbytes for key, v in tensors(name).items() if key.startswith(ENCODER))
    assert not any(
        "encoder" in key or key.startswith("quant_conv") for key in half.vae.state_dict()
    )
    read, want = cache.read_bytes, paint(half, steps=1)

    whole = pipeline_of(path(name), cache=cache, encoder=True)
    more = cache.read_bytes - read
    picture = torch.rand(32, 32, 3, generator=generator(1))
    latents = encode_pixels(whole, picture, settings(whole), generator(2))
    again = pipeline_of(path(name), cache=cache)

    assert more == encoder
    assert torch.isfinite(latents).all()
    assert whole.vae is not half.vae
    assert cache.read_bytes - read == more
    assert torch.equal(paint(again, steps=1), want)
