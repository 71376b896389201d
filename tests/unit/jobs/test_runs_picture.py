"""The page and the picture of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from fixtures.runs import log, losses, run_folder
from fixtures.training import write_save
from memcard.errors import UsageError
from memcard.jobs import runs
from memcard.jobs._runs_page import page
from memcard.jobs._runs_picture import draw, picture

BLUE = (37, 99, 201)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    settings = {"base": {"name": "starter", "sha256": "ab" * 32}, "data": ["a", "b"], "flip": False}
    folder = run_folder(tmp_path / "neon", steps=4000, settings=settings)
    ended = {"event": "ended", "step": 300, "signal": "SIGTERM"}
    log(folder, [*losses(300), {"event": "waited", "step": 9, "seconds": 2.5}, ended])
    write_save(folder, 200, metrics={"loss": 0.005})
    return folder


def columns_of_the_line(image: Image.Image) -> list[int]:
    """Return the uppermost pixel of the line in each column that has one."""
    pixels = image.load()
    assert pixels is not None
    tops = []
    for x in range(image.width):
        rows = [y for y in range(image.height) if pixels[x, y] == BLUE]
        tops += rows[:1]
    return tops


def test_the_picture_shows_a_loss_that_falls(folder: Path, tmp_path: Path) -> None:
    made = picture(runs.show(str(folder)), tmp_path / "curve.png")

    with Image.open(made) as image:
        tops = columns_of_the_line(image.convert("RGB"))
        assert image.format == "PNG"
    assert len(tops) > 1000
    assert tops[-1] - tops[0] > 400
    assert sorted(tops) == tops


def test_the_same_run_gives_the_same_picture(folder: Path) -> None:
    assert draw(runs.show(str(folder))).tobytes() == draw(runs.show(str(folder))).tobytes()


def test_a_picture_is_never_written_over_and_is_a_png(folder: Path, tmp_path: Path) -> None:
    shown = runs.show(str(folder))
    with pytest.raises(UsageError, match="is a PNG"):
        picture(shown, tmp_path / "curve.jpg")
    out = tmp_path / "curve.png"
    out.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        picture(shown, out)
    assert out.read_text() == "mine"
    picture(shown, out, overwrite=True)
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("lines", [[], [{"step": 1, "metrics": {"loss": "nan"}}]])
def test_a_run_that_has_measured_nothing_has_no_picture_and_a_page(tmp_path, lines) -> None:
    shown = runs.show(str(log(run_folder(tmp_path / "a"), lines)))
    with pytest.raises(UsageError, match="nothing that could be drawn"):
        draw(shown)
    assert "<svg" not in page(shown, tmp_path / "a.html").read_text()


def test_a_run_with_one_value_has_a_picture(tmp_path: Path) -> None:
    draw(runs.show(str(log(run_folder(tmp_path / "a"), losses(1)))))


def test_the_page_tells_of_metrics_saves_and_events(folder: Path, tmp_path: Path) -> None:
    text = page(runs.show(str(folder)), tmp_path / "run.html").read_text()

    assert "stopped after 300 of 4,000 steps" in text
    assert "<td>loss</td><td>1</td><td>0.003333</td><td>0.003333</td><td>1</td>" in text
    assert "<td>200</td>" in text
    assert "<td>2.5 s for the save before</td>" in text
    assert "<td>SIGTERM</td>" in text
    assert "name starter, sha256 abababababab</td>" in text
    assert "<td>a, b</td>" in text
    assert "<td>no</td>" in text


def test_nothing_of_the_curve_lies_outside_its_frame(folder: Path, tmp_path: Path) -> None:
    text = page(runs.show(str(folder)), tmp_path / "run.html").read_text()
    width, height = map(int, re.search(r"viewBox='0 0 (\d+) (\d+)'", text).groups())  # type: ignore[union-attr]
    labels = re.findall(r"<text x='([\d.]+)' y='[\d.]+' text-anchor='middle'>([\d,]+)<", text)

    assert labels
    for x, label in labels:
        half = 4 * len(label)  # a digit is about 7 wide
        assert half <= float(x) <= width - half
    assert all(float(y) <= height for y in re.findall(r"cy='([\d.]+)'", text))
