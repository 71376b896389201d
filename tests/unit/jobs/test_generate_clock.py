"""How long a run takes is said as soon as a step of it was measured, with what would take less."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from memcard.core.progress import Event, Notice
from memcard.generation.settings import Settings
from memcard.jobs import _generate_clock
from memcard.jobs._generate_clock import ESTIMATE, Clock, duration, shorter

NOTHING = torch.zeros(1)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the time."""
    now = [0.0]
    monkeypatch.setattr(_generate_clock.time, "perf_counter", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] = seconds

    return move


def told(clock: Clock, at: Callable[[float], None], moments: list[float], total: int) -> list[str]:
    """Let each step end at its moment; return what was said."""
    seen: list[Event] = []
    clock.progress = seen.append
    at(0.0)
    clock.begin()
    for done, moment in enumerate(moments, 1):
        at(moment)
        clock.step_done(done, total, NOTHING)
    return [event.text for event in seen if isinstance(event, Notice)]


def clock(pictures: int = 1, **more: Any) -> Clock:
    return Clock(pictures, lambda event: None, **more)


def test_a_slow_first_step_is_enough(at: Callable[[float], None]) -> None:
    said = told(clock(where="CPU", advice="--steps 10 takes half as long."), at, [21.0], 20)

    assert said == [f"{ESTIMATE} 7 minutes on this CPU. --steps 10 takes half as long."]


def test_after_a_quick_first_step_the_second_counts(at: Callable[[float], None]) -> None:
    said = told(clock(4), at, [3.0, 4.0, 9.0], 20)

    assert said == [f"{ESTIMATE} 78 seconds on this machine."]


def test_what_is_short_is_not_worth_a_word(at: Callable[[float], None]) -> None:
    assert told(clock(advice="never"), at, [0.1, 0.2, 0.3], 20) == []
    assert told(clock(advice="never"), at, [6.0], 5) == [f"{ESTIMATE} 24 seconds on this machine."]


def test_a_second_pass_over_more_pixels_takes_longer(at: Callable[[float], None]) -> None:
    said = told(clock(extra=1.0, heavier=4.0), at, [10.0], 10)

    assert said == [
        f"{ESTIMATE} 8 minutes on this machine."
    ]  # 9 steps and 10 of four times the work


def test_without_a_beginning_the_second_step_counts(at: Callable[[float], None]) -> None:
    seen: list[Event] = []
    one = Clock(1, seen.append)
    for done, moment in enumerate([100.0, 110.0, 120.0], 1):
        at(moment)
        one.step_done(done, 20, NOTHING)

    notices = [event.text for event in seen if isinstance(event, Notice)]
    assert notices == [f"{ESTIMATE} 3 minutes on this machine."]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(89.0, "89 seconds"), (90.0, "2 minutes"), (5399.0, "90 minutes"), (9000.0, "2.5 hours")],
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("steps", "size", "frames", "said"),
    [
        (20, 512, 1, "--steps 10 takes half as long, --size 256x256 about a quarter as long."),
        (8, 512, 1, "--size 256x256 about a quarter as long."),
        (20, 64, 25, "--steps 10 takes half as long, fewer --frames less."),
        (4, 64, 1, ""),
    ],
)
def test_what_would_take_less(steps: int, size: int, frames: int, said: str) -> None:
    settings = Settings("euler", "normal", steps, 7.0, size, size, "", "epsilon", frames=frames)

    assert shorter(settings, 64) == said
