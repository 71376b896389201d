import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from memcard.errors import UsageError
from memcard.jobs._tune_cells import Cell, Cells

CELL = Cell(3.0, 20, "dpmpp_2m", "normal", "a cat", 1)
ABOUT = {"sha256": ["ab"], "seed": 1}
GOLDEN = Path(__file__).parents[2] / "golden" / "tune" / "cells.jsonl"


def kept(folder: Path, cell: Cell = CELL, **scores: float) -> None:
    Cells(folder, ABOUT).put(cell, scores, Image.new("RGB", (512, 256)))


def test_what_was_measured_is_there_the_next_time(tmp_path: Path) -> None:
    kept(tmp_path, adherence=0.5)

    again = Cells(tmp_path, ABOUT)

    assert again.reused == len(again) == 1
    assert again.get(CELL) == {"adherence": 0.5}
    assert again.get(replace(CELL, cfg=2.0)) is None
    with Image.open(again.picture(CELL)) as picture:
        assert picture.size == (256, 128)


def test_later_scores_join_the_earlier_ones(tmp_path: Path) -> None:
    kept(tmp_path, adherence=0.5)
    kept(tmp_path, convergence=30.0)

    assert Cells(tmp_path, ABOUT).get(CELL) == {"adherence": 0.5, "convergence": 30.0}


@pytest.mark.parametrize("cut", [1, 20, 80])
def test_a_line_cut_off_by_a_kill_is_dropped_and_the_next_one_is_whole(
    tmp_path: Path, cut: int
) -> None:
    kept(tmp_path, adherence=0.5)
    kept(tmp_path, replace(CELL, seed=2), adherence=0.7)
    log = tmp_path / "cells.jsonl"
    log.write_bytes(log.read_bytes()[:-cut])

    kept(tmp_path, replace(CELL, seed=3), adherence=0.9)

    found = Cells(tmp_path, ABOUT)
    assert found.get(CELL) == {"adherence": 0.5}
    assert found.get(replace(CELL, seed=2)) is None
    assert found.get(replace(CELL, seed=3)) == {"adherence": 0.9}


def test_measurements_of_another_search_are_not_mixed_in(tmp_path: Path) -> None:
    kept(tmp_path, adherence=0.5)

    with pytest.raises(UsageError, match=r"other seed.*--out, or --force"):
        Cells(tmp_path, {**ABOUT, "seed": 2})
    assert len(Cells(tmp_path, {**ABOUT, "seed": 2}, anew=True)) == 0


def test_a_file_that_is_no_log_is_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "cells.jsonl").write_text("my notes\n")

    with pytest.raises(UsageError, match="another search"):
        Cells(tmp_path, ABOUT)
    assert (tmp_path / "cells.jsonl").read_text() == "my notes\n"


def test_every_cell_has_a_picture_of_its_own(tmp_path: Path) -> None:
    cells = Cells(tmp_path, ABOUT)
    others = [
        replace(CELL, **{name: 2 if isinstance(v, int | float) else "x"})
        for name, v in asdict(CELL).items()
    ]

    assert len({cells.picture(cell) for cell in (CELL, *others)}) == 7


def test_the_first_version_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "cells.jsonl").write_bytes(GOLDEN.read_bytes())
    about = json.loads(GOLDEN.read_text().split("\n")[0])
    del about["memcard_tune"]

    found = Cells(tmp_path, about)

    assert found.get(CELL) == {"adherence": 0.5, "exposure": 0.9}
    assert GOLDEN.read_bytes() == (tmp_path / "cells.jsonl").read_bytes()
