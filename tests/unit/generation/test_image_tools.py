"""Pictures of every tool are understood; known answers, from their formats."""

import json
from pathlib import Path

import pytest
from sd_parsers import ParserManager

from fixtures import foreign_images as foreign
from fixtures.foreign_images import png, write
from memcard.generation.image_a1111 import renamed
from memcard.generation.image_info import (
    ImageInfo,
    Used,
    UsedLora,
    hashes,
    own_clip_skip,
    sampling,
    size,
    stem,
    usual_clip_skip,
)
from memcard.generation.image_text import ImageText
from memcard.generation.image_tools import understand


def of(**texts: str) -> ImageInfo:
    return understand(ImageText("PNG", texts=texts))


OURS = {
    "memcard": "0.1.0",
    "checkpoint": {"name": "base.safetensors", "sha256": "ab" * 32},
    "architecture": "sdxl",
    "loras": [
        {"name": "film.safetensors", "strength": 0.8, "sha256": "cd" * 32},
        {"name": "ink.safetensors", "strength": -0.5, "text_strength": 0.25, "sha256": "ef" * 32},
    ],
    "vae": {"name": "crisp.safetensors", "sha256": "12" * 32},
    "settings": {
        "sampler": "dpmpp_2m",
        "schedule": "beta",
        "steps": 20,
        "cfg": 5.5,
        "width": 512,
        "height": 768,
        "negative": "blur",
        "prediction_type": "v_prediction",
        "clip_skip": 2,
        "guidance": None,
    },
    "recipe": "r" * 64,
    "prompt": "a cat <lora:film:0.8>",
    "seed": 2**32 - 1,
}


def test_ours_comes_back_whole() -> None:
    info = of(memcard=json.dumps(OURS))

    assert (info.tool, info.prompt, info.negative) == ("memcard", "a cat <lora:film:0.8>", "blur")
    assert info.checkpoint == Used("base.safetensors", ("ab" * 32,))
    assert info.vae == Used("crisp.safetensors", ("12" * 32,))
    assert info.loras == (
        UsedLora("film.safetensors", 0.8, None, ("cd" * 32,), in_prompt=True),
        UsedLora("ink.safetensors", -0.5, 0.25, ("ef" * 32,)),
    )
    assert (info.seed, info.architecture, info.recipe) == (2**32 - 1, "sdxl", "r" * 64)
    assert info.settings == {
        "sampler": "dpmpp_2m",
        "schedule": "beta",
        "steps": 20,
        "cfg": 5.5,
        "width": 512,
        "height": 768,
        "prediction_type": "v_prediction",
        "clip_skip": 3,  # SDXL's own layer is what others call 2
    }
    assert info.notes == ()


def test_our_second_pass_has_the_words_of_others() -> None:
    second = {"scale": 1.5, "strength": 0.4, "steps": None, "upscaler": "latent"}

    info = of(memcard=json.dumps({**OURS, "second_pass": second}))

    more = {"hires_scale": 1.5, "denoise": 0.4, "hires_upscaler": "latent"}
    assert {key: info.settings.get(key) for key in more} == more


def test_our_json_is_believed_before_the_other_text_and_a_difference_is_told() -> None:
    other = foreign.A1111

    info = of(memcard=json.dumps(OURS), parameters=other)

    assert info.seed == 2**32 - 1
    assert "another prompt or seed" in info.notes[0]
    assert info.raw["parameters"] == other


def test_a1111() -> None:
    info = of(parameters=foreign.A1111)

    assert info.tool == "A1111"
    assert info.prompt == "masterpiece, (35mm:1.2) <lora:film:0.8>\nsecond line"
    assert info.negative == "blurry,\nugly"
    assert info.settings == {
        "steps": 20,
        "cfg": 7.0,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "width": 512,
        "height": 768,
        "clip_skip": 2,
        "denoise": 0.55,
        "rng": "CPU",
        "hires_scale": 1.5,
        "hires_steps": 10,
        "hires_upscaler": "Latent",
    }
    assert info.checkpoint == Used("v1-5-pruned", ("45dee52b12",))
    assert info.vae == Used("vae-ft-mse-840000-ema-pruned.safetensors", ("735e4c3a44",))
    assert info.loras == (UsedLora("film", 0.8, None, ("9a2b3c4d5e6f",), in_prompt=True),)
    assert info.embeddings == (Used("easynegative", ("c74b4e810b03",)),)
    assert info.seed == 965400086


def test_the_sampler_of_an_old_a1111_says_the_schedule() -> None:
    info = of(parameters=foreign.OLD_A1111)

    assert (info.settings["sampler"], info.settings["schedule"]) == ("dpmpp_2m", "karras")
    assert info.checkpoint == Used("", ("7460a6fa",))


def test_forge() -> None:
    info = of(parameters=foreign.FORGE)

    assert (info.tool, info.settings["guidance"], info.settings["cfg"]) == ("Forge", 3.5, 1.0)
    assert info.settings["schedule"] == "simple"


def test_sdnext() -> None:
    text = "a cat\nSteps: 20, Size: 512x512, Sampler: Euler a, Seed: 3, App: SD.Next, Version: abc"

    assert of(parameters=text).tool == "SD.Next"


def test_lines_that_an_extension_adds_are_not_prompt() -> None:
    info = of(parameters=f"{foreign.OLD_A1111}\nTemplate: {{a|b}} cat")

    assert (info.prompt, info.seed) == ("a cat", 1)


def test_civitai() -> None:
    info = of(parameters=foreign.CIVITAI)

    assert (info.tool, info.negative, info.seed) == ("Civitai", "bad", 9)
    assert info.checkpoint == Used("Pony, XL", ("67ab2fd8ec",))
    assert info.settings["clip_skip"] == 2


def test_swarmui() -> None:
    info = of(parameters=foreign.SWARM, prompt="{}")

    assert (info.tool, info.prompt, info.seed) == ("SwarmUI", "a fox <lora:x>", 1234)
    assert info.checkpoint == Used("SDXL/juggernaut_v9", ("ab" * 32,))
    assert info.loras == (UsedLora("styles/film", 0.6, None, ("cd" * 32,)),)
    assert info.settings == {
        "steps": 24,
        "cfg": 6.5,
        "width": 1024,
        "height": 960,
        "clip_skip": 2,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
    }


def test_fooocus() -> None:
    info = of(parameters=foreign.FOOOCUS, fooocus_scheme="fooocus")

    assert (info.tool, info.prompt, info.seed) == ("Fooocus", "a castle", 124548564)
    assert info.checkpoint == Used("juggernautXL_v8Rundiffusion", ("aeb7e9e689",))
    assert info.loras[0].hashes == ("4852686128",)
    assert info.settings["sampler"] == "dpmpp_2m_sde"
    assert (info.settings["width"], info.settings["height"]) == (896, 1152)
    assert info.vae is None
    assert "styles" in info.notes[0]


def test_invokeai() -> None:
    info = of(invokeai_metadata=foreign.INVOKE)

    assert (info.tool, info.prompt, info.negative) == ("InvokeAI", "a tower", "people")
    assert info.checkpoint == Used("Dreamshaper 8", ("12" * 32,))
    assert info.loras == (UsedLora("film", 0.75, None, ("34" * 32,)),)
    assert info.settings["clip_skip"] == 2
    assert (info.settings["sampler"], info.settings["schedule"]) == ("dpmpp_2m", "karras")
    assert "cfg_rescale" not in info.settings


def test_novelai() -> None:
    info = of(**foreign.NOVELAI)

    assert (info.tool, info.prompt, info.negative) == ("NovelAI", "1girl, garden", "lowres")
    assert (info.settings["sampler"], info.settings["schedule"]) == ("euler_a", "karras")
    assert info.seed == 3333333333


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"Title": "holiday"},
        {"memcard": "[]"},
        {"memcard": '{"memcard": 3}'},
        {"invokeai_metadata": "nonsense"},
        {"Comment": "{}"},
        {"memcard": "[" * 100_000},
    ],
)
def test_a_picture_that_says_nothing_is_unknown(texts: dict[str, str]) -> None:
    info = of(**texts)

    assert (info.tool, info.prompt, info.settings) == ("unknown", "", {})
    assert info.notes == ("Nothing in the file says how it was made.",)
    assert info.raw == texts


def test_values_that_make_no_sense_are_noted_and_left_out() -> None:
    text = "a\nSteps: many, Sampler: Euler, CFG scale: nan, Seed: -1, Size: 0x0, Clip skip: 1.5"

    info = of(parameters=text)

    assert info.settings == {"sampler": "euler"}
    assert info.seed is None
    assert len(info.notes) == 4


def test_seeds_of_64_bits_keep_their_last_digit() -> None:
    said = {**OURS, "seed": 2**64 - 1}

    assert of(memcard=json.dumps(said)).seed == 2**64 - 1
    assert of(parameters=f"a\nSteps: 1, Seed: {2**53 + 1}, CFG scale: 1").seed == 2**53 + 1


def test_samplers_and_schedules_get_our_names_where_we_have_them() -> None:
    assert sampling("DPM++ 2M Karras") == {"sampler": "dpmpp_2m", "schedule": "karras"}
    assert sampling("Euler", "Beta", tool="a1111")["schedule"] == "beta_sigma"
    assert sampling("euler", "beta")["schedule"] == "beta"
    assert sampling("Mystery", "Odd") == {"sampler": "Mystery", "schedule": "Odd"}
    assert sampling("Mystery", "Automatic") == {"sampler": "Mystery"}
    assert "schedule" in sampling("Euler", "Automatic")
    assert sampling(None, 3) == {}


def test_names_hashes_and_sizes() -> None:
    assert stem("SDXL\\a/b.v1.safetensors") == "b.v1"
    assert stem("model v1.5") == "model v1.5"
    assert hashes("0xABCDEF01", "blake3:" + "0" * 64, "short", None) == ("abcdef01", "0" * 64)
    assert size("512x768") == size("(512, 768)") == {"width": 512, "height": 768}
    assert size("0x5") == size(None) == size("x") == {}


def test_clip_skip_is_counted_as_others_do() -> None:
    assert [usual_clip_skip(n, "sd1") for n in (1, 2)] == [1, 2]
    assert [usual_clip_skip(n, "sdxl") for n in (1, 2)] == [1, 3]
    assert [own_clip_skip(n, "sdxl") for n in (1, 2, 3)] == [1, 1, 2]
    assert own_clip_skip(2, None) == 2


def test_tags_get_other_names_and_keep_all_else() -> None:
    prompt = "a <lora:film:0.8> <LoRA: ink :0.5:1> <lyco:x> <hypernet:film:1> film"

    assert renamed(prompt, str.upper) == (
        "a <lora:FILM:0.8> <LoRA:INK:0.5:1> <lyco:X> <hypernet:film:1> film"
    )


def test_facts_are_json_values() -> None:
    facts = of(parameters=foreign.A1111).to_dict()

    assert json.loads(json.dumps(facts))["loras"][0]["name"] == "film"
    assert "recipe" not in facts


@pytest.mark.parametrize(
    "texts",
    [
        {"parameters": foreign.A1111},
        {"parameters": foreign.OLD_A1111},
        {"prompt": json.dumps(foreign.COMFY), "workflow": foreign.workflow(foreign.COMFY)},
        {"invokeai_metadata": foreign.INVOKE},
        foreign.NOVELAI,
    ],
    ids=["A1111", "old A1111", "ComfyUI", "InvokeAI", "NovelAI"],
)
def test_another_reader_agrees(tmp_path: Path, texts: dict[str, str]) -> None:
    path = write(tmp_path / "x.png", png(texts))
    judge = ParserManager().parse(path)
    assert judge is not None
    sampler = judge.samplers[0]

    info = of(**texts)

    assert [prompt.value for prompt in judge.prompts] == [info.prompt]
    assert [prompt.value for prompt in judge.negative_prompts] == (
        [info.negative] * bool(info.negative)
    )
    assert int(sampler.parameters["seed"]) == info.seed
    assert int(sampler.parameters.get("steps", 28)) == info.settings["steps"]
