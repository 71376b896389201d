"""Clips of LTX-Video that begin, or end, with a picture are those of diffusers' own pipelines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import ltx_clips, videos
from fixtures.ltx_clips import PROMPT, in_memory, reference, settings, single_file
from memcard.errors import UsageError
from memcard.generation.denoise import conditions, decode
from memcard.generation.engine import LOW_MEMORY, Pipeline
from memcard.generation.engines import _ltx_frames
from memcard.generation.engines._ltx_frames import Grid, packed, unpacked
from memcard.generation.latents import generator
from memcard.generation.passes import Larger, Picture, check_given, enlarge, paint, resized
from memcard.generation.preview import preview
from memcard.generation.settings import Settings

FIRST = torch.rand(64, 32, 3, generator=generator(0))
LAST = torch.rand(64, 32, 3, generator=generator(9))
EARLY, LATE = "0.9.1", "0.9.5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return Path(tmp_path_factory.mktemp("ltx"))


@pytest.fixture(scope="module")
def early(folder: Path) -> Pipeline:
    return in_memory(single_file(folder / "early.safetensors", EARLY))


@pytest.fixture(scope="module")
def late(folder: Path) -> Pipeline:
    return in_memory(single_file(folder / "late.safetensors", LATE))


@pytest.fixture(scope="module")
def to_video(folder: Path) -> Any:
    kind = "LTXImageToVideoPipeline"
    return ltx_clips.theirs(kind, EARLY, folder, videos.LTX_SCHEDULER)


@pytest.fixture(scope="module")
def conditioned(folder: Path) -> Any:
    return ltx_clips.theirs("LTXConditionPipeline", LATE, folder)


def clip(
    pipeline: Pipeline, used: Settings, seed: int, picture: Picture | None
) -> tuple[Tensor, Tensor]:
    told = conditions(pipeline, PROMPT, used.negative, used)
    frames, latents = paint(pipeline, told, used, seed, picture=picture)
    return latents, frames


def image(pixels: Tensor) -> Tensor:
    return pixels.permute(2, 0, 1)[None]


def same(pipe: Any, pipeline: Pipeline, used: Settings, picture: Picture, **more: Any) -> bool:
    latents, frames = clip(pipeline, used, 5, picture)
    wanted = reference(pipe, used, 5, "latent", **more)
    shown = reference(pipe, used, 5, "pt", **more)
    assert latents.shape == wanted.shape
    assert frames.shape == shown.shape
    assert frames.std() > 0.05
    return torch.equal(latents, wanted) and torch.equal(frames, shown)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said", [{}, {"cfg": 1.0, "steps": 2}, {"cfg_rescale": 0.7, "fps": 30, "frames": 17}], ids=str
)
def test_an_early_release_keeps_its_first_frame_as_diffusers_does(
    said: dict[str, Any], early: Pipeline, to_video: Any
) -> None:
    assert same(to_video, early, settings(**said), Picture(FIRST, 0.0), image=image(FIRST))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.95])
def test_a_late_release_keeps_as_much_of_it_as_is_said(
    strength: float, late: Pipeline, conditioned: Any
) -> None:
    more = {"image": image(FIRST), "strength": 1 - strength}
    used = settings(steps=6, cfg_rescale=0.7, fps=30)

    assert same(
        conditioned, late, used, Picture(FIRST, strength), **more, image_cond_noise_scale=0.15
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strength", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
def test_a_late_release_ends_at_a_picture(
    strength: float, late: Pipeline, conditioned: Any
) -> None:
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    used = settings(frames=17)
    both = [
        LTXVideoCondition(image=image(pixels), strength=1 - strength, frame_index=at)
        for pixels, at in ((FIRST, 0), (LAST, 16))
    ]

    assert same(
        *(conditioned, late, used, Picture(FIRST, strength, last=LAST)),
        conditions=both,
        image_cond_noise_scale=0.15,
    )


def first_frame(pipeline: Pipeline, picture: Picture | None, **said: Any) -> Tensor:
    """Latents of the first frame, [tokens, channels]."""
    return clip(pipeline, settings(**said), 5, picture)[0][0, :2]


@pytest.mark.filterwarnings("ignore")
def test_strength_is_how_much_of_the_first_frame_is_painted_anew(early: Pipeline) -> None:
    with torch.inference_mode():
        still = early.engine.encode_pixels(early, FIRST, settings(), generator(5))[0, :2]

    far = [
        float((first_frame(early, Picture(FIRST, s), steps=8) - still).abs().mean())
        for s in (0.0, 0.2, 0.8)
    ]

    assert far[0] == 0
    assert far[0] < far[1] < far[2]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "lcm", "euler_a"])
def test_any_sampler_keeps_it(early: Pipeline, sampler: str) -> None:
    with torch.inference_mode():
        still = early.engine.encode_pixels(early, FIRST, settings(), generator(5))[0, :2]

    found = first_frame(early, Picture(FIRST, 0.0), sampler=sampler, steps=4)

    assert torch.equal(found, still)


@pytest.mark.filterwarnings("ignore")
def test_what_is_shown_of_a_run_is_the_clip_alone(late: Pipeline) -> None:
    used = settings(steps=2)
    shown: list[Tensor] = []
    told = conditions(late, PROMPT, "", used)

    _, latents = paint(
        *(late, told, used, 5, lambda done, total, latents: shown.append(latents)),
        picture=Picture(FIRST, 0.0, last=LAST),
    )

    assert {one.shape for one in shown} == {latents.shape}
    assert torch.equal(shown[-1], latents)


@pytest.mark.filterwarnings("ignore")
def test_one_frame_is_a_picture_painted_over(early: Pipeline) -> None:
    used = settings(frames=1, steps=4)
    engine: Any = early.engine

    assert engine.start(early, Picture(FIRST, 0.5), None, used) is None
    assert engine.strength(early, used) is None
    assert engine.strength(early, settings()) == 0.0
    assert clip(early, used, 5, Picture(FIRST, 0.5))[1].shape == (1, 64, 32, 3)


@pytest.mark.parametrize(
    ("given", "frames", "reason"),
    [
        ({"image", "mask"}, 9, "LTX-Video takes no mask"),
        ({"control"}, 9, "LTX-Video follows no drawing"),
        ({"image", "last"}, 9, "knows of a first frame only"),
        ({"image", "last"}, 1, "one frame is no clip"),
    ],
)
def test_what_an_early_release_cannot_do_is_refused(
    early: Pipeline, given: set[str], frames: int, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        check_given(early, settings(frames=frames), given)


def test_a_last_frame_is_refused_before_anything_is_drawn(early: Pipeline) -> None:
    with pytest.raises(UsageError, match=r"0\.9\.5 on can end at a picture"):
        clip(early, settings(), 5, Picture(FIRST, 0.0, last=LAST))


def test_a_late_release_takes_both_ends(late: Pipeline) -> None:
    check_given(late, settings(), {"image", "last"})


def test_a_clip_is_read_frame_by_frame(early: Pipeline) -> None:
    used = settings()
    moving = torch.rand(9, 64, 32, 3, generator=generator(1))

    with torch.inference_mode():
        found = early.engine.encode_pixels(early, moving, used, generator(2))
        still = early.engine.encode_pixels(early, moving[0], used, generator(2))

    assert found.shape == still.shape == (1, 4, 128)
    assert not torch.equal(found[:, :2], found[:, 2:])
    assert torch.equal(still[:, :2], still[:, 2:])


def test_tokens_stand_where_their_frames_are() -> None:
    grid = Grid(3, 1, 2, 8, 32)

    found = grid.places(8)
    last = grid.places(8, frames=1, first=16)

    assert found[0, 0].tolist() == [0, 0, 1 / 8, 1 / 8, 9 / 8, 9 / 8]
    assert found[0, 2].tolist() == [0, 32] * 3
    assert last[0].tolist() == [[2, 2], [0, 0], [0, 32]]
    assert (grid.shape, grid.tokens) == ((3, 1, 2), 6)


def test_a_token_is_told_its_own_moment() -> None:
    kept = torch.tensor([[1.0, 0.75, 0.0]])

    told = _ltx_frames.moments(torch.tensor(600.0), 1, kept)

    assert told.tolist() == [[0, 250, 600]]
    assert _ltx_frames.moments(torch.tensor(600.0), 2, None).tolist() == [600, 600]


def test_the_decoder_of_a_picture_draws_after_its_noise(late: Pipeline) -> None:
    used = settings(steps=1, cfg=1.0)
    told = conditions(late, PROMPT, "", used)

    one, other = (paint(late, told, used, seed) for seed in (5, 6))
    source = generator(5)
    late.engine.noise(late, used, source)
    engine: Any = late.engine
    with torch.inference_mode():
        again = engine.decode(late, one[1], used, source)
        fixed = engine.decode(late, one[1], used)

    assert torch.equal(one[0], again)
    assert not torch.equal(one[0], fixed)
    assert not torch.equal(one[0], other[0])


def test_a_second_try_to_decode_draws_the_same(late: Pipeline) -> None:
    """Once half precision fails, the numbers drawn for it are drawn again."""
    from memcard.generation.finite import decoded

    used = settings(steps=1, cfg=1.0)
    latents = late.engine.noise(late, used, generator(3))
    engine: Any = late.engine
    tries: list[int] = []

    class Failing(type(engine)):  # type: ignore[misc]
        def decode(self, *args: Any, **named: Any) -> Tensor:
            tries.append(1)
            found: Tensor = engine.decode(*args, **named)
            return found * float("nan") if len(tries) == 1 else found

    half = replace(
        late,
        engine=Failing(),
        dtype=torch.bfloat16,
        extras={"vae in float32": lambda: late.vae, "notes": []},
    )
    with torch.inference_mode():
        wanted = engine.decode(late, latents, used, generator(4))
        found = decoded(half, latents, used, generator(4))

    assert len(tries) == 2
    assert torch.equal(found, wanted)


@pytest.mark.filterwarnings("ignore")
def test_a_second_pass_paints_the_whole_clip_over(early: Pipeline) -> None:
    """Not its first frame alone: each frame stays nearer to its own than to the first one's."""
    used = settings(steps=4, cfg=1.0)
    larger = Larger(2.0, 0.25, 2)
    after = larger.settings(used, 32)
    told = conditions(early, PROMPT, "", used)
    first = paint(early, told, used, 5)

    frames, latents = enlarge(early, told, first, after, larger, 6)

    grown = torch.stack([resized(one, 64, 128) for one in first[0]])
    assert frames.shape == grown.shape == (9, 128, 64, 3)
    with torch.inference_mode():
        read = early.engine.encode_pixels(early, grown, after, generator(6))
    assert latents.shape == read.shape
    changes = unpacked(latents - read, (2, 4, 2)).abs().mean(dim=(0, 1, 3, 4))
    swapped = unpacked(latents, (2, 4, 2)).flip(2) - unpacked(read, (2, 4, 2))
    assert (changes < swapped.abs().mean(dim=(0, 1, 3, 4))).all()


@pytest.mark.filterwarnings("ignore")
def test_a_preview_shows_a_frame_of_the_clip(early: Pipeline) -> None:
    used = settings(steps=1, cfg=1.0, width=96)
    latents = early.engine.noise(early, used, generator(1))

    found = preview(early, latents, side=96)
    engine: Any = early.engine
    opened = engine.picture_latents(early, latents)

    assert found.size == (96, 64)
    assert opened.shape == (1, 128, 2, 2, 3)
    assert torch.equal(packed(opened), latents)
    assert found.getextrema() != ((0, 0), (0, 0), (0, 0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", ["early", "late"])
def test_with_little_memory_a_clip_is_decoded_a_few_frames_at_a_time(
    which: str, request: pytest.FixtureRequest
) -> None:
    whole: Pipeline = request.getfixturevalue(which)
    used = settings(frames=41, cfg=1.0)
    little = replace(whole, extras={**whole.extras, LOW_MEMORY: lambda: None})
    latents = whole.engine.noise(whole, used, generator(1))
    lengths: list[int] = []
    hook = whole.vae.decoder.register_forward_pre_hook(
        lambda module, given: lengths.append(given[0].shape[2])
    )

    frames, parts = (decode(one, latents, used, generator(2)) for one in (whole, little))
    hook.remove()

    assert lengths[0] == 6
    assert lengths[1:] == [5, 3]
    assert parts.shape == frames.shape == (41, 64, 32, 3)
    assert torch.isfinite(parts).all()
    assert not whole.vae.use_framewise_decoding
    assert not whole.vae.use_tiling
