"""Clips of LTX-Video are those of diffusers' own pipelines, built by hand from the same weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import ltx_clips, videos
from fixtures.long import mostly_slow
from fixtures.ltx_clips import PROMPT, in_memory, pipeline_of, reference, settings, single_file
from memcard.architectures import ARCHITECTURES
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.dialects import translate
from memcard.errors import MismatchError, UsageError
from memcard.generation.denoise import conditions, decode, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.engines._ltx_frames import packed, unpacked
from memcard.generation.latents import generator
from memcard.generation.parts import assemble
from memcard.generation.passes import paint
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose
from memcard.generation.words import plain
from memcard.jobs.convert import convert


@pytest.fixture(scope="module", params=mostly_slow(videos.VAES, "0.9.1"))
def version(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def single(version: str, tmp_path_factory: Any) -> Path:
    """All in one file, under the names of Lightricks' files and ComfyUI's of the text encoder."""
    return single_file(tmp_path_factory.mktemp("ltx") / "ltx.safetensors", version)


@pytest.fixture(scope="module")
def mapped(single: Path) -> Pipeline:
    """Its weights are windows on the file, which begin at any byte."""
    return pipeline_of(single)


@pytest.fixture(scope="module")
def ours(single: Path) -> Pipeline:
    return in_memory(single)


@pytest.fixture(scope="module")
def theirs(version: str, tmp_path_factory: Any) -> Any:
    """The pipeline that the release was published with."""
    folder = tmp_path_factory.mktemp("t5")
    if version == "0.9.5":
        return ltx_clips.theirs("LTXConditionPipeline", version, folder)
    return ltx_clips.theirs("LTXPipeline", version, folder, videos.LTX_SCHEDULER)


def clip(pipeline: Pipeline, used: Settings, seed: int) -> tuple[Tensor, Tensor]:
    told = conditions(pipeline, PROMPT, used.negative, used)
    frames, latents = paint(pipeline, told, used, seed)
    return latents, frames


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said",
    [
        {"negative": "worst quality, blurry"},
        {"cfg": 1.0, "frames": 1, "steps": 4},
        {"cfg_rescale": 0.7, "fps": 30, "width": 96, "frames": 17},
    ],
    ids=lambda said: " ".join(f"{k}={v}" for k, v in said.items()),
)
def test_the_clip_is_that_of_diffusers(said: dict[str, Any], ours: Pipeline, theirs: Any) -> None:
    used = settings(**said)

    latents, frames = clip(ours, used, 5)
    wanted = reference(theirs, used, 5, "latent")
    shown = reference(theirs, used, 5, "pt")

    assert frames.shape == shown.shape == (used.frames, used.height, used.width, 3)
    assert latents.std() > 0.1
    assert float((latents - wanted).abs().max()) == 0.0
    assert float((frames - shown).abs().max()) == 0.0


@pytest.mark.filterwarnings("ignore")
def test_weights_in_the_file_give_the_same_up_to_rounding(mapped: Pipeline, ours: Pipeline) -> None:
    """1e-5: where a weight begins in memory decides in which order a product is summed."""
    used = settings(cfg=1.0)

    latents, frames = clip(mapped, used, 5)
    want_latents, want = clip(ours, used, 5)

    assert float((latents - want_latents).abs().max()) <= 1e-5
    assert float((frames - want).abs().max()) <= 1e-5


@pytest.mark.filterwarnings("ignore")
def test_file_folder_and_ckpt_give_one_clip(mapped: Pipeline, single: Path, tmp_path: Path) -> None:
    convert(single, f"{tmp_path / 'folder'}/")
    convert(single, tmp_path / "x.ckpt")
    used = settings()
    want = clip(mapped, used, 5)[1]

    for path in (tmp_path / "folder", tmp_path / "x.ckpt"):
        found = clip(pipeline_of(path), used, 5)[1]
        assert float((found - want).abs().max()) <= 1e-5


def test_a_seed_is_one_clip_and_leaves_the_global_source_alone(ours: Pipeline) -> None:
    used = settings(cfg=1.0, steps=1)
    torch.manual_seed(3)
    before = torch.get_rng_state()

    first, again, other = (clip(ours, used, seed)[1] for seed in (5, 5, 6))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loop_decodes_without_a_source_too(ours: Pipeline) -> None:
    used = settings(cfg=1.0, steps=1)
    told = conditions(ours, PROMPT, "", used)

    found = decode(ours, denoise(ours, told, used, 5), used)

    assert found.shape == (9, 64, 32, 3)
    assert float((found - clip(ours, used, 5)[1]).abs().mean()) < 0.05


def test_a_picture_becomes_a_clip_that_stands_still(ours: Pipeline) -> None:
    used = settings()
    picture = torch.rand(64, 32, 3, generator=generator(0))
    vae = ours.vae

    with torch.inference_mode():
        found = ours.engine.encode_pixels(ours, picture, used, generator(1))
        want = vae.encode((picture * 2 - 1).permute(2, 0, 1)[None, :, None]).latent_dist
    opened = unpacked(found, (2, 2, 1))

    assert found.dtype == torch.float32
    assert torch.equal(opened[:, :, 0], opened[:, :, 1])
    assert torch.equal(packed(opened), found)
    drawn = torch.randn(want.mean.shape, generator=generator(1))
    still = (want.mean + want.std * drawn)[0, :, 0].permute(1, 2, 0)
    expected = (still - vae.latents_mean) / vae.latents_std
    assert float((opened[0, :, 0].permute(1, 2, 0) - expected).abs().max()) <= 1e-5


def test_all_faults_of_a_clip_are_told_at_once(ours: Pipeline) -> None:
    with pytest.raises(UsageError, match=r"16 frames.*use 9 or 17.*width 40.*use 32 or 64"):
        ours.engine.encode(ours, plain("x"), replace(settings(), frames=16, width=40))


def test_one_step_begins_at_noise_and_ends_at_none(ours: Pipeline) -> None:
    found = ours.engine.scheduler(ours, settings(steps=1))

    assert found.sigmas.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "unipc"])
def test_other_samplers_walk_the_same_levels(ours: Pipeline, sampler: str) -> None:
    used = settings(sampler=sampler, steps=4)
    levels = ours.engine.scheduler(ours, settings(steps=4)).sigmas

    found = ours.engine.scheduler(ours, used)
    frames = clip(ours, used, 5)[1]

    walked = found.sigmas.unique()
    assert walked.tolist() == pytest.approx(levels.flip(0).tolist(), abs=1e-5)
    assert torch.isfinite(frames).all()


def test_a_mask_is_refused(ours: Pipeline) -> None:
    engine: Any = ours.engine

    with pytest.raises(UsageError, match="LTX-Video takes no mask"):
        engine.mask(ours, torch.ones(64, 32))


def test_its_defaults_are_those_of_its_authors() -> None:
    used = choose(ARCHITECTURES["ltx_video"], {}, {})

    assert (used.frames, used.fps, used.width, used.height) == (161, 25, 704, 512)
    assert (used.steps, used.cfg, used.sampler) == (50, 3.0, "euler")
    assert used.prediction_type == "flow"


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_what_lacks_is_named_with_where_it_may_come_from(
    single: Path, part: str, tmp_path: Path
) -> None:
    convert(single, tmp_path / "part.safetensors", without=part)

    with pytest.raises(MismatchError, match=rf"lacks {part}.*--{part.replace('_', '-')}"):
        pipeline_of(tmp_path / "part.safetensors")


def test_long_prompts_say_what_was_not_read(ours: Pipeline, version: str) -> None:
    cut: list[str] = []
    listening = replace(ours, extras={"cut": cut})
    room = 255 if version == "0.9.5" else 127

    found = ours.engine.encode(listening, plain("word " * room + "unheard"), settings())

    assert cut == ["unheard"]
    assert found["mask"].all()


@pytest.mark.filterwarnings("ignore")
def test_half_precision_keeps_its_latents_whole(single: Path) -> None:
    half = pipeline_of(single, dtype="BF16")
    used = settings(steps=1)
    told = conditions(half, PROMPT, "", used)
    both = {key: torch.cat([value, value]) for key, value in told.spans[0][1].items()}
    noise = half.engine.noise(half, used, generator(1))

    with torch.inference_mode():
        guess = half.engine.predict(
            half, torch.cat([noise, noise]), torch.tensor(900.0), both, used
        )
        frames = half.engine.decode(half, noise, used)

    assert guess.dtype == noise.dtype == torch.float32
    assert frames.dtype == torch.float32
    assert torch.isfinite(frames).all()


class Headers:
    """A file of which nothing but the header may be read."""

    format = "safetensors"
    metadata: Mapping[str, str] = {}
    notes = ()

    def __init__(self, specs: Specs) -> None:
        self.specs = specs

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name}: a tensor was touched")


@pytest.mark.parametrize(
    ("size", "release", "gigabytes"),
    [
        pytest.param("2B", "0.9.0", {"transformer": 3.85, "vae": 0.84}, marks=pytest.mark.slow),
        ("2B", "0.9.1", {"transformer": 3.85, "vae": 1.87}),
        pytest.param("2B", "0.9.5", {"transformer": 3.85, "vae": 2.49}, marks=pytest.mark.slow),
        pytest.param("13B", "0.9.5", {"transformer": 26.09, "vae": 2.49}, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_every_tensor_of_a_published_file_has_its_place(
    size: str, release: str, gigabytes: dict[str, float]
) -> None:
    specs = {
        f"{part}.{name}": Spec(DTYPES["BF16"], tuple(value.shape))
        for part, model in videos.full_size(size, release).items()
        for name, value in model.state_dict().items()
    }
    single = {name: a.spec for name, a in translate(specs, "ldm").arrangements.items()}

    found = assemble(Headers(single), "ltx")

    assert (found.family, found.identity.variant) == ("ltx_video", size)
    assert (found.missing, found.notes, found.prediction) == (("text_encoder",), (), "flow")
    assert sum(len(part.names) for part in found.parts.values()) == len(single)
    for part in found.parts.values():
        module = found.engine.empty(part.name, part.config)
        wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        assert {n: part.view.specs[source].shape for n, source in part.names.items()} == wanted
        assert part.nbytes / 1e9 == pytest.approx(gigabytes[part.name], abs=0.01)
