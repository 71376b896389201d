from pathlib import Path

import pytest
from PIL import Image

import memcard
from memcard.core.progress import Event, Notice
from memcard.jobs._demo_page import page
from memcard.jobs.demo import demo
from memcard.jobs.resolve import names


@pytest.mark.slow
def test_the_tour_leaves_a_sheet_a_page_and_a_merged_checkpoint(tmp_path: Path) -> None:
    said: list[Event] = []

    tour = demo(tmp_path / "tour", prompts=("a red apple",), progress=said.append)

    with Image.open(tour.sheet) as sheet:
        assert sheet.height > 10 * 128
        assert len(sheet.convert("RGB").getcolors(maxcolors=2**24)) > 1000
    assert sorted(p.name for p in (tmp_path / "tour").iterdir()) == [
        "index.html",
        "merged.safetensors",
        "sheet.png",
    ]
    assert memcard.inspect(tour.merged).architecture == "starter"
    html = tour.page.read_text("utf-8")
    assert all(command.split('"')[-1] in html for command in tour.commands)
    assert [row["checkpoint"] for row in tour.checkpoints] == [*names(), "merged.safetensors"]
    assert {row["license"] for row in tour.checkpoints} == {"Apache-2.0"}
    commands = [e.text for e in said if isinstance(e, Notice)]
    assert commands == [f"$ {command}" for command in tour.commands]
    assert tour.pictures == len(tour.commands) - 2 >= 11


def test_what_stands_on_the_page_is_escaped() -> None:
    html = page(
        checkpoints=[{"checkpoint": "<b>x</b>"}],
        commands=['memcard generate "<a>"'],
        labels=["base"],
        seed=1,
        seconds=2.0,
        version="0.1",
    )

    assert "<b>x</b>" not in html
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "&lt;a&gt;" in html
