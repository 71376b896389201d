"""Pictures that memcard 0.1 wrote are read for ever: ``tests/golden/image_metadata_v1``."""

import json
from pathlib import Path

import pytest

from memcard.generation.image_text import read_texts
from memcard.jobs.image_info import read_image

GOLDEN = Path(__file__).parents[1] / "golden" / "image_metadata_v1"
EXPECTED = json.loads((GOLDEN / "ours.json").read_text("utf-8"))


@pytest.mark.parametrize("name", ["ours.png", "ours.jpg", "ours.webp"])
def test_old_pictures_are_read(name: str) -> None:
    found = json.loads(json.dumps(read_image(GOLDEN / name).to_dict()))

    settings = {key: found["settings"].get(key) for key in EXPECTED["settings"]}
    assert {**{key: found.get(key) for key in EXPECTED}, "settings": settings} == EXPECTED
    assert "notes" not in found


@pytest.mark.parametrize("name", ["ours.png", "ours.jpg", "ours.webp"])
def test_the_text_for_others_is_the_same_in_every_format(name: str) -> None:
    text = read_texts(GOLDEN / name).texts["parameters"]

    assert text == (GOLDEN / "parameters.txt").read_text("utf-8")
