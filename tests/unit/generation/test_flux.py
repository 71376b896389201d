"""Flux.1: our picture is the picture of diffusers' FluxPipeline over the same weights, in every layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import flow_models
from fixtures.diffusers_models import save
from fixtures.flow_models import PROMPT
from fixtures.gguf_bytes import F32, Q8_0, Info, Writer, gguf
from memcard.architectures import ARCHITECTURES
from memcard.errors import MismatchError
from memcard.formats import open_file
from memcard.generation.denoise import Start, conditions, decode, denoise, encode_pixels
from memcard.generation.engine import Pipeline
from memcard.generation.engines import ENGINES
from memcard.generation.engines._flux import packed, unpacked
from memcard.generation.latents import generator
from memcard.generation.load import load
from memcard.generation.lone_parts import lone_parts
from memcard.generation.parts import assemble
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose

LAYOUTS = ("diffusers names", "single file", "folder")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    made: dict[str, dict[str, Path]] = {}

    def of(name: str) -> dict[str, Path]:
        if name not in made:
            made[name] = flow_models.files(name, tmp_path_factory.mktemp(name))
        return made[name]

    return of


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def of(name: str) -> Any:
        if name not in made:
            made[name] = flow_models.reference(name, tmp_path_factory.mktemp(f"{name}-words"))
        return made[name]

    return of


def pipeline_of(path: Path, *, encoder: bool = False) -> Pipeline:
    assembly = assemble(open_file(path), "flux")
    assert (assembly.family, assembly.missing, assembly.notes) == ("flux", (), ())
    return load(assembly, device="cpu", dtype="F32", encoder=encoder)


def settings_of(pipeline: Pipeline, said: dict[str, Any]) -> Settings:
    user = {"width": 64, "height": 96, **said}
    return choose(ARCHITECTURES["flux"], {}, user, {"prediction_type": pipeline.prediction})


def ours(pipeline: Pipeline, used: Settings, seed: int = 5) -> Tensor:
    told = conditions(pipeline, PROMPT, used.negative, used)
    return decode(pipeline, denoise(pipeline, told, used, seed), used)[0]


def theirs(pipe: Any, used: Settings, seed: int = 5, *, tokens: int = 512) -> Tensor:
    true = {"true_cfg_scale": used.cfg, "negative_prompt": used.negative} if used.cfg > 1 else {}
    found: Tensor = pipe(
        prompt=PROMPT,
        height=used.height,
        width=used.width,
        num_inference_steps=used.steps,
        guidance_scale=used.guidance or 0.0,
        max_sequence_length=tokens,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="pt",
        **true,
    ).images[0]
    return found.permute(1, 2, 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"steps": 2}, id="plain"),
        pytest.param({"steps": 2, "guidance": 7.0}, id="guidance 7", marks=pytest.mark.slow),
        pytest.param({"steps": 2, "width": 128, "height": 64}, id="wide", marks=pytest.mark.slow),
    ],
)
def test_dev_gives_the_same_bits(said: dict[str, Any], files: Any, pipes: Any) -> None:
    pipeline = pipeline_of(files("flux")["single file"])
    used = settings_of(pipeline, said)

    mine, want = ours(pipeline, used), theirs(pipes("flux"), used)

    assert mine.shape == want.shape == (used.height, used.width, 3)
    assert mine.std() > 0.01
    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
def test_true_guidance_is_that_of_diffusers(files: Any, pipes: Any) -> None:
    pipeline = pipeline_of(files("flux")["single file"])
    used = settings_of(pipeline, {"steps": 2, "cfg": 3.0, "negative": "blurry"})

    mine, want = ours(pipeline, used), theirs(pipes("flux"), used)

    # Two guesses in one batch here, one after the other there: products of other shapes.
    assert float((mine - want).abs().max()) <= 1e-5
    plain = ours(pipeline, settings_of(pipeline, {"steps": 2}))
    assert float((mine - plain).abs().max()) > 1e-3


@pytest.mark.filterwarnings("ignore")
def test_schnell_gives_the_same_bits(files: Any, pipes: Any) -> None:
    pipeline = pipeline_of(files("schnell")["single file"])
    assert pipeline.engine.usual(pipeline) == {"steps": 4, "guidance": None}  # type: ignore[attr-defined]
    used = settings_of(pipeline, {"steps": 4})

    mine, want = ours(pipeline, used), theirs(pipes("schnell"), used, tokens=256)

    assert float((mine - want).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
def test_every_layout_gives_the_same_picture(files: Any) -> None:
    paths = files("flux")
    pipelines = {name: pipeline_of(paths[name]) for name in LAYOUTS}
    used = settings_of(pipelines["folder"], {"steps": 2})

    pictures = {name: ours(pipeline, used) for name, pipeline in pipelines.items()}

    assert all(torch.equal(found, pictures["folder"]) for found in pictures.values())


@pytest.mark.filterwarnings("ignore")
def test_pictures_become_latents_as_in_diffusers(files: Any, pipes: Any) -> None:
    pipeline = pipeline_of(files("flux")["single file"], encoder=True)
    used = settings_of(pipeline, {})
    pixels = torch.rand(96, 64, 3, generator=generator(1))

    found = encode_pixels(pipeline, pixels, used, generator(2))

    vae = pipes("flux").vae
    image = (pixels * 2 - 1).permute(2, 0, 1)[None]
    latents = vae.encode(image).latent_dist.sample(generator(2))
    latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    want = pipes("flux")._pack_latents(latents, 1, 16, 12, 8)
    assert found.shape == (1, 24, 64)
    assert torch.equal(found, want)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_picture_out_of_a_picture_has_the_same_bits(files: Any, pipes: Any) -> None:
    from diffusers import FluxImg2ImgPipeline

    pipeline = pipeline_of(files("flux")["single file"], encoder=True)
    used = settings_of(pipeline, {"steps": 4})
    pixels = torch.rand(96, 64, 3, generator=generator(1))

    def start(source: torch.Generator) -> Start:
        return Start(encode_pixels(pipeline, pixels, used, source), 0.5)

    told = conditions(pipeline, PROMPT, "", used)
    mine = decode(pipeline, denoise(pipeline, told, used, 5, start=start), used)[0]

    pipe = FluxImg2ImgPipeline(**pipes("flux").components)
    pipe.set_progress_bar_config(disable=True)
    want = pipe(
        prompt=PROMPT,
        image=pixels.permute(2, 0, 1)[None],
        strength=0.5,
        height=96,
        width=64,
        num_inference_steps=4,
        guidance_scale=3.5,
        generator=generator(5),
        output_type="pt",
    ).images[0]
    assert float((mine - want.permute(1, 2, 0)).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
def test_what_the_mask_keeps_comes_back(files: Any) -> None:
    pipeline = pipeline_of(files("flux")["single file"], encoder=True)
    used = settings_of(pipeline, {"steps": 2})
    told = conditions(pipeline, PROMPT, "", used)
    pixels = torch.rand(96, 64, 3, generator=generator(1))
    latents = encode_pixels(pipeline, pixels, used, generator(2))
    mask = torch.zeros(96, 64)
    mask[:48] = 1

    kept = pipeline.engine.mask(pipeline, mask)  # type: ignore[attr-defined]
    found = denoise(pipeline, told, used, 5, start=lambda _: Start(latents, 1.0, kept))

    assert kept.shape == latents.shape
    assert torch.equal(found[:, 12:], latents[:, 12:])  # the lower half, in rows of four tokens
    assert float((found[:, :12] - latents[:, :12]).abs().min(dim=-1).values.max()) > 0


def test_packing_is_undone() -> None:
    latents = torch.arange(16 * 6 * 4, dtype=torch.float32).reshape(1, 16, 6, 4)

    assert torch.equal(unpacked(packed(latents), 3, 2), latents)
    assert packed(latents)[0, 0, :4].tolist() == [0, 1, 4, 5]  # one channel, 2 x 2


def test_the_family_asks_for_no_true_guidance() -> None:
    used = choose(ARCHITECTURES["flux"], {}, {}, {"prediction_type": "flow"})

    assert (used.cfg, used.guidance, used.steps, used.sampler) == (1.0, 3.5, 28, "euler")
    assert "flux" in ENGINES["flux"].families


def test_a_bare_transformer_says_what_it_lacks(files: Any, tmp_path: Path) -> None:
    bare = flow_models.files("flux", tmp_path, "vae", "text_encoder", "text_encoder_2")
    assembly = assemble(open_file(bare["single file"]), "bare.safetensors")

    assert assembly.missing == ("text_encoder", "text_encoder_2", "vae")
    assert assembly.scheduler["use_dynamic_shifting"] is True
    with pytest.raises(MismatchError, match=r"bare\.safetensors.* lacks"):
        load(assembly, device="cpu", dtype="F32")


def in_blocks(tensors: dict[str, Tensor]) -> tuple[list[Info], dict[str, Tensor]]:
    """A model as GGUF holds it, matrices as Q8_0, and the numbers that these stand for."""
    from gguf import GGMLQuantizationType as Kind
    from gguf.quants import dequantize, quantize

    infos, numbers = [], {}
    for name, value in tensors.items():
        array, dims = value.numpy(), list(reversed(value.shape))
        if value.ndim == 2 and value.shape[1] % 32 == 0:
            packed_ = quantize(array, Kind.Q8_0)
            infos.append(Info(name.encode(), dims, Q8_0, packed_.tobytes()))
            numbers[name] = torch.from_numpy(dequantize(packed_, Kind.Q8_0))
        else:
            infos.append(Info(name.encode(), dims, F32, array.tobytes()))
            numbers[name] = value
    return infos, numbers


@pytest.mark.filterwarnings("ignore")
def test_gguf_is_the_picture_of_its_numbers(tmp_path: Path) -> None:
    """A bare transformer and a T5 in blocks, as they are shared; CLIP and VAE plain."""
    parts = flow_models.lone("flux", tmp_path)
    architecture = [Writer().text("general.architecture", "flux")]
    pictures = []
    for kind in ("gguf", "safetensors"):
        paths = []
        for part, tensors in (
            ("transformer", parts["transformer"]),
            ("t5xxl", flow_models.gguf_names(parts["t5xxl"])),
        ):
            infos, numbers = in_blocks(tensors)
            path = tmp_path / f"{part}.{kind}"
            if kind == "gguf":
                path.write_bytes(gguf(infos, architecture))
            else:
                save(path, numbers)
            paths.append(path)
        rest = [save(tmp_path / f"{p}.safetensors", parts[p]) for p in ("clip_l", "vae")]
        assembly = assemble(open_file(paths[0]), kind)
        for path in (paths[1], *rest):
            found = lone_parts(open_file(path), assembly, path.name)
            assembly = assembly.with_parts(found.values())
        pipeline = load(assembly, device="cpu", dtype="F32")
        pictures.append(
            ours(pipeline, settings_of(pipeline, {"steps": 1, "width": 32, "height": 32}))
        )

    assert torch.equal(*pictures)
