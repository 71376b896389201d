"""When to save: at given steps, or as often as costs about one percent of the time."""

from __future__ import annotations

import time
from typing import Final

from memcard.errors import UsageError

_SHARE: Final = 100  # a save every so many times as long as one takes
_SHORTEST: Final = 1.0  # seconds
_LONGEST: Final = 15 * 60.0  # seconds; more than that nobody wants to lose


class Pace:
    """Decides when a save is due.

    Args:
        every: save when this many steps are done. None: the first step is saved, as trouble should show
            at once; then by time.
    """

    def __init__(self, every: int | None) -> None:
        if every is not None and every < 1:
            raise UsageError(f"every is {every}; it must be 1 or more, or None.")
        self._every = every
        self._step = 0  # of the last save
        self._begun: float | None = None  # when the last save began
        self._interval = _SHORTEST

    @property
    def by_time(self) -> bool:
        """Whether a save that is late may be made at a later step."""
        return self._every is None

    @property
    def interval(self) -> float:
        """Seconds between two saves, where time decides."""
        return self._interval

    def begin_at(self, step: int) -> None:
        """Note the step the training goes on from; its save was just read."""
        self._step = step
        self._begun = time.monotonic() if step else None

    def is_due(self, step: int) -> bool:
        """Tell whether a save of this step is due."""
        if self._every is not None:
            return step // self._every > self._step // self._every
        return self._begun is None or time.monotonic() - self._begun >= self._interval

    def saved(self, step: int) -> None:
        """Note that a save begins."""
        self._step, self._begun = step, time.monotonic()

    def took(self, seconds: float) -> None:
        """Note how long a save took, in the trainer and behind it."""
        self._interval = min(_LONGEST, max(_SHORTEST, _SHARE * seconds))
