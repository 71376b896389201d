"""How long a run takes: counted over all its pictures, and told as soon as it can be known."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from memcard.core.progress import Listener, Notice, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from memcard.generation.settings import Settings

ESTIMATE: Final = "This will take about"  # how the sentence with the time begins
_LONG = 20.0  # seconds; below this nobody wants to be told how long it takes
_VERY_LONG = 60.0  # seconds; above this it is told what would take less
_SLOW = 5.0  # seconds of a first step; of a shorter one too much is warming up
_OFTEN = 1.0  # seconds between two previews
_FEW: Final = 16  # steps; half of fewer is too few for most samplers
_SMALL: Final = 512  # pixels of the longer side; half of less is no picture


@dataclass(slots=True)
class Clock:
    """Counts steps over all pictures and, if it will be long, says how long.

    The estimate stands on the first step if that is slow, else on the second: the first one warms up.

    Attributes:
        pictures: how many will be made.
        progress: hears it.
        preview: is given the latents now and then; None: nobody looks.
        extra: steps of a second pass, for each step of the first.
        heavier: how many times as long each of them takes.
        where: what it runs on, in words.
        advice: what would take less time, one sentence.
    """

    pictures: int
    progress: Listener
    preview: Callable[[Tensor], None] | None = None
    extra: float = 0.0
    heavier: float = 1.0
    where: str = "machine"
    advice: str = ""
    _began: float | None = None
    _marks: list[float] = field(default_factory=list)
    _shown: float = 0.0
    _told: bool = False

    def begin(self) -> None:
        """Start the time of the first step; without it the estimate waits for the second."""
        if self._began is None and not self._marks:
            self._began = time.perf_counter()

    def step_done(self, done: int, total: int, latents: Tensor) -> None:
        """Count one step."""
        now = time.perf_counter()
        self._marks.append(now)
        every = max(len(self._marks), round(self.pictures * total * (1 + self.extra)))
        self.progress(Progress("pictures", len(self._marks), every, "steps"))
        if not self._told and len(self._marks) <= 2:
            self._tell(total)
        if self.preview is not None and (now - self._shown >= _OFTEN or done == total):
            self._shown = now
            self.preview(latents)

    def _tell(self, total: int) -> None:
        """Say how long the rest takes, if a step of it could be measured."""
        *before, now = (self._began, *self._marks)
        if before[-1] is None or now is None:
            return
        each = now - before[-1]
        if len(self._marks) == 1 and each < _SLOW:
            return
        self._told = True
        steps = self.pictures * total * (1 + self.extra * self.heavier) - len(self._marks)
        left = each * steps
        if left > _LONG:
            more = f" {self.advice}" if self.advice and left > _VERY_LONG else ""
            self.progress(Notice(f"{ESTIMATE} {duration(left)} on this {self.where}.{more}"))


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def shorter(settings: Settings, multiple: int) -> str:
    """Return a sentence that says what would take less time; empty if nothing sensible would."""
    ways = []
    if settings.steps >= _FEW:
        ways.append(f"--steps {settings.steps // 2} takes half as long")
    if max(settings.width, settings.height) >= _SMALL:
        half = [
            max(multiple, side // 2 // multiple * multiple)
            for side in (settings.width, settings.height)
        ]
        ways.append(f"--size {half[0]}x{half[1]} about a quarter as long")
    if settings.frames > 1:
        ways.append("fewer --frames less")
    return f"{', '.join(ways)}." if ways else ""
