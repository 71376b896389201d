"""The A1111 text of our pictures has the field's keys, in the field's order."""

from typing import Any

import pytest

from memcard._version import __version__
from memcard.generation.image_a1111 import understand
from memcard.generation.settings import Settings
from memcard.jobs._picture_text import Described, SecondPass

SETTINGS = Settings(
    sampler="dpmpp_2m",
    schedule="karras",
    steps=20,
    cfg=7.0,
    width=512,
    height=768,
    negative="blur",
    prediction_type="epsilon",
)


def described(settings: dict[str, Any] | None = None, **more: Any) -> Described:
    from dataclasses import replace

    return Described(replace(SETTINGS, **(settings or {})), "base.safetensors", "ab" * 32, **more)


def test_what_is_usual_is_short() -> None:
    assert described().text("a cat", 42) == (
        "a cat\nNegative prompt: blur\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 42, Size: 512x768, "
        f"Model hash: ababababab, Model: base, RNG: CPU, Version: memcard {__version__}"
    )


def test_everything_has_its_key() -> None:
    text = described(
        {"clip_skip": 2, "guidance": 3.5, "cfg_rescale": 0.7},
        loras=[
            {"name": "film.safetensors", "strength": 0.8, "sha256": "cd" * 32, "in_prompt": True},
            {"name": "ink.pt", "strength": 0.5, "sha256": "ef" * 32, "autov3": "123456789abc"},
        ],
        vae={"name": "crisp.safetensors", "sha256": "12" * 32},
        embeddings=[{"name": "bad.pt", "sha256": "34" * 32}],
        recipe="56" * 32,
        denoise=0.5,
        second=SecondPass(1.5, 10, "latent"),
    ).text("a <lora:film:0.8>", 1)

    assert text.split("\n")[2] == (
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Distilled CFG Scale: 3.5, "
        "Seed: 1, Size: 512x768, Model hash: ababababab, Model: base, VAE hash: 1212121212, "
        "VAE: crisp.safetensors, Denoising strength: 0.5, Clip skip: 2, CFG Rescale: 0.7, RNG: CPU, "
        "Hires upscale: 1.5, Hires steps: 10, Hires upscaler: latent, "
        'Lora hashes: "film: cdcdcdcdcdcd, ink: 123456789abc", Lora weights: "ink: 0.5", '
        f'TI hashes: "bad: 343434343434", Recipe id: {"56" * 32}, Version: memcard {__version__}'
    )


def test_the_text_alone_says_all_that_others_understand() -> None:
    told = described(
        {"clip_skip": 2},
        loras=[{"name": "ink.safetensors", "strength": 0.5, "sha256": "ef" * 32}],
        recipe="56" * 32,
        denoise=0.5,
    )

    info = understand(told.text("a cat", 7))

    assert (info.tool, info.prompt, info.negative, info.seed) == ("memcard", "a cat", "blur", 7)
    assert (info.loras[0].name, info.loras[0].strength) == ("ink", 0.5)
    assert info.settings == {
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "steps": 20,
        "cfg": 7.0,
        "rng": "CPU",
        "width": 512,
        "height": 768,
        "clip_skip": 2,
        "denoise": 0.5,
    }
    assert info.recipe == "56" * 32
    assert info.notes == ()


@pytest.mark.parametrize(
    ("ours", "family", "theirs"), [(1, "sdxl", 1), (2, "sdxl", 3), (2, "sd1", 2)]
)
def test_clip_skip_is_counted_as_a1111_does(ours: int, family: str, theirs: int) -> None:
    info = understand(described({"clip_skip": ours}, architecture=family).text("a", 1))

    assert info.settings.get("clip_skip", 1) == theirs


def test_every_sampler_and_schedule_comes_back() -> None:
    from memcard.generation.samplers import SAMPLERS

    pairs = [(name, schedule) for name in SAMPLERS for schedule in SAMPLERS[name].schedules]

    for sampler, schedule in pairs:
        info = understand(described({"sampler": sampler, "schedule": schedule}).text("a", 1))
        assert (info.settings["sampler"], info.settings["schedule"]) == (sampler, schedule)


def test_a_lora_is_called_as_its_tag_calls_it() -> None:
    loras = [
        {"name": "ink.pt", "strength": 1.0, "sha256": "ef" * 32},
        {"name": "starter/lora_pixel", "strength": 0.5, "sha256": "cd" * 32, "in_prompt": True},
    ]

    text = described(loras=loras).text("a <lora:pixel:0.5>", 1)

    assert 'Lora hashes: "ink: efefefefefef, pixel: cdcdcdcdcdcd"' in text
    assert [(x.name, x.strength) for x in understand(text).loras] == [("pixel", 0.5), ("ink", 1.0)]
