"""A1111's text: what is written is read back, by us and by others."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sd_parsers import ParserManager

from memcard.generation.infotext import Infotext, hashes, read, save_png, write

FULL = Infotext(
    'a rocket, "red": (fast)',
    "blur, text",
    {
        "Steps": "20",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "7",
        "Seed": "42",
        "Size": "512x512",
        "Model hash": "0123456789",
        "Model": "my, model: one",
        "Lora hashes": hashes([("style", "0123456789ab"), ("other", "ba9876543210")]),
        "Version": "memcard 0.1",
    },
)
VALUES = st.text("abcXYZ019 ,:\"\\\n'äß雪-", min_size=1).map(str.strip).filter(bool)


def test_the_text_is_a1111s() -> None:
    lines = write(FULL).split("\n")

    assert lines[:2] == ['a rocket, "red": (fast)', "Negative prompt: blur, text"]
    assert lines[2] == (
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 42, "
        'Size: 512x512, Model hash: 0123456789, Model: "my, model: one", '
        'Lora hashes: "style: 0123456789ab, other: ba9876543210", Version: memcard 0.1'
    )


def test_what_is_written_is_read_back() -> None:
    assert read(write(FULL)) == FULL


@given(values=st.lists(VALUES, min_size=3, max_size=6))
def test_any_value_survives(values: list[str]) -> None:
    info = Infotext("prompt", "", {f"Key {chr(65 + i)}": v for i, v in enumerate(values)})

    assert read(write(info)) == info


@pytest.mark.parametrize("text", ["", "a cat: big", "one, two\nthree: four, five: six"])
def test_a_prompt_alone_stays_a_prompt(text: str) -> None:
    assert read(text) == Infotext(text)


def test_several_lines_of_prompt_and_negative_keep_theirs() -> None:
    info = Infotext("one\ntwo", "three\nfour", FULL.settings)

    assert read(write(info)) == info


def test_another_tool_reads_the_png(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        save_png(Image.new("RGB", (8, 8)), file, write(FULL), {"seed": 42})

    found = ParserManager().parse(path)

    assert found is not None
    sampler = found.samplers[0]
    assert (sampler.name, sampler.parameters["seed"]) == ("DPM++ 2M", "42")
    assert sampler.model is not None
    assert sampler.model.hash == "0123456789"
    assert [p.value for p in sampler.negative_prompts] == ["blur, text"]


def test_the_same_picture_and_text_are_the_same_bytes_in_any_script() -> None:
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        save_png(Image.new("RGB", (8, 8), "red"), file, "雪 and ß", {"b": 1, "a": "é"})

    assert files[0].getvalue() == files[1].getvalue()
    image = Image.open(files[0])
    assert (image.info["parameters"], image.info["memcard"]) == ("雪 and ß", '{"a": "é", "b": 1}')
