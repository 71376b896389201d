"""The search on a model whose answers are known: every phase must find what was put there."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from memcard.architectures import ARCHITECTURES
from memcard.core.progress import Event, Notice, Progress
from memcard.generation.settings import resolve
from memcard.jobs._tune_cells import Cell, Cells
from memcard.jobs._tune_page import draw_sheets
from memcard.jobs._tune_prompts import Prompts
from memcard.jobs._tune_search import Plan, Search, between, fewest, nice
from memcard.jobs._tune_verdict import verdict

PROMPTS = Prompts(tuple("abcdef"), tuple("xyz"), "given")
SPEED = {"karras": 9.0, "normal": 0.0, "exponential": 3.0}  # dB over the others


class Known:
    """Paints nothing: adherence has its peak at ``peak``, convergence rises 2 dB a step."""

    def __init__(self, peak: float = 1.75, best_sampler: str = "dpmpp_2m") -> None:
        self.usual = resolve(ARCHITECTURES["starter"], {}, {})
        self.peak, self.best_sampler, self.evaluations, self.asked = peak, best_sampler, 0, 0
        self.steep = 1.0

    def scores(
        self, cell: Cell, names: Any, rivals: Any, *, reference: Any = None, unguided: Any = None
    ) -> tuple[dict[str, float], Image.Image]:
        self.asked += 1
        ease = (ord(cell.prompt[0]) * 37 + cell.seed) % 11
        grain = 0.01 * ((cell.seed * 7919 + round(cell.cfg * 8)) % 5)
        near = 2.0 * cell.steps + SPEED.get(cell.schedule, -5.0) + grain
        near += 4.0 * (cell.sampler == self.best_sampler)
        known = {
            "adherence": ease
            - self.steep * abs(math.log(cell.cfg / self.peak))
            + self.steep * grain,
            "convergence": min(60.0, near),
        }
        return {n: known.get(n, 0.5) for n in names}, Image.new(
            "RGB", (8, 8), (round(cell.cfg * 20), 0, 0)
        )


@pytest.fixture
def searched(tmp_path: Path):
    def made(painter: Known, pictures: int = 150, **more: Any) -> Search:
        cells = Cells(tmp_path, {"for": "a test"})
        return Search(
            painter,
            PROMPTS,
            cells,
            Plan.of(pictures),
            1,
            35.0,
            pictures,
            **more,  # type: ignore[arg-type]
        )

    return made


def test_it_finds_the_guidance_the_schedule_and_the_fewest_steps(searched: Any) -> None:
    found = searched(Known()).run()

    assert (found.cfg, found.sampler, found.schedule) == (1.75, "dpmpp_2m", "karras")
    assert found.steps == 12  # 2 x 12 + 9 + 4 >= 35; 11 is on no grid, and 10 gives 33


def test_a_better_sampler_takes_the_place_of_the_usual_one(searched: Any) -> None:
    assert searched(Known(best_sampler="euler")).run().sampler == "euler"


def test_the_usual_settings_stay_where_they_are_best(
    searched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPEED, "normal", 20.0)

    found = searched(Known(peak=3.0)).run()

    assert (found.cfg, found.sampler, found.schedule) == (3.0, "dpmpp_2m", "normal")


def test_guidance_that_is_better_by_a_trifle_does_not_replace_the_usual(searched: Any) -> None:
    painter = Known(peak=6.0)
    painter.steep = 0.02  # 0.014 nats between 3 and 6
    search = searched(painter)

    assert search.run().cfg == 3.0
    assert "3 is as good as far as can be told" in search.notes[0]


def test_what_the_user_fixed_is_not_searched(searched: Any) -> None:
    painter = Known()
    painter.usual = replace(painter.usual, steps=9, cfg=5.0, sampler="ddim")
    search = searched(painter, kept={"cfg": 5.0, "sampler": "ddim", "steps": 9})

    found = search.run()

    assert (found.cfg, found.sampler, found.steps) == (5.0, "ddim", 9)
    assert painter.asked == 0


def test_an_interrupted_search_goes_on_and_measures_nothing_twice(searched: Any) -> None:
    first, again = Known(), Known()
    found = searched(first).run()

    assert searched(again).run() == found
    assert first.asked > 50
    assert again.asked == 0


def test_it_measures_far_less_than_a_grid(searched: Any) -> None:
    painter = Known()
    search = searched(painter)

    search.run()

    tried = len(search.cfg_points)
    assert tried >= 7
    judged = sum(p.scores["adherence"].n for p in search.cfg_points)
    assert judged < 0.75 * tried * search.plan.cfg


def test_the_curve_compares_on_the_same_prompts_what_left_early_and_what_stayed(
    searched: Any,
) -> None:
    search = searched(Known())

    search.run()

    points = {p.value: p for p in search.cfg_points}
    assert points[6.0].dropped == 4
    best = points[1.75].scores["adherence"]
    assert best.mean - points[6.0].scores["adherence"].mean == pytest.approx(
        math.log(6 / 1.75), abs=0.05
    )
    assert points[6.0].scores["adherence"].high < best.mean


def test_samplers_with_fresh_noise_are_left_alone_and_it_says_so(searched: Any) -> None:
    painter = Known()
    painter.usual = replace(painter.usual, sampler="euler_a")
    search = searched(painter)

    found = search.run()

    assert (found.sampler, found.steps) == ("euler_a", 20)
    assert "fresh noise" in search.notes[0]


def test_a_family_without_guidance_has_none_searched(searched: Any) -> None:
    painter = Known()
    painter.usual = replace(painter.usual, cfg=1.0)
    search = searched(painter)

    assert search.run().cfg == 1.0
    assert search.cfg_points == []
    assert "without guidance" in search.notes[0]


def test_where_nothing_converges_the_usual_steps_stay(searched: Any) -> None:
    search = searched(Known(), kept={"cfg": 3.0})
    search.closeness = 100.0

    assert search.run().steps == 20
    assert "did not converge" in search.notes[-1]


def test_the_check_uses_prompts_and_seeds_that_chose_nothing(searched: Any) -> None:
    search = searched(Known())
    found = search.run()

    checked = search.check(found)

    ours, theirs, gain = checked["adherence"]
    assert gain.mean == pytest.approx(math.log(3 / 1.75), abs=0.05)
    assert gain.mean == pytest.approx(ours.mean - theirs.mean)
    assert gain.verdict == "better"
    chosen = {(search.at(found, n).prompt, search.at(found, n).seed) for n in range(50)}
    held = {(c.prompt, c.seed) for n in range(50) if (c := search.at(found, n, held_out=True))}
    assert {p for p, _ in held} == set("xyz")
    assert not {s for _, s in held} & {s for _, s in chosen}


def test_it_tells_how_far_it_is(searched: Any) -> None:
    events: list[Event] = []
    painter = Known()
    search = searched(painter, progress=events.append)
    painter.evaluations = 7600

    search.judge(search.at(search.usual, 0))

    assert [e for e in events if isinstance(e, Progress)] == [
        Progress("pictures", 100, 150, "steps")
    ]


def test_it_says_once_how_long_it_will_take(searched: Any) -> None:
    events: list[Event] = []
    painter = Known()
    search = searched(painter, progress=events.append)

    for number in range(9):
        painter.evaluations += 152
        search.judge(search.at(search.usual, number))

    said = [e.text for e in events if isinstance(e, Notice)]
    assert len(said) == 1
    assert said[0].startswith("At most ")


def test_the_sheets_show_every_value_and_blanks_where_one_had_left(
    searched: Any, tmp_path: Path
) -> None:
    search = searched(Known())
    found = search.run()
    search.check(found)

    sheets = draw_sheets(tmp_path, search, found)

    assert set(sheets) == {"cfg", "steps", "held_out"}
    with Image.open(sheets["cfg"]) as page:
        assert page.height > 112 * len(search.cfg_points)


@pytest.mark.parametrize(
    ("cfg", "shown"), [(0.4, 1.0), (1.3, 1.25), (3.6, 3.5), (5.3, 5.5), (7.0, 7.0), (13.7, 14.0)]
)
def test_scales_are_those_people_type(cfg: float, shown: float) -> None:
    assert nice(cfg) == shown


def test_finer_scales_lie_between_the_neighbours_and_beyond_the_last() -> None:
    assert between(1.5, {1.0, 1.5, 3.0}) == {1.25, 2.0}
    assert between(14.0, {7.0, 14.0}) == {10.0, 21.0}
    assert between(1.0, {1.0, 1.5}) == {1.25}


@pytest.mark.parametrize(("least", "found"), [(2, 2), (5, 5), (9, None), (0, 1)])
def test_the_fewest_steps_are_found_by_halving(least: int, found: int | None) -> None:
    asked: list[int] = []

    def good(steps: int) -> bool:
        asked.append(steps)
        return steps >= least

    assert fewest([1, 2, 3, 5, 8], good) == found
    assert len(asked) <= 4


def test_more_budget_is_more_pairs() -> None:
    assert Plan.of(150) == Plan(4, 12, 6, 12)
    assert Plan.of(30) == Plan(3, 4, 3, 4)
    assert Plan.of(600).held_out == 48


def margins(low: float, high: float) -> dict[str, Any]:
    gain = SimpleNamespace(mean=(low + high) / 2, low=low, high=high, n=12)
    return {"adherence": (None, None, gain)}


@pytest.mark.parametrize(
    ("interval", "runs", "recommended", "says"),
    [
        ((0.1, 0.3), 40, True, "Better than the family's settings"),
        ((-0.1, 0.1), 20, True, "As good as the family's settings"),
        ((-0.1, 0.1), 40, False, "No difference"),
        ((0.001, 0.015), 20, True, "As good as the family's settings"),
        ((0.001, 0.015), 40, False, "No difference worth a change"),
        ((-0.015, -0.001), 20, True, "As good as the family's settings"),
        ((-0.3, -0.1), 10, False, "the family's settings were better"),
    ],
)
def test_only_what_is_better_or_as_good_and_faster_is_recommended(
    interval: tuple[float, float], runs: int, recommended: bool, says: str
) -> None:
    usual = Cell(3.0, 20, "dpmpp_2m", "normal", "", 0)

    found, why = verdict(replace(usual, cfg=2.0), usual, margins(*interval), runs, 40)

    assert found is recommended
    assert says in why


def test_the_same_settings_are_never_recommended() -> None:
    usual = Cell(3.0, 20, "dpmpp_2m", "normal", "", 0)

    assert verdict(usual, usual, margins(0, 0), 40, 40) == (
        False,
        "The family's own settings are the best that were found; nothing to change.",
    )
