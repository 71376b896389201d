"""Images that keep what they say about themselves."""

from pathlib import Path

import torch
from PIL import Image

from memcard.generation.picture import picture

PIXELS = torch.linspace(0, 1, 8 * 8 * 3).reshape(8, 8, 3)


def test_pixels_are_rounded_to_eight_bits() -> None:
    image = picture(torch.tensor([[[0.0, 0.5, 1.0]]]))

    assert image.getpixel((0, 0)) == (0, 128, 255)


def test_saving_keeps_the_text(tmp_path: Path) -> None:
    image = picture(PIXELS)
    image.info["parameters"] = "très beau\nSteps: 3"
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.png")

    with Image.open(tmp_path / "a.png") as saved:
        assert saved.info["parameters"] == "très beau\nSteps: 3"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_other_formats_are_saved_as_ever(tmp_path: Path) -> None:
    image = picture(PIXELS)
    image.info["parameters"] = "x"
    image.save(tmp_path / "a.jpg", quality=80)

    with Image.open(tmp_path / "a.jpg") as saved:
        assert saved.format == "JPEG"
