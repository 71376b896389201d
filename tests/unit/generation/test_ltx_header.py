"""What a file of LTX-Video says about itself decides its noise levels, its steps and its guidance."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fixtures import ltx_clips, videos
from fixtures.ltx_clips import (
    PROMPT,
    SMALL,
    in_memory,
    pipeline_of,
    reference,
    settings,
    single_file,
)
from memcard.architectures import ARCHITECTURES
from memcard.generation.denoise import conditions
from memcard.generation.engine import Pipeline
from memcard.generation.engines._ltx_header import (
    DISTILLED,
    causal,
    levels,
    linear_quadratic,
    read,
    shifted,
)
from memcard.generation.latents import generator
from memcard.generation.passes import paint
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose
from memcard.jobs.convert import convert

# As Lightricks' files have it, without what their classes have by default.
QUADRATIC = {"_class_name": "RectifiedFlowScheduler", "num_train_timesteps": 1000}
QUADRATIC |= {"shifting": None, "base_resolution": None, "sampler": "LinearQuadratic"}
SHIFTED = {"_class_name": "RectifiedFlowScheduler", "num_train_timesteps": 1000}
SHIFTED |= {"shifting": "SD3", "base_resolution": None, "target_shift_terminal": 0.1}
HEADER = {
    "transformer": {"causal_temporal_positioning": True},
    "scheduler": QUADRATIC,
    "allowed_inference_steps": list(DISTILLED),
}


def said(config: Any, label: str = "ltx.safetensors") -> dict[str, dict[str, Any]]:
    return read({"config": config if isinstance(config, str) else json.dumps(config)}, label)


def configs(scheduler: dict[str, Any], late: bool = False) -> dict[str, dict[str, Any]]:
    blocks = f"LTXVideo{'095' if late else ''}DownBlock3D"
    usual = {"use_dynamic_shifting": True, "shift_terminal": 0.1}
    return {"scheduler": {**usual, **scheduler}, "vae": {"down_block_types": [blocks] * 4}}


def test_a_header_names_levels_and_positions() -> None:
    found = said(HEADER)

    assert found["scheduler"]["ltx"] == {
        "levels": DISTILLED, "fresh": False, "causal": True, "quadratic": True,
    }  # fmt: skip
    assert found["scheduler"]["use_dynamic_shifting"] is False


def test_shifts_of_a_header_are_those_of_diffusers() -> None:
    found = said({"scheduler": SHIFTED})["scheduler"]
    plain = said({"scheduler": {**SHIFTED, "target_shift_terminal": None}})["scheduler"]

    assert (found["use_dynamic_shifting"], found["shift_terminal"]) == (True, 0.1)
    assert found["ltx"] == {"quadratic": False}
    assert (plain["use_dynamic_shifting"], plain["shift_terminal"]) == (True, None)


@pytest.mark.parametrize(
    ("label", "distilled", "fresh"),
    [
        ("ltxv-2b-0.9.6-distilled-04-25.safetensors", True, True),
        ("ltxv-13b-0.9.8-distilled-fp8.safetensors", True, False),
        ("LTXV-13B-Distilled-Q4_K_M.gguf", True, False),
        ("ltxv-13b-0.9.7-distilled-lora128", False, False),
        ("ltxv-2b-0.9.5.safetensors", False, False),
    ],
)
def test_a_name_says_distilled_where_no_header_does(
    label: str, distilled: bool, fresh: bool
) -> None:
    found = read({}, label)["scheduler"]["ltx"]

    assert found == ({"levels": DISTILLED, "fresh": fresh} if distilled else {})


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        {"scheduler": 3, "transformer": [], "allowed_inference_steps": {}},
        {"transformer": {"causal_temporal_positioning": "yes"}},
        {"scheduler": {"sampler": "Constant"}},
        {"scheduler": {"shifting": "SimpleDiffusion", "sampler": "Uniform"}},
        {"allowed_inference_steps": []},
        {"allowed_inference_steps": [0.5, 1.0]},
        {"allowed_inference_steps": [0.5, 0.2]},
        {"allowed_inference_steps": [1.0, 1.0]},
        {"allowed_inference_steps": [1.0, 0.0]},
        {"allowed_inference_steps": [1.0, "0.5"]},
        {"allowed_inference_steps": [1.0 - i / 2000 for i in range(1001)]},
        '{"allowed_inference_steps": [1.0, NaN]}',
    ],
    ids=lambda config: str(config)[:40],
)
def test_what_makes_no_sense_is_as_good_as_not_said(config: Any) -> None:
    assert said(config) == {"scheduler": {"ltx": {}}}


def test_a_terminal_out_of_range_is_none() -> None:
    for terminal in (0.0, 1.0, -1.0, "0.1", float("nan")):
        found = said({"scheduler": {**SHIFTED, "target_shift_terminal": terminal}})
        assert found["scheduler"]["shift_terminal"] is None


def test_the_autoencoder_tells_a_late_release_where_nothing_else_does() -> None:
    early, late = configs({}), configs({}, late=True)

    assert (causal(early), causal(late)) == (False, True)
    assert (shifted(early), shifted(late)) == (True, False)
    assert levels(early, 4).tolist() == [1, 0.75, 0.5, 0.25]
    assert levels(late, 8).tolist() == pytest.approx(linear_quadratic(8), abs=1e-7)
    assert causal(configs({"ltx": {"causal": False}}, late=True)) is False
    assert shifted(configs({"ltx": {"quadratic": False}}, late=True)) is True


def test_a_line_then_a_parabola() -> None:
    from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule

    for steps in (1, 2, 3, 7, 8, 30, 50):
        found = torch.tensor(linear_quadratic(steps))
        assert torch.equal(found, linear_quadratic_schedule(steps))
    assert np.round(linear_quadratic(8), 4).tolist() == pytest.approx(DISTILLED, abs=1.01e-4)


def test_a_list_counts_for_as_many_steps_as_it_has() -> None:
    found = configs({"ltx": {"levels": DISTILLED}})

    assert levels(found, 8).tolist() == pytest.approx(DISTILLED, abs=1e-7)
    assert levels(found, 4).tolist() == pytest.approx(linear_quadratic(4), abs=1e-7)
    assert shifted(found) is False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return Path(tmp_path_factory.mktemp("ltx"))


@pytest.fixture(scope="module")
def distilled(folder: Path) -> Pipeline:
    """A 13B by its proportions: heads of twice the width, more layers."""
    return in_memory(single_file(folder / "ltxv.safetensors", "0.9.5", HEADER, width=4))


def used(pipeline: Pipeline, **user: Any) -> Settings:
    engine: Any = pipeline.engine
    said = {"width": 32, "height": 64, "frames": 9, **user}
    return choose(ARCHITECTURES["ltx_video"], {}, said, engine.usual(pipeline))


def clip(pipeline: Pipeline, used: Settings, seed: int) -> Tensor:
    return paint(pipeline, conditions(pipeline, PROMPT, "", used), used, seed)[1]


@pytest.mark.filterwarnings("ignore")
def test_a_distilled_13b_walks_its_own_levels_without_guidance(
    distilled: Pipeline, folder: Path
) -> None:
    pipe = ltx_clips.theirs("LTXConditionPipeline", "0.9.5", folder, width=4)
    chosen = used(distilled)

    found = clip(distilled, chosen, 5)

    assert (chosen.steps, chosen.cfg, chosen.sampler) == (8, 1.0, "euler")
    assert chosen.origin["steps"] == "family"
    wanted = reference(
        *(pipe, chosen, 5, "latent"), timesteps=[level * 1000 for level in DISTILLED]
    )
    assert torch.equal(found, wanted)


def test_a_13b_is_built_as_its_header_and_shapes_say(distilled: Pipeline) -> None:
    config = distilled.denoiser.config

    assert (config.num_layers, config.attention_head_dim, config.cross_attention_dim) == (3, 4, 128)
    assert config.num_attention_heads == 32


@pytest.mark.filterwarnings("ignore")
def test_the_user_asks_for_other_steps_and_gets_them(distilled: Pipeline) -> None:
    chosen = used(distilled, steps=4, cfg=2.0)

    found = distilled.engine.scheduler(distilled, chosen).sigmas

    assert (chosen.steps, chosen.cfg) == (4, 2.0)
    assert found.tolist() == pytest.approx([*linear_quadratic(4), 0], abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_first_distilled_release_puts_fresh_noise_on(folder: Path, distilled: Pipeline) -> None:
    """Source: ``stochastic_sampling`` of its config; ``schedulers/rf.py``."""
    path = single_file(folder / "ltxv-2b-0.9.6-distilled.safetensors", "0.9.5")
    pipeline = in_memory(path)
    chosen = used(pipeline)

    found = clip(pipeline, chosen, 5)

    assert (chosen.steps, chosen.cfg, chosen.sampler) == (8, 1.0, "lcm")
    source = generator(5)
    told = conditions(pipeline, PROMPT, "", chosen).spans[0][1]
    latents = pipeline.engine.noise(pipeline, chosen, source)
    walked = pipeline.engine.scheduler(pipeline, chosen).sigmas
    with torch.inference_mode():
        for now, after in pairwise(walked):
            guess = pipeline.engine.predict(pipeline, latents, now * 1000, told, chosen)
            clean = latents - now * guess
            drawn = torch.randn(latents.shape, generator=source)
            latents = (1 - after) * clean + after * drawn if after else clean
    assert float((found - latents).abs().max()) <= 1e-5  # sums in another order


@pytest.mark.filterwarnings("ignore")
def test_an_early_file_says_nothing_new(folder: Path) -> None:
    header = {"transformer": {"causal_temporal_positioning": False}, "scheduler": SHIFTED}
    told = in_memory(single_file(folder / "a.safetensors", "0.9.0", header))
    silent = in_memory(single_file(folder / "b.safetensors", "0.9.0"))

    found, wanted = (clip(one, used(one, steps=3), 5) for one in (told, silent))

    assert torch.equal(found, wanted)
    assert used(told).steps == 50


@pytest.mark.filterwarnings("ignore")
def test_the_header_decides_over_the_autoencoder(folder: Path) -> None:
    """A late autoencoder, but trained to count and to shift as the early releases were."""
    header = {"transformer": {"causal_temporal_positioning": False}, "scheduler": SHIFTED}
    pipeline = in_memory(single_file(folder / "c.safetensors", "0.9.5", header))
    pipe = ltx_clips.theirs("LTXPipeline", "0.9.5", folder, videos.LTX_SCHEDULER)
    chosen = settings(**SMALL)

    assert torch.equal(clip(pipeline, chosen, 5), reference(pipe, chosen, 5, "latent"))


def test_a_folder_walks_as_its_file_did(folder: Path) -> None:
    path = single_file(folder / "d.safetensors", "0.9.5", HEADER)
    convert(path, f"{folder / 'folder'}/")

    file, kept = pipeline_of(path), pipeline_of(folder / "folder")

    walked = [one.engine.scheduler(one, settings(steps=8)).sigmas for one in (file, kept)]
    assert torch.equal(*walked)
    assert walked[0].tolist() == pytest.approx([*DISTILLED, 0])
    assert used(kept).cfg == 1.0


@pytest.mark.parametrize(
    ("asked", "made"),
    [(1, 1), (2, 1), (5, 9), (9, 9), (12, 9), (13, 17), (24, 25), (25, 25), (160, 161)],
)
def test_frames_are_rounded_to_what_can_be_made_and_it_is_said(
    distilled: Pipeline, asked: int, made: int
) -> None:
    engine: Any = distilled.engine

    found, notes = engine.fitting(distilled, replace(settings(), frames=asked))

    assert found.frames == made
    assert notes == (
        ()
        if asked == made
        else (f"LTX-Video makes one frame more than a multiple of 8: {made} frames, not {asked}.",)
    )
