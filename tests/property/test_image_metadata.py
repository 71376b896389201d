"""Any prompt survives in any format of picture, and no file or graph of a stranger does harm."""

import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fixtures.foreign_images import A1111, COMFY, png, user_comment, with_exif
from memcard.errors import MemcardError
from memcard.generation import _exif
from memcard.generation.comfy_graph import understand as understand_graph
from memcard.generation.image_a1111 import understand as understand_text
from memcard.generation.image_text import ImageText
from memcard.generation.image_tools import understand
from memcard.generation.infotext import Infotext, write
from memcard.generation.picture import write_picture
from memcard.jobs.image_info import read_image

one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
any_text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=60)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


def told(path: Path) -> str:
    """Return what is said of a file: its facts with its name, or why it cannot be read."""
    try:
        return f"{path} {json.dumps(read_image(path).to_dict())}"
    except MemcardError as error:
        return str(error)


@one_folder
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@given(prompt=any_text, negative=any_text, seed=st.integers(0, 2**64 - 1))
def test_any_prompt_comes_back_from_our_pictures(
    tmp_path: Path, kind: str, prompt: str, negative: str, seed: int
) -> None:
    facts = {
        "memcard": "0.1",
        "prompt": prompt,
        "seed": seed,
        "settings": {"negative": negative, "steps": 3},
    }
    said = {"Steps": "3", "Seed": str(seed), "Size": "8x8"}
    file = io.BytesIO()
    write_picture(
        Image.new("RGB", (8, 8)), file, kind, write(Infotext(prompt, negative, said)), facts
    )
    path = tmp_path / "x"
    path.write_bytes(file.getvalue())

    info = read_image(path)

    assert (info.prompt, info.negative, info.seed) == (prompt, negative, seed)


@given(text=any_text)
def test_any_text_survives_exif(text: str) -> None:
    block = _exif.write(f"{text}, Steps: 1")  # what is written always has a line like this

    assert _exif.read(block) == {"UserComment": f"{text}, Steps: 1"}


@one_folder
@given(seed=st.integers(0, 2**32), cut=st.booleans())
def test_a_damaged_picture_is_read_or_refused_in_words(
    tmp_path: Path, seed: int, cut: bool
) -> None:
    dice = random.Random(seed)
    whole = dice.choice(
        [
            png({"parameters": A1111, "prompt": json.dumps(COMFY)}),
            with_exif("JPEG", {0x0131: "x"}, {0x9286: user_comment(A1111)}),
            with_exif("WEBP", {0x0110: "prompt:" + json.dumps(COMFY)}, {}),
        ]
    )
    broken = bytearray(whole)
    for _ in range(dice.randint(1, 8)):
        broken[dice.randrange(len(broken))] = dice.randrange(256)
    path = tmp_path / "x"
    path.write_bytes(broken[: dice.randrange(len(broken))] if cut else broken)

    assert str(path) in told(path)


@given(block=st.binary(max_size=200), order=st.sampled_from([b"MM\0*", b"II*\0"]))
def test_any_exif_is_read_or_refused(block: bytes, order: bytes) -> None:
    assert isinstance(_exif.read(order + bytes(4) + block), dict)


@given(value=json_values, keyword=st.sampled_from(["memcard", "parameters", "prompt", "Comment"]))
def test_any_json_can_be_read(value: object, keyword: str) -> None:
    text = json.dumps(value)

    info = understand(ImageText("PNG", texts={keyword: text, "fooocus_scheme": "fooocus"}))

    json.dumps(info.to_dict())


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from([*"123456789", "10", "11", "12"]),
        st.tuples(
            st.sampled_from([node["class_type"] for node in COMFY.values()]),
            st.dictionaries(
                st.sampled_from(
                    [key for node in COMFY.values() for key in node["inputs"]]
                    + [
                        "guider",
                        "sigmas",
                        "noise",
                        "sampler",
                        "conditioning",
                        "string_a",
                        "string_b",
                    ]
                ),
                json_values | st.tuples(st.sampled_from([*"123456789"]), st.integers(0, 2)),
                max_size=5,
            ),
        ),
        max_size=6,
    )
)
def test_any_graph_can_be_read(nodes: dict[str, tuple[str, dict[str, object]]]) -> None:
    graph = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}

    assert understand_graph(json.dumps(graph)).tool == "ComfyUI"


@given(st.text(max_size=200))
def test_any_text_is_understood(text: str) -> None:
    json.dumps(understand_text(text).to_dict())


@one_folder
@given(content=st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    for start in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"RIFF\xff\xff\0\0WEBP",
        b"\0\0\0\x08ftyp",
        b"GIF89a",
    ):
        path.write_bytes(start + content)
        assert str(path) in told(path)
