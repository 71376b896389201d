"""The text in a picture: whatever is written is read back, and any text can be read."""

import io
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sd_parsers import ParserManager

from memcard.generation.infotext import Infotext, read, save_png, write

# The form A1111 writes and every tool reads.
KNOWN = """a photo of a cat, (35mm:1.2) <lora:film:0.8>
second line
Negative prompt: blurry,
ugly: very
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 965400086, Size: 512x512, \
Model hash: 45dee52b, Model: v1-5-pruned, Lora hashes: "film: 9a2b3c4d5e6f, x: 001122334455", \
Version: v1.9.4"""

line = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\t"), max_size=20)
prompts = (
    st.lists(line, min_size=1, max_size=3)
    .map("\n".join)
    .filter(lambda text: text == text.strip() and "Negative prompt:" not in text)
)
keys = st.from_regex(r"[A-Za-z][A-Za-z0-9 /-]{0,12}[A-Za-z0-9]", fullmatch=True)
values = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@given(prompts, prompts, st.dictionaries(keys, values, min_size=3, max_size=5))
def test_what_is_written_is_read(prompt: str, negative: str, settings: dict[str, str]) -> None:
    info = Infotext(prompt, negative, settings)

    assert read(write(info)) == info


@pytest.mark.parametrize("value", ["C:\\models\\x", '"', " padded ", "ends\\", "日本", "\x85", ""])
def test_odd_values_come_back(value: str) -> None:
    settings = {"Steps": "1", "Model": value, "VAE": value, "Seed": "1"}

    assert read(write(Infotext("a cat", "", settings))).settings == settings


def test_a_text_of_a1111_is_taken_apart_and_written_letter_for_letter() -> None:
    info = read(KNOWN)

    assert info.prompt == "a photo of a cat, (35mm:1.2) <lora:film:0.8>\nsecond line"
    assert info.negative == "blurry,\nugly: very"
    assert info.settings["Sampler"] == "DPM++ 2M Karras"
    assert info.settings["Lora hashes"] == "film: 9a2b3c4d5e6f, x: 001122334455"
    assert write(info) == KNOWN


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    assert isinstance(read(text), Infotext)


@pytest.mark.parametrize(
    ("prompt", "chunk"),
    [
        ("a cat", b"tEXtparameters"),
        ("très beau", b"iTXtparameters"),
        ("一只猫 🐱", b"iTXtparameters"),
    ],
)
def test_prompts_of_any_script_are_read_by_other_programs(
    tmp_path: Path, prompt: str, chunk: bytes
) -> None:
    settings = {"Steps": "20", "Sampler": "DPM++ 2M", "CFG scale": "3", "Seed": "7"}
    file = io.BytesIO()
    save_png(
        Image.new("RGB", (8, 8)), file, write(Infotext(prompt, "blurry", settings)), {"p": prompt}
    )
    path = tmp_path / "x.png"
    path.write_bytes(file.getvalue())

    found = ParserManager().parse(path)

    assert chunk in file.getvalue()
    assert found is not None
    assert [str(p.value) for p in found.prompts] == [prompt]
    with Image.open(path) as image:
        assert json.loads(image.info["memcard"]) == {"p": prompt}


def test_a_hostile_line_costs_little() -> None:
    line = "Steps: 1, " + 'kk: {"b":1,"c":' + '{"b":1,"c":' * 100_000

    before = time.process_time()
    read(line)

    assert time.process_time() - before < 3


def test_lists_and_objects_in_a_value_stay_whole() -> None:
    resources = '[{"type":"lora","weight":0.8},{"type":"checkpoint","name":"a, b"}]'

    found = read(f"a cat\nSteps: 1, Civitai resources: {resources}, Seed: 3, CFG scale: 2")

    assert found.settings["Civitai resources"] == resources
    assert found.settings["Seed"] == "3"
