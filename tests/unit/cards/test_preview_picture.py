"""Settings inside a preview, as A1111 writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.sidecars import Beside, png
from memcard.cards import CARDS, read_card
from memcard.core.card import Card

TEXT = """a house, <lora:x:0.65> <lora:other:1>
Negative prompt: blurry, "Steps: 3"
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 1, Size: 832x1216, \
Model hash: 0123456789, VAE: "a, b.pt", Clip skip: 2, Lora hashes: "x: 0123, y: 4567", Version: v1.10"""


def read(subject: object) -> Card:
    found = CARDS["preview_picture"].read(subject)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("kind", [b"tEXt", b"iTXt"])
def test_the_settings_of_a_picture_are_a_guess(beside: Beside, kind: bytes) -> None:
    card = read(beside({".preview.png": png(TEXT, kind=kind)}))

    assert card.settings == {
        "cfg": 5.5,
        "steps": 28,
        "sampler": "DPM++ 2M",
        "scheduler": "Karras",
        "size": "832x1216",
        "clip_skip": 2,
        "vae": "a, b.pt",
        "strength": 0.65,
    }
    assert set(card.origin.values()) == {"preview_picture (guess)"}


def test_what_somebody_recommends_counts_more(beside: Beside) -> None:
    said = {"settings": {"cfg": 7}}

    card = read_card(beside({".png": png(TEXT), ".memcard.json": said}))

    assert (card.settings["cfg"], card.settings["steps"]) == (7, 28)
    assert card.notes == ()


def test_a_picture_of_our_own_is_read(beside: Beside, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    from memcard.generation.infotext import save_png

    picture = image.new("RGB", (8, 8))
    with (tmp_path / "x.png").open("wb") as file:
        save_png(picture, file, TEXT, {})

    assert read(beside()).settings["cfg"] == 5.5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8\xff\xe0 a JPEG",
        png("just a prompt"),
        png("a: b, c: d"),
        png(TEXT, key=b"workflow"),
        png(TEXT, kind=b"zTXt"),
        png(TEXT)[:60],
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 100,
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0tEXt\0\0\0\0" * 1000,
    ],
)
def test_pictures_without_settings_say_nothing(beside: Beside, content: bytes) -> None:
    assert CARDS["preview_picture"].read(beside({".png": content})) is None


def test_a_hostile_text_takes_no_time(beside: Beside) -> None:
    for piece in ("a: ", 'a: "', "a" * 50, '\\"', ": ,"):
        CARDS["preview_picture"].read(beside({".png": png(piece * 50_000)}))
