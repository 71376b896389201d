"""Where pictures are written, in which format, and that each says how it was made."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from memcard.errors import NotFoundError, UsageError
from memcard.generation.settings import NAMES, Settings
from memcard.jobs._picture_text import Described
from memcard.jobs._pictures import Picture, Result, save
from memcard.jobs.image_info import read_image, request_of
from memcard.jobs.library import Library

SETTINGS = Settings(
    *("euler_a", "normal", 20, 5.0, 64, 64, "blur", "v_prediction"),
    origin=dict.fromkeys(NAMES, "family"),
)
LORAS = (
    {"name": "film.safetensors", "strength": 0.8, "sha256": "cd" * 32, "in_prompt": True},
    {"name": "starter/lora_pixel", "strength": 0.5, "sha256": "ef" * 32},
)


def result(count: int = 1, prompt: str = "a größe <lora:film:0.8>", **more: Any) -> Result:
    described = Described(SETTINGS, "starter", "ab" * 32, loras=LORAS)
    pictures = tuple(
        Picture(Image.new("RGB", (64, 64)), prompt, seed, described.text(prompt, seed))
        for seed in range(count)
    )
    return Result(
        *(pictures, "starter", "ab" * 32, "starter", LORAS, None, SETTINGS, 0.0, 0.0), **more
    )


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.JPEG", "x.webp"])
def test_the_ending_says_the_format_and_every_format_tells_all(tmp_path: Path, name: str) -> None:
    (path,) = save(result(recipe="12" * 32, more={"denoise": 0.5}), tmp_path / name)

    info = read_image(path)

    assert path.name == name
    assert (info.tool, info.prompt, info.negative) == ("memcard", "a größe <lora:film:0.8>", "blur")
    assert (info.seed, info.recipe, info.architecture) == (0, "12" * 32, "starter")
    assert [(x.name, x.strength, x.in_prompt) for x in info.loras] == [
        ("film.safetensors", 0.8, True),
        ("starter/lora_pixel", 0.5, False),
    ]
    assert info.settings["prediction_type"] == "v_prediction"
    assert info.notes == ()


def test_what_was_written_can_be_asked_for_again(tmp_path: Path) -> None:
    (path,) = save(result(prompt="a cat"), tmp_path / "x.png")

    request = request_of(read_image(path), Library(tmp_path / "none"), given=("checkpoint",))

    wanted = {name: getattr(SETTINGS, name) for name in ("sampler", "schedule", "steps", "cfg")}
    assert {name: request.arguments[name] for name in wanted} == wanted
    assert request.arguments["loras"] == [("starter/lora_pixel", 0.5)]
    assert request.arguments["seed"] == 0


def test_a_folder_gets_names_with_the_format_asked_for(tmp_path: Path) -> None:
    paths = save(result(2, "A cat!"), tmp_path / "new", format="WEBP")

    assert [path.name for path in paths] == ["a-cat-0.webp", "a-cat-1.webp"]


def test_several_pictures_of_one_name_get_numbers(tmp_path: Path) -> None:
    paths = save(result(2), tmp_path / "x.jpg")

    assert [path.name for path in paths] == ["x-1.jpg", "x-2.jpg"]


@pytest.mark.parametrize(
    ("out", "options", "words"),
    [
        ("x.bmp", {}, ".png, .jpg or .webp"),
        ("x.png", {"format": "jpg"}, "ends in .png, but the format is jpg"),
        ("", {"format": "avif"}, "There are: png, jpg, webp"),
        ("x.png", {"quality": 90}, "a PNG has no quality"),
        ("x.jpg", {"quality": 0}, "is not in 1..100"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, out: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        save(result(), tmp_path / out, **options)

    assert list(tmp_path.iterdir()) == []


def test_jpg_and_jpeg_are_one_format(tmp_path: Path) -> None:
    (path,) = save(result(), tmp_path / "x.jpeg", format="jpg", quality=50)

    assert path.name == "x.jpeg"


def test_a_folder_above_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        save(result(), tmp_path / "none" / "pictures")


def test_a_text_that_is_too_long_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="PNG or WebP"):
        save(result(prompt="word " * 8000), tmp_path / "x.jpg")

    assert list(tmp_path.iterdir()) == []
