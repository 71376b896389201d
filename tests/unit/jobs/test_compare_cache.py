"""The folder of finished cells as docs/spec/compare-cache.md has it: read for ever, and no newer one touched."""

import hashlib
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

from memcard.errors import CorruptError, UnsupportedError
from memcard.generation.settings import Settings
from memcard.jobs import _compare_store
from memcard.jobs._compare_cells import Planned, Wish
from memcard.jobs._compare_plan import plan_cells
from memcard.jobs._compare_store import VERSION, Store, key_of, key_text
from memcard.jobs.compare import compare, forecast

GOLDEN = Path(__file__).parents[2] / "golden" / "compare_v1"
LORA = "starter/lora_pixel"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "cache"))


@pytest.fixture
def like_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the versions of torch and diffusers that the golden cell was painted with."""
    engine = tuple(json.loads((GOLDEN / "key.json").read_text("utf-8"))["engine"])
    monkeypatch.setattr(_compare_store, "_engine", lambda: engine)


def planned() -> Planned:
    wish = Wish(
        *(("a red apple",), ("starter",), ((LORA, (0.5,)),), (None,), (1,)),
        settings={"steps": (1,), "cfg": (1.0,)},
        device="cpu",
        dtype="F32",
    )
    return plan_cells(wish)[1][0]


def test_the_golden_key_is_the_digest_of_its_text(like_then: None) -> None:
    text = (GOLDEN / "key.json").read_text("utf-8").removesuffix("\n")
    (cell,) = GOLDEN.glob("??/*.png")

    assert hashlib.sha256(text.encode()).hexdigest() == cell.stem
    assert cell.parent.name == cell.stem[:2]
    assert key_text(planned(), "cpu", "F32") == text
    assert key_of(planned(), "cpu", "F32") == cell.stem


def test_the_golden_folder_is_still_read(golden: Path, like_then: None) -> None:
    (path,) = golden.glob("??/*.png")
    store = Store(golden)

    assert store.has(path.stem)
    assert store.rates() == {"starter/6453395/cpu/F32": {"load": 0.25, "fixed": 0.01, "unit": 0.02}}
    found = compare(
        "a red apple", lora={LORA: 0.5}, steps=1, cfg=1.0, device="cpu", dtype="F32", cache=golden
    )
    assert found.made == 0
    assert found.cells[0].path == path
    assert found.cells[0].facts["loras"][0]["strength"] == 0.5


def test_a_folder_that_says_no_version_is_the_first(golden: Path) -> None:
    (golden / "memcard-compare.json").unlink()
    (path,) = golden.glob("??/*.png")

    assert Store(golden).has(path.stem)


def test_a_newer_folder_is_refused_and_left_alone(golden: Path) -> None:
    (golden / "memcard-compare.json").write_text(f'{{"memcard_compare": {VERSION + 1}}}')
    before = {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()}

    for ask in (compare, forecast):
        with pytest.raises(UnsupportedError, match=r"version 2.*--cache"):
            ask("a red apple", steps=1, cfg=1.0, cache=golden)

    assert {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()} == before


def test_a_newer_cache_beside_ours_does_not_disturb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"compare-{VERSION + 1}").mkdir()
    monkeypatch.setenv("MEMCARD_CACHE", str(tmp_path))

    assert Store().folder == tmp_path / f"compare-{VERSION}"


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"memcard_compare": "1"}', '{"memcard_compare": 0}']
)
def test_a_damaged_mark_is_told_with_what_to_do(golden: Path, text: str) -> None:
    (golden / "memcard-compare.json").write_text(text)

    with pytest.raises(CorruptError, match=r"memcard-compare\.json: .* Remove this file"):
        Store(golden)


def test_a_folder_says_its_version_once_something_is_in_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert not (tmp_path / "new").exists()

    store.keep_rates({"a": {"load": 1.0, "fixed": 2.0, "unit": 3.0}})

    assert json.loads((tmp_path / "new" / "memcard-compare.json").read_text()) == {
        "memcard_compare": VERSION
    }


def test_settings_of_later_versions_stand_in_a_key_only_where_they_do_something() -> None:
    cell = planned()
    assert cell.settings is not None
    first = json.loads((GOLDEN / "key.json").read_text("utf-8"))["settings"]
    later = [f for f in fields(Settings) if f.name not in (*first, "origin")]

    assert set(json.loads(key_text(cell, "cpu", "F32"))["settings"]) == set(first)
    for one in later:
        used = replace(cell.settings, **{one.name: "something else"})
        text = key_text(replace(cell, settings=used), "cpu", "F32")
        assert json.loads(text)["settings"][one.name] == "something else"
