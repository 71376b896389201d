"""Sheets, page and folder of a finished comparison."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from memcard.core.progress import Event, Notice
from memcard.errors import NotFoundError, UsageError
from memcard.jobs import _compare_output
from memcard.jobs.compare import Comparison, compare, refuse_outputs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def grid(cache: Path) -> Comparison:
    return compare("a <b>red</b> apple", ["starter", "starter/raw"], cfg=(1, 3), seed=(1, 2), steps=1, cache=cache)  # fmt: skip


@pytest.fixture(scope="module")
def single(cache: Path) -> Comparison:
    return compare("a rocket", steps=1, cfg=1, cache=cache)


def facts_of(page: Path) -> dict[str, object]:
    found = re.search(r"const FACTS=(.*);\n", page.read_text("utf-8"))
    assert found is not None
    facts: dict[str, object] = json.loads(found[1])
    return facts


def test_each_page_of_a_comparison_is_a_sheet(grid: Comparison, tmp_path: Path) -> None:
    files = grid.png(tmp_path / "grid.png")

    assert [file.name for file in files] == ["grid-1.png", "grid-2.png"]
    with Image.open(files[0]) as sheet, Image.open(files[1]) as other:
        assert sheet.size == other.size
        assert sheet.tobytes() != other.tobytes()
        assert json.loads(sheet.info["memcard_compare"])["axes"]["cfg"] == ["CFG 1", "CFG 3"]


def test_one_page_keeps_its_name_and_size_may_be_chosen(single: Comparison, tmp_path: Path) -> None:
    (file,) = single.png(tmp_path / "one.png", cell=320)

    with Image.open(file) as sheet:
        assert sheet.width > 320
        assert sheet.height > 320


def test_the_page_knows_every_cell_and_its_settings(grid: Comparison, tmp_path: Path) -> None:
    page = grid.html(tmp_path / "page.html")

    facts = facts_of(page)
    cells: list[dict[str, object]] = facts["cells"]  # type: ignore[assignment]
    assert facts["title"] == "a <b>red</b> apple"
    assert len(cells) == 8
    assert cells[7]["command"] == (
        "memcard generate 'a <b>red</b> apple' -c starter/raw --cfg 3 --steps 1 --seed 2"
    )
    assert ["cfg", "3", "user"] in cells[7]["settings"]  # type: ignore[operator]
    assert ["sampler", "dpmpp_2m", "card"] in cells[7]["settings"]  # type: ignore[operator]
    assert str(cells[7]["text"]).startswith("a <b>red</b> apple\nSteps: 1")
    assert {"10 steps", "1 step"} & set(facts["fixed"]) == {"1 step"}  # type: ignore[call-overload]
    assert page.read_text("utf-8").count('\n"iVBOR') == 8  # as every PNG begins in base64


def test_no_folder_of_this_machine_is_in_what_is_shared(cache: Path, tmp_path: Path) -> None:
    from memcard.jobs.resolve import locate

    (tmp_path / "far").mkdir()
    mine = tmp_path / "far" / "mine.safetensors"
    mine.write_bytes(locate("starter/raw").read_bytes())

    files = compare("a rocket", ["starter", mine], steps=1, cfg=1, cache=cache).folder(tmp_path / "o")  # fmt: skip

    assert all(str(tmp_path).encode() not in file.read_bytes() for file in files)


def test_a_folder_has_the_page_the_sheets_and_each_picture(
    grid: Comparison, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    files = grid.folder(out)

    assert files[0] == out / "index.html"
    assert sorted(p.relative_to(out).as_posix() for p in out.iterdir()) == [
        "cells", "comparison.json", "grid-1.png", "grid-2.png", "index.html",
    ]  # fmt: skip
    assert len(list((out / "cells").iterdir())) == 8
    with Image.open(out / "cells" / "starter-raw-cfg-3-seed-2.png") as image:
        assert json.loads(image.info["memcard"])["checkpoint"]["name"] == "starter/raw"
        assert image.info["parameters"].startswith("a <b>red</b> apple")
    listed = json.loads((out / "comparison.json").read_text("utf-8"))
    assert listed["cells"][7] == {"at": ["starter/raw", "CFG 3", "seed 2"], "file": "cells/starter-raw-cfg-3-seed-2.png",
                                  "why_not": None}  # fmt: skip


def test_a_folder_is_brought_up_to_date_and_foreign_files_stay(
    grid: Comparison, single: Comparison, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    grid.folder(out)
    (out / "cells" / "notes.txt").write_text("mine")
    (out / "comparison.json").write_text(
        (out / "comparison.json").read_text().replace('"files": [', '"files": ["../keep.png", ')
    )
    (tmp_path / "keep.png").write_bytes(b"mine")

    single.folder(out)

    left = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert left == ["cells/a-rocket.png", "cells/notes.txt", "comparison.json", "grid.png", "index.html"]  # fmt: skip
    assert (tmp_path / "keep.png").read_bytes() == b"mine"


def test_files_a_comparison_did_not_make_are_not_replaced(
    single: Comparison, tmp_path: Path
) -> None:
    foreign = [tmp_path / "a.png", tmp_path / "a.html", tmp_path / "folder"]
    Image.new("RGB", (4, 4)).save(foreign[0])
    foreign[1].write_text("<p>mine</p>")
    foreign[2].mkdir()
    (foreign[2] / "mine.txt").write_text("mine")

    for path in foreign:
        with pytest.raises(UsageError, match="no comparison made it"):
            refuse_outputs([path], overwrite=False)
        with pytest.raises(UsageError, match="no comparison made it"):
            single.save(path)
        refuse_outputs([path], overwrite=True)
        single.save(path, overwrite=True)
        single.save(path)

    assert (foreign[2] / "mine.txt").read_text() == "mine"


def test_names_nobody_can_write_to_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.html, or a folder"):
        refuse_outputs([tmp_path / "x.jpg"], overwrite=False)
    with pytest.raises(NotFoundError, match="no such folder"):
        refuse_outputs([tmp_path / "none" / "x.png"], overwrite=False)
    refuse_outputs([tmp_path / "new", tmp_path / "x.PNG"], overwrite=False)


def test_the_same_comparison_writes_the_same_bytes(single: Comparison, tmp_path: Path) -> None:
    first, second = single.folder(tmp_path / "a"), single.folder(tmp_path / "b")

    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_a_page_that_browsers_are_slow_with_is_told(
    single: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Event] = []
    monkeypatch.setattr(_compare_output, "_LARGE", 10)

    single.html(tmp_path / "x.html", progress=said.append)

    assert [e.text for e in said if isinstance(e, Notice) and "browsers may be slow" in e.text]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_lays_the_cells_out(grid: Comparison, tmp_path: Path) -> None:
    page = grid.html(tmp_path / "page.html")
    line = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", f"--user-data-dir={tmp_path}/profile",
            "--dump-dom", page.as_uri()]  # fmt: skip

    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)

    drawn = done.stdout.rpartition("</script>")[2]
    assert drawn.count('<button class="cell"') == 4  # a page of two checkpoints by two scales
    assert "<b>red</b>" not in drawn
    assert drawn.count('class="pager"') == 1
