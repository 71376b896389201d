"""What the images say that ``generate`` returns, and what pictures say of a checkpoint that was made here."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import memcard
from memcard.formats import open_file
from memcard.jobs.bake import bake
from memcard.jobs.generate import run, save
from memcard.jobs.image_info import read_image
from memcard.jobs.merge import merge
from memcard.recipes.text import from_json, recipe_id

QUICK: dict[str, Any] = {"steps": 1, "seed": 5}
PIXEL, BLUEPRINT = "starter/lora_pixel", "starter/lora_blueprint"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_an_image_saved_from_python_says_what_a_saved_run_says(tmp_path: Path, name: str) -> None:
    (image,) = memcard.generate("a größe", loras=[(PIXEL, 0.5)], **QUICK)
    image.save(tmp_path / name)
    (path,) = save(run("a größe", loras=[(PIXEL, 0.5)], **QUICK), tmp_path / f"saved-{name}")

    mine, theirs = read_image(tmp_path / name), read_image(path)

    assert set(image.info) >= {"parameters", "memcard"}
    assert (mine.tool, mine.prompt, mine.seed) == ("memcard", "a größe", 5)
    assert (mine.settings, mine.loras, mine.checkpoint) == (
        theirs.settings,
        theirs.loras,
        theirs.checkpoint,
    )
    assert [lora.strength for lora in mine.loras] == [0.5]


def test_who_writes_texts_of_his_own_can_keep_them(tmp_path: Path) -> None:
    (image,) = memcard.generate("a red apple", **QUICK)
    larger = image.resize((128, 128))
    texts = PngInfo()
    for key in ("parameters", "memcard"):
        texts.add_itxt(key, larger.info[key])
    texts.add_text("Title", "mine")

    larger.save(tmp_path / "x.png", pnginfo=texts)

    assert read_image(tmp_path / "x.png").seed == 5
    with Image.open(tmp_path / "x.png") as saved:
        assert saved.info["Title"] == "mine"


def test_each_picture_of_a_run_says_its_own_loras(tmp_path: Path) -> None:
    prompts = ["a rocket <lora:pixel:0.5>", "a rocket", "a rocket <lora:blueprint:1>"]

    result = run(prompts, **QUICK)
    paths = save(result, tmp_path)

    said = [[lora["name"] for lora in result.facts_of(p)["loras"]] for p in result.pictures]
    assert said == [[PIXEL], [], [BLUEPRINT]]
    assert [json.loads(p.image.info["memcard"])["loras"] for p in result.pictures] == [
        result.facts_of(p)["loras"] for p in result.pictures
    ]
    assert [[lora.name for lora in read_image(path).loras] for path in paths] == said


def test_a_picture_of_a_merge_names_its_recipe(tmp_path: Path) -> None:
    merged = tmp_path / "merged.safetensors"
    merge("weighted_average", ["starter", "starter/raw"], out=merged)
    with closing(open_file(merged)) as checkpoint:
        stated = checkpoint.metadata["memcard.recipe_id"]
        assert stated == recipe_id(from_json(checkpoint.metadata["memcard.recipe"]))

    plain = run("a rocket", merged, **QUICK)
    styled = run("a rocket", merged, [(PIXEL, 0.5)], **QUICK)
    (path,) = save(plain, tmp_path / "x.png")

    assert plain.recipe == styled.recipe == stated == read_image(path).recipe
    assert f"Recipe id: {stated}" in plain.pictures[0].infotext
    assert json.loads(plain.pictures[0].image.info["memcard"])["recipe"] == stated
    assert run("a rocket", **QUICK).recipe is None


def test_a_recipe_baked_again_is_named_alike(tmp_path: Path) -> None:
    merged, again = tmp_path / "merged.safetensors", tmp_path / "again.safetensors"
    merge("weighted_average", ["starter", "starter/raw"], out=merged)

    bake(merged, again)

    assert run("a rocket", again, **QUICK).recipe == run("a rocket", merged, **QUICK).recipe
