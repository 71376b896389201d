"""The same picture in every combination: what is made, what is kept, what is refused."""

import json
import socket
from pathlib import Path

import pytest
from PIL import Image

import memcard
from fixtures.sd15 import write_safetensors
from memcard.core.progress import Event, Notice, Progress
from memcard.errors import MemcardError, MismatchError, NotFoundError, UnsupportedError, UsageError
from memcard.jobs import _compare_run
from memcard.jobs._compare_cells import Planned
from memcard.jobs.compare import Comparison, compare, forecast
from memcard.jobs.resolve import locate

APPLE = "a red apple"
QUICK = {"steps": 1, "cfg": 1.0}
PIXEL, BLUEPRINT, CRISP = "starter/lora_pixel", "starter/lora_blueprint", "starter/vae_crisp"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests here: each cell is painted once."""
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def grid(cache: Path) -> Comparison:
    return compare(APPLE, ["starter", "starter/raw"], cfg=(1, 3), steps=1, cache=cache)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, object]]]:
    """Watch which pictures are really painted, in order."""
    seen: list[tuple[str, dict[str, object]]] = []
    paint = _compare_run.paint

    def watched(cell: Planned, paint_one: object, progress: object) -> object:
        loras = [(one.label, strength) for one, strength in cell.loras]
        seen.append((cell.model.label, {"loras": loras, "vae": cell.vae, **cell.user}))
        return paint(cell, paint_one, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(_compare_run, "paint", watched)
    return seen


def test_each_cell_is_the_picture_that_generate_makes(grid: Comparison) -> None:
    assert [tuple(c.values[n] for n in ("checkpoint", "cfg")) for c in grid.cells] == [
        ("starter", "CFG 1"), ("starter", "CFG 3"), ("starter/raw", "CFG 1"), ("starter/raw", "CFG 3"),
    ]  # fmt: skip
    (alone,) = memcard.generate(APPLE, "starter/raw", seed=1, cfg=3.0, steps=1)
    assert grid.cells[3].image.tobytes() == alone.tobytes()
    assert len({cell.image.tobytes() for cell in grid.cells}) == 4


def test_each_png_says_how_it_was_made(grid: Comparison, tmp_path: Path) -> None:
    cell = grid.cells[3]

    facts = cell.facts
    assert facts["checkpoint"]["name"] == "starter/raw"
    assert (facts["settings"]["cfg"], facts["settings"]["steps"], facts["seed"]) == (3.0, 1, 1)
    assert cell.infotext.startswith("a red apple\nSteps: 1, ")
    cell.image.save(tmp_path / "again.png")
    with Image.open(tmp_path / "again.png") as saved:
        assert saved.info["parameters"] == cell.infotext
    assert cell.origin["cfg"] == "user"
    assert cell.origin["sampler"] == "card"


def test_what_is_there_is_not_made_again(
    grid: Comparison, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted = counted(monkeypatch)

    again = compare(APPLE, ["starter", "starter/raw"], cfg=(1, 3), steps=1, cache=cache)
    wider = compare(APPLE, ["starter/raw", "starter"], cfg=(3, 1, 5), steps=1, cache=cache)

    assert (again.made, wider.made) == (0, 2)
    assert [(name, rest["cfg"]) for name, rest in painted] == [("starter/raw", 5), ("starter", 5)]
    assert again.cells[3].image.tobytes() == grid.cells[3].image.tobytes()


def test_a_checkpoint_is_named_by_its_content_not_its_name(
    grid: Comparison, cache: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(locate("starter").read_bytes())

    assert compare(APPLE, copy, cfg=(1, 3), steps=1, cache=cache).made == 0
    assert grid.made == 4


def test_a_damaged_cell_is_made_again(tmp_path: Path) -> None:
    first = compare(APPLE, cache=tmp_path, **QUICK)
    (file,) = tmp_path.glob("*/*.png")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])

    again = compare(APPLE, cache=tmp_path, **QUICK)

    assert (first.made, again.made) == (1, 1)
    assert file.read_bytes() == whole


def test_files_are_loaded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painted = counted(monkeypatch)

    done = compare(APPLE, ["starter", "starter/raw"], lora={PIXEL: (0, 1)}, seed=(1, 2), cache=tmp_path, **QUICK)  # fmt: skip

    groups = [(name, str(rest["loras"])) for name, rest in painted]
    assert len(done.cells) == done.made == 8
    assert [name for name, _ in groups] == ["starter"] * 4 + ["starter/raw"] * 4
    assert [loras for _, loras in groups] == (["[]"] * 2 + [str([(PIXEL, 1.0)])] * 2) * 2


def test_loras_and_vaes_are_laid_on_as_generate_does(tmp_path: Path) -> None:
    done = compare(APPLE, lora={PIXEL: 0.5, BLUEPRINT: 1}, vae=["own", CRISP], cache=tmp_path, **QUICK)  # fmt: skip

    (alone,) = memcard.generate(APPLE, loras=[(PIXEL, 0.5), (BLUEPRINT, 1.0)], vae=CRISP, seed=1, **QUICK)  # fmt: skip
    assert done.axes == {"vae": ("own VAE", CRISP)}
    assert done.cells[1].image.tobytes() == alone.tobytes()
    assert done.cells[0].image.tobytes() != alone.tobytes()


def test_equal_cells_are_painted_once(tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(locate("starter").read_bytes())

    done = compare(APPLE, ["starter", copy], cache=tmp_path / "cells", **QUICK)

    assert (len(done.cells), done.made) == (2, 1)
    assert done.axes == {"checkpoint": ("starter", "copy.safetensors")}


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Event] = []
    put = _compare_run.Store.put
    left = [2]

    def interrupted(self: object, key: str, result: object) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return put(self, key, result)  # type: ignore[arg-type]

    monkeypatch.setattr(_compare_run.Store, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(APPLE, seed=(1, 2, 3), cache=tmp_path, progress=said.append, **QUICK)
    monkeypatch.undo()

    done = compare(APPLE, seed=(1, 2, 3), cache=tmp_path, **QUICK)

    assert done.made == 1
    assert "2 of 3 pictures are made and kept" in [e.text for e in said if isinstance(e, Notice)][-1]  # fmt: skip


def test_nothing_asks_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked for something")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)

    assert compare(APPLE, cache=tmp_path, **QUICK).made == 1


def test_progress_counts_pictures_and_steps(tmp_path: Path) -> None:
    said: list[Event] = []

    compare(APPLE, seed=(1, 2), steps=3, cfg=1, cache=tmp_path, progress=said.append)

    pictures = [e.done for e in said if isinstance(e, Progress) and e.phase == "pictures"]
    steps = [e.done for e in said if isinstance(e, Progress) and e.phase == "steps"]
    assert pictures == [0, 1, 2]
    assert steps == sorted(steps)
    assert steps[-1] == 6


def test_without_a_cache_cells_last_as_long_as_the_comparison() -> None:
    done = compare(APPLE, **QUICK)  # the tests have MEMCARD_CACHE empty
    path = done.cells[0].path

    assert path is not None
    assert path.is_file()
    del done
    assert not path.exists()


def test_a_sampler_without_a_schedule_leaves_a_hole_that_says_why(
    tmp_path: Path, cache: Path
) -> None:
    said: list[Event] = []
    done = compare(APPLE, sampler=["euler", "DDIM"], schedule=["karras", "trailing"], cache=cache, progress=said.append,
                   **QUICK)  # fmt: skip

    holes = [cell for cell in done.cells if cell.why_not]
    assert [(c.values["sampler"], c.values["schedule"]) for c in holes] == [("DDIM", "karras")]
    assert "DDIM has no schedule 'karras'" in holes[0].why_not
    assert holes[0].path is None
    assert isinstance(said[0], Notice)
    assert said[0].text.startswith("Left out: DDIM has no schedule")
    assert len(done.folder(tmp_path / "out")) == 5
    with pytest.raises(LookupError, match="no schedule"):
        _ = holes[0].image


def test_the_seed_minus_one_draws_one_for_all(cache: Path) -> None:
    done = compare(APPLE, ["starter", "starter/raw"], seed=-1, cache=cache, **QUICK)

    assert len({cell.facts["seed"] for cell in done.cells}) == 1
    assert done.axes == {"checkpoint": ("starter", "starter/raw")}


def test_all_faults_are_told_at_once_and_nothing_is_painted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted = counted(monkeypatch)

    with pytest.raises(MemcardError) as caught:
        compare(APPLE, ["starter", "starter/none", CRISP], lora={PIXEL: 1, "nowhere": 1}, vae=[PIXEL],
                steps=(10, 0, -3), cfg=(3, float("nan")), size=((65, 64), (64, 64)), sampler=["euler", "eulr"],
                schedule=["sideways"], seed=(1, 2**32), device="toaster", dtype="F7", cache=tmp_path)  # fmt: skip

    text = str(caught.value)
    for part in ("starter/none", "vae_crisp", "nowhere", "no VAE", "steps 0", "steps -3", "cfg nan", "width 65", "eulr",
                 "'sideways'", "seed 4294967296", "toaster", "F7"):  # fmt: skip
        assert part in text
    assert painted == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wish", "error", "why"),
    [
        ({"checkpoint": "starter/none"}, NotFoundError, "not in the starter"),
        ({"checkpoint": PIXEL}, UnsupportedError, "--lora"),
        ({"vae": PIXEL}, MismatchError, "no VAE"),
        ({"lora": {CRISP: 1}}, MismatchError, "vae_crisp"),
        ({"steps": 0}, UsageError, "steps 0"),
        ({"steps": "ten"}, UsageError, "steps 'ten': is of a wrong type"),
        ({"colour": "red"}, UsageError, "no setting colour"),
        ({"size": (64, 64, 64)}, UsageError, "give \\(width, height\\)"),
        ({"cfg": ()}, UsageError, "no value for cfg"),
        ({"sampler": "ddim", "schedule": "KARRAS"}, UsageError, "DDIM has no schedule 'karras'"),
        ({"schedule": "sideways"}, UsageError, "sideways"),
        ({"sampler": ["euler", "eulr"]}, NotFoundError, "eulr"),
        ({"frames": 9}, UsageError, "pictures, not clips"),
        ({"text_encoders": ["nowhere"]}, NotFoundError, "nowhere"),
        ({"embeddings": ["nowhere"]}, NotFoundError, "nowhere"),
        ({"x": "steps"}, UsageError, "What varies: nothing"),
        ({"seed": range(2001)}, UsageError, "2,001 pictures"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_painted(
    wish: dict[str, object], error: type[Exception], why: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=why):
        compare(APPLE, cache=tmp_path, **wish)  # type: ignore[arg-type]

    assert list(tmp_path.iterdir()) == []


def test_a_lora_in_the_prompt_is_looked_up_and_decides_the_picture(tmp_path: Path) -> None:
    prompts = [f"{APPLE} <lora:pixel:1>", f"{APPLE} <lora:pixel:0.5>", APPLE]

    done = compare(prompts, cache=tmp_path, **QUICK)

    assert len({cell.image.tobytes() for cell in done.cells}) == 3
    assert done.cells[0].facts["loras"][0]["name"] == PIXEL
    with pytest.raises(NotFoundError, match="<lora:nowhere:…>"):
        compare(f"{APPLE} <lora:nowhere:1>", cache=tmp_path, **QUICK)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UsageError, match="prompt is empty"):
        compare([APPLE, " "])


def test_a_lora_of_another_family_is_refused_with_its_name(tmp_path: Path) -> None:
    sd1 = write_safetensors(tmp_path / "sd.safetensors")

    with pytest.raises(MismatchError, match="lora_pixel"):
        compare(APPLE, ["starter", sd1], lora={PIXEL: 1})


def test_a_forecast_counts_and_makes_nothing(cache: Path, tmp_path: Path) -> None:
    compare(APPLE, seed=1, cache=tmp_path, **QUICK)

    found = forecast(
        APPLE,
        ["starter", "starter/raw"],
        seed=range(1, 1501),
        sampler=["euler", "ddim"],
        schedule=["karras", "trailing"],
        cache=tmp_path,
        **QUICK,
    )

    assert (found.cells, found.impossible, found.missing) == (12000, 3000, 9000)
    assert found.seconds > 9000 * 0.001
    assert found.pages == 6000 // 2
    assert len(list(tmp_path.glob("*/*.png"))) == 1
    assert json.loads(json.dumps(found.to_dict()))["axes"]["sampler"] == ["euler", "ddim"]


def test_a_forecast_measures_what_it_does_not_know(tmp_path: Path) -> None:
    said: list[Event] = []

    found = forecast(APPLE, steps=20, cache=tmp_path, progress=said.append)

    assert found.missing == 1
    assert found.seconds > 0
    assert next(e.text for e in said if isinstance(e, Notice)).startswith("Measuring the speed of")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["memcard-compare.json", "rates.json"]
    said.clear()
    assert forecast(APPLE, steps=40, cache=tmp_path, progress=said.append).seconds > found.seconds
    assert said == []


def test_the_cards_own_settings_stand_beside_what_they_belong_to(
    tmp_path: Path, cache: Path
) -> None:
    from memcard.jobs._compare_output import _tables

    library = memcard.Library(tmp_path / "library")
    library.add([locate("starter")], name="mine")
    library.describe("mine", {"steps": "2"})
    plan = compare(APPLE, ["starter", "starter/raw"], steps=(1, 2), cfg=1, cache=cache)._plan
    (table,) = _tables(plan, compare(APPLE, cache=cache, **QUICK)._store)

    assert table.columns == ["1 step", "2 steps"]
    assert table.rows == ["starter", "starter/raw"]
    assert "CFG 1" in table.detail
    assert table.title == APPLE
