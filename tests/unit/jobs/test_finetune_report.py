"""What is shown of a run: strips, sheets, the page with its curve."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memcard.jobs._finetune_models import build, read_base
from memcard.jobs._finetune_report import curve, report
from memcard.jobs._finetune_sheet import Painter, Sheets
from memcard.jobs.generate import generate
from memcard.jobs.resolve import resolve


def strip(colour: str, count: int) -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), colour)] * count


def test_a_page_has_a_row_for_each_strip_of_its_prompts(tmp_path: Path) -> None:
    sheets = Sheets(tmp_path, ("a", "ü"))
    for step, colour in ((0, "red"), (50, "green"), (100, "blue")):
        sheets.keep(step, strip(colour, 2))
    Sheets(tmp_path, ("other", "prompts")).keep(75, strip("magenta", 2))

    with Image.open(sheets.page(tmp_path / "sheet.png", cell=64)) as page:
        seen = {colour for count, colour in page.getcolors(1 << 20) or () if count == 2 * 64 * 64}

    assert sheets.steps() == [0, 50, 75, 100]
    assert seen == {(255, 0, 0), (0, 128, 0), (0, 0, 255)}


def test_strips_that_a_resume_took_back_are_forgotten(tmp_path: Path) -> None:
    sheets = Sheets(tmp_path, ("a",))
    for step in (0, 10, 20):
        sheets.keep(step, strip("red", 1))

    sheets.forget_after(10)

    assert sheets.steps() == [0, 10]
    assert sheets.has(10)
    assert not sheets.has(20)
    assert Sheets(tmp_path / "none", ("a",)).steps() == []


def test_the_curve_stays_in_its_frame_whatever_the_losses_are() -> None:
    losses = [1.0 / (n + 1) for n in range(5000)]
    losses[100] = 1e9  # one wild step must not flatten the rest
    smooth = [min(loss, 1.0) for loss in losses]

    svg = curve(list(enumerate(losses, 1)), smooth)
    places = [float(y) for y in re.findall(r"cy='([\d.]+)'", svg)]

    assert len(places) <= 700
    assert all(0 <= y <= 300 for y in places)
    assert max(places) - min(places) > 100
    assert "nan" not in svg


@pytest.mark.parametrize("losses", [[0.5], [0.5, 0.5], [0.0, 0.0]])
def test_the_shortest_and_flattest_runs_have_a_curve(losses: list[float]) -> None:
    svg = curve(list(enumerate(losses, 1)), losses)

    numbers = [float(n) for n in re.findall(r"c[xy]='([-\d.einf]+)'", svg)]
    assert numbers
    assert all(math.isfinite(n) for n in numbers)


def test_words_of_strangers_are_text_on_the_page(tmp_path: Path) -> None:
    path = report(
        tmp_path / "r.html", title="<script>x</script>", subtitle="a & b", points=[], smooth=[],
        facts={"trigger": "<img src=x>", "left out": ""}, notes=["<b>bold</b>"],
    )  # fmt: skip
    page = path.read_text()

    assert "<script>x" not in page
    assert "<img src=x>" not in page
    assert "<b>bold" not in page
    assert "a &amp; b" in page
    assert "left out" not in page


def test_the_painter_paints_what_generate_paints() -> None:
    checkpoint = resolve("starter")
    base = read_base(checkpoint, "starter")
    painter = Painter(base, build(base, device="cpu"), (64, 64), "fp32")

    ours = painter.paint(["a red apple"], 5)[0]
    checkpoint.close()
    theirs = generate("a red apple", seed=5, device="cpu")[0]

    apart = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int))
    assert apart.max() <= 2  # attention is computed in another order
