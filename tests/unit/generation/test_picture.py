"""What we write into PNG, JPEG and WebP is read back by us, and by other programs."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sd_parsers import ParserManager

from memcard.errors import UsageError
from memcard.generation.image_text import read_texts
from memcard.generation.infotext import Infotext, write
from memcard.generation.picture import FORMATS, picture, write_picture

TEXT = write(
    Infotext(
        "a größe 雪 <lora:film:0.8>",
        "blur",
        {
            "Steps": "20",
            "Sampler": "DPM++ 2M",
            "CFG scale": "7",
            "Seed": "42",
            "Size": "64x32",
            "Model hash": "0123456789",
            "Model": "base",
        },
    )
)
FACTS = {"memcard": "0.1", "prompt": 'a "größe" & <雪>', "seed": 42}


def noise() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def written(kind: str, facts: dict[str, Any] = FACTS, text: str = TEXT, **more: Any) -> bytes:
    file = io.BytesIO()
    write_picture(noise(), file, kind, text, facts, **more)
    return file.getvalue()


@pytest.mark.parametrize(("suffix", "kind"), FORMATS.items())
def test_both_texts_come_back(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(written(kind))

    found = read_texts(path)

    assert found.texts["parameters"] == TEXT
    assert json.loads(found.texts["memcard"]) == FACTS
    assert (found.format, found.width, found.height, found.notes) == (kind, 64, 32, [])


@pytest.mark.parametrize(("suffix", "kind"), FORMATS.items())
def test_another_program_agrees(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(written(kind))

    found = ParserManager().parse(path)

    assert found is not None
    sampler = found.samplers[0]
    assert sampler.name == "DPM++ 2M"
    assert (sampler.parameters["seed"], sampler.parameters["cfg_scale"]) == ("42", "7")
    assert sampler.model is not None
    assert (sampler.model.name, sampler.model.hash) == ("base", "0123456789")
    assert [p.value for p in sampler.prompts] == ["a größe 雪 <lora:film:0.8>"]
    assert [p.value for p in sampler.negative_prompts] == ["blur"]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_pixels_are_kept_to_the_bit(kind: str) -> None:
    image = Image.open(io.BytesIO(written(kind))).convert("RGB")

    assert image.tobytes() == noise().tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_same_picture_and_texts_are_the_same_bytes(kind: str) -> None:
    assert written(kind) == written(kind, dict(reversed(FACTS.items())))


def test_quality_makes_files_smaller() -> None:
    assert len(written("JPEG", quality=50)) < len(written("JPEG"))
    assert len(written("WEBP", quality=50)) < len(written("WEBP"))


def test_a_jpeg_says_that_its_texts_are_too_long_and_others_take_them(tmp_path: Path) -> None:
    long = "word " * 8000

    with pytest.raises(UsageError, match="a JPEG carries 65533 at most") as caught:
        written("JPEG", text=long)
    with pytest.raises(UsageError):
        written("JPEG", {"memcard": long * 2})
    path = tmp_path / "x.webp"
    path.write_bytes(written("WEBP", {"memcard": long}, long))

    assert "PNG or WebP" in str(caught.value)
    assert read_texts(path).texts["parameters"] == long


def test_a_jpeg_of_a_picture_with_alpha_can_be_written() -> None:
    file = io.BytesIO()

    write_picture(noise().convert("RGBA"), file, "JPEG", TEXT, FACTS)

    assert Image.open(file).mode == "RGB"


def test_what_cannot_be_encoded_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(written("PNG", {"prompt": "a\ud800b"}, "a\ud800b\0c"))

    assert read_texts(path).texts["parameters"] == "a?b\ufffdc"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
def test_a_picture_saved_by_hand_keeps_its_texts(tmp_path: Path, name: str) -> None:
    image = picture(torch.zeros(8, 8, 3))
    image.info |= {"parameters": TEXT, "memcard": json.dumps(FACTS)}

    image.save(tmp_path / name)
    with (tmp_path / f"file-{name}").open("wb") as file:
        image.save(file)

    for path in tmp_path.iterdir():
        texts = read_texts(path).texts
        assert (texts["parameters"], json.loads(texts["memcard"])) == (TEXT, FACTS)


def test_a_picture_without_texts_and_other_formats_are_saved_as_ever(tmp_path: Path) -> None:
    image = picture(torch.zeros(8, 8, 3))
    image.save(tmp_path / "a.png")
    image.info["parameters"] = TEXT
    image.save(tmp_path / "a.bmp")
    file = io.BytesIO()
    image.save(file, "JPEG", exif=b"")

    assert read_texts(tmp_path / "a.png").texts == {}
    assert b"UNICODE" not in file.getvalue()


def test_pixels_are_rounded_to_eight_bits() -> None:
    image = picture(torch.tensor([[[0.0, 0.5, 1.0]]]))

    assert image.getpixel((0, 0)) == (0, 128, 255)


def test_saving_by_hand_keeps_the_text_and_gives_the_same_bytes(tmp_path: Path) -> None:
    image = picture(torch.linspace(0, 1, 8 * 8 * 3).reshape(8, 8, 3))
    image.info["parameters"] = "très beau\nSteps: 3"
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.png")
    image.save(tmp_path / "a.jpg", quality=80)

    with Image.open(tmp_path / "a.png") as saved:
        assert saved.info["parameters"] == "très beau\nSteps: 3"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.jpg") as saved:
        assert saved.format == "JPEG"
