"""``memcard tune`` from end to end, on the starter and on copies of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from memcard.architectures import ARCHITECTURES
from memcard.core.progress import Notice
from memcard.errors import UsageError
from memcard.generation.settings import resolve
from memcard.jobs._library_cards import with_card
from memcard.jobs._tune_prompts import Prompts
from memcard.jobs._tune_race import Margin
from memcard.jobs.card import card
from memcard.jobs.resolve import starter_folder
from memcard.jobs.tune import Tuned, read_budget, tune, write_settings

GAIN = Margin(0.2, 0.1, 0.3, 12)
PROMPTS = ("cartoon of a robot", "flat icon of a rocket", "3d render of a lion")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(starter_folder() / "base.safetensors", tmp_path / "mine.safetensors"))


def found(folder: Path, **changes: Any) -> Tuned:
    values: dict[str, Any] = {
        "checkpoint": "mine", "sha256": ("ab",), "family": "starter",
        "found": {"cfg": 1.75, "steps": 10, "sampler": "deis", "schedule": "karras"},
        "usual": {"cfg": 3.0, "steps": 20, "sampler": "dpmpp_2m", "schedule": "normal"},
        "recommended": True, "verdict": "Better.", "evaluations": 20, "usual_evaluations": 40,
        "check": {"adherence": (GAIN, GAIN, GAIN)}, "judging": ("adherence",), "curves": {},
        "prompts": Prompts(("a",), ("b",), "given"), "pictures": 9, "page": folder / "index.html",
        "notes": (), "seconds": 1.0, "command": "memcard tune mine",
    }  # fmt: skip
    return Tuned(**{**values, **changes})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("150", (150, None)),
        (200, (200, None)),
        ("20m", (150, 1200)),
        ("1.5 h", (150, 5400)),
        ("90s", (150, 90)),
    ],
)
def test_a_budget_is_pictures_or_a_time(text: str | int, meant: tuple[int, float | None]) -> None:
    assert read_budget(text) == meant


@pytest.mark.parametrize("text", ["", "ten", "-5", "5d", "3", "1e9", "99999"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        read_budget(text)


def test_what_was_found_stands_on_the_card_with_its_evidence_and_generate_uses_it(
    model: Path,
) -> None:
    before = model.read_bytes()

    written = write_settings(model, found(model.parent))

    assert written == model.with_name("mine.memcard.json")
    assert model.read_bytes() == before
    said = card(model)
    assert (
        dict(said.settings) | {"cfg": 1.75, "steps": 10, "sampler": "deis", "scheduler": "karras"}
        == said.settings
    )
    assert said.extra["tuned"]["held_out"]["adherence"]["mean"] == 0.2
    assert said.extra["tuned"]["usual"]["steps"] == 20


def test_nothing_is_searched_for_a_card_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="part of memcard itself"):
        tune("starter", write=True, out=tmp_path / "t")
    with pytest.raises(UsageError, match="no one card"):
        tune("starter", [("starter/pixel", 0.5)], write=True, out=tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_too_short_a_time_says_how_long_it_takes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"takes .* s here, and 30 are the least"):
        tune("starter", budget="1s", prompts=PROMPTS, out=tmp_path, steps=2)


@pytest.mark.slow
def test_a_whole_search_leaves_a_page_that_needs_nothing_else(model: Path, tmp_path: Path) -> None:
    said: list[Any] = []
    out = tmp_path / "out"

    result = tune(model, prompts=PROMPTS, budget=30, out=out, steps=4, sampler="dpmpp_2m",
                  write=True, progress=said.append)  # fmt: skip

    facts = json.loads((out / "tune.json").read_text())
    assert facts["found"] == result.found
    assert facts["held_out"]["adherence"]["difference"]["n"] == 4
    assert result.found["steps"] == 4
    page = (out / "index.html").read_text()
    assert "<svg" in page
    assert "data:image/webp;base64," in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert (result.written is not None) is result.recommended
    assert any(isinstance(e, Notice) and e.text.startswith("Guidance:") for e in said)

    again = tune(model, prompts=PROMPTS, budget=30, out=out, steps=4, sampler="dpmpp_2m")

    assert again.found == result.found
    assert again.pictures == result.pictures


def test_generate_takes_the_settings_from_the_card(model: Path) -> None:
    write_settings(model, found(model.parent))

    used = resolve(ARCHITECTURES["starter"], with_card(model, {}), {})

    assert (used.cfg, used.steps) == (1.75, 10)
    assert (used.sampler, used.schedule) == ("deis", "karras")
    assert {used.origin[n] for n in ("cfg", "steps", "sampler", "schedule")} == {"card"}
    assert used.origin["width"] == "family"


def test_what_other_tools_wrote_beside_a_file_is_not_taken_for_the_users_word(model: Path) -> None:
    model.with_suffix(".json").write_text(json.dumps({"preferred weight": 0.5, "steps": 3}))

    assert with_card(model, {}) == {}
