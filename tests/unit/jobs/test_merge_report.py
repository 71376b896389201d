"""How far a merge is from its parents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fixtures import small
from memcard.errors import NotFoundError, UsageError
from memcard.jobs._heat_map import _EQUAL, _HEAT
from memcard.jobs._report_rows import letter
from memcard.jobs.merge import merge
from memcard.jobs.merge_report import (
    check_report,
    draw_report,
    merge_report,
)

UNET = "model.diffusion_model."
FIRST, MIDDLE = f"{UNET}input_blocks.1.0.weight", f"{UNET}middle_block.0.weight"
VAE = "first_stage_model.decoder.conv_in.weight"


def model(folder: Path, name: str, first: float, middle: float) -> Path:
    one = np.ones((4, 4), "f4")
    arrays = {FIRST: one * np.float32(first), MIDDLE: one * np.float32(middle), VAE: one}
    return small.save(folder / f"{name}.safetensors", arrays)


@pytest.fixture
def merged(tmp_path: Path) -> tuple[Path, list[Path]]:
    parents = [model(tmp_path, "a", 1, 1), model(tmp_path, "b", 2, 1)]
    made = merge("weighted_average", parents, weights=[0.75, 0.25], out=tmp_path / "m.safetensors")
    return made.out, parents


def test_rows_tell_the_way_from_each_parent(merged: tuple[Path, list[Path]]) -> None:
    out, parents = merged

    found = {(row.component, row.block): row.distances for row in merge_report(out, parents).rows}

    first = found["unet", "input_blocks.1"]
    assert [d.relative for d in first if d] == pytest.approx([0.25, 0.375])
    assert all(d is not None and d.same for d in found["unet", "middle_block"])
    assert all(d is not None and d.same for d in found["vae", None])


def test_blocks_come_after_their_component_in_the_order_of_the_model(
    merged: tuple[Path, list[Path]],
) -> None:
    report = merge_report(*merged)

    assert [(row.component, row.block) for row in report.shown] == [
        ("unet", None),
        ("unet", "input_blocks.1"),
        ("unet", "middle_block"),
        ("vae", None),
    ]
    assert report.to_dict()["rows"][0]["component"] == "unet"


def test_a_parent_without_a_block_leaves_its_cell_empty(tmp_path: Path) -> None:
    whole = model(tmp_path, "a", 1, 1)
    part = small.save(tmp_path / "part.safetensors", {FIRST: np.ones((4, 4), "f4")})

    rows = {(r.component, r.block): r.distances for r in merge_report(whole, [whole, part]).rows}

    assert rows["unet", "middle_block"][1] is None
    assert rows["unet", "input_blocks.1"][1] is not None


def test_a_parent_named_twice_counts_once(merged: tuple[Path, list[Path]]) -> None:
    out, (a, b) = merged

    assert merge_report(out, [a, b, a]).parents == (str(a), str(b))


def test_the_picture_shows_equal_and_far(merged: tuple[Path, list[Path]], tmp_path: Path) -> None:
    draw_report(merge_report(*merged), tmp_path / "r.png")

    with Image.open(tmp_path / "r.png") as picture:
        colors = {color for _, color in picture.getcolors(1 << 24)}
        width, height = picture.size
    assert {_EQUAL, _HEAT[-1]} <= colors
    assert width > 1000
    assert height > 400


def test_what_cannot_be_drawn_is_refused_before_the_merge(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png"):
        check_report(tmp_path / "r.jpg")
    with pytest.raises(NotFoundError, match="no such folder"):
        check_report(tmp_path / "nowhere" / "r.png")
    with pytest.raises(UsageError, match="dry run"):
        check_report(tmp_path / "r.png", dry_run=True)


def test_letters_do_not_run_out() -> None:
    assert [letter(i) for i in (0, 25, 26, 27, 52)] == ["A", "Z", "AA", "AB", "BA"]
