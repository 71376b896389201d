"""What a log says of a run: the last lines whole, and samples of a curve from a file of any length.

A log of a long training has millions of lines. To list runs, no more than its end and some lines from
between are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from memcard.training.run_log import LOG, Point
from memcard.training.saves import from_json

_WHOLE: Final = 1 << 20  # bytes; a log of up to this size is read whole
_TAIL: Final = 1 << 18
_SAMPLES: Final = 64  # places in a longer one
_PIECE: Final = 1 << 12


@dataclass(frozen=True, slots=True)
class Log:
    """What was read of a log.

    Attributes:
        points: logged steps in order, each once; of a long log the latest ones and samples of the others.
        recent: the latest ones without gaps.
        events: the latest events, the oldest first.
        changed: when the last line was written, in seconds since 1970; 0 if there is none.
    """

    points: tuple[Point, ...] = ()
    recent: tuple[Point, ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    changed: float = 0.0

    @property
    def step(self) -> int:
        """The last finished step that is told of; 0 if none is."""
        lines = [e["step"] for e in self.events[-1:] if isinstance(e.get("step"), int)]
        return max([*lines, *(p.step for p in self.points[-1:])], default=0)

    def last(self, event: str) -> dict[str, Any] | None:
        """Return the last event of a kind, if it is among those that were read."""
        return next((e for e in reversed(self.events) if e["event"] == event), None)

    def values(self, metric: str) -> list[tuple[int, float]]:
        """Return step and value wherever a metric was measured."""
        return [(p.step, p.metrics[metric]) for p in self.points if metric in p.metrics]

    def metrics(self) -> list[str]:
        """Return the names of all metrics, in the order in which they appear."""
        return list(dict.fromkeys(name for p in self.points for name in p.metrics))


@dataclass(slots=True)
class _Lines:
    """Lines in the order of the file, on their way into a ``Log``."""

    points: list[Point] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    changed: float = 0.0

    def take(self, raw: bytes) -> None:
        """Take in one line; one that is damaged is passed over."""
        with suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
            line = json.loads(raw)
            at = float(line["time"])
            if isinstance(line.get("event"), str):
                self.events.append(line)
                if line["event"] == "resumed" and isinstance(line.get("step"), int):
                    self._back_to(line["step"])
            else:
                metrics = {str(k): from_json(v) for k, v in line["metrics"].items()}
                step = int(line["step"])
                self._back_to(step - 1)
                self.points.append(Point(step, at, metrics))
            self.changed = max(self.changed, at)

    def _back_to(self, step: int) -> None:
        while self.points and self.points[-1].step > step:
            self.points.pop()


def read(folder: Path, *, whole: bool = False) -> Log:
    """Read a log; an empty one where there is none or it cannot be read.

    Args:
        folder: of the run.
        whole: all of it, however long.
    """
    lines, recent = _Lines(), 0
    with suppress(OSError), (folder / LOG).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if whole or size <= _WHOLE:
            _all(lines, file)
        else:
            for piece in _samples(file, size):
                lines.take(piece)
            sampled = len(lines.points)
            lines.events.clear()  # those of the end tell how it stands
            file.seek(size - _TAIL)
            file.readline()  # the rest of a line that begins before
            _all(lines, file)
            recent = min(sampled, len(lines.points))
    points = tuple(lines.points)
    return Log(points, points[recent:], tuple(lines.events), lines.changed)


def _all(lines: _Lines, rows: Iterable[bytes]) -> None:
    for raw in rows:
        lines.take(raw)


def _samples(file: Any, size: int) -> Iterator[bytes]:
    """Yield whole lines from all over a file, up to its end that is read whole."""
    for i in range(_SAMPLES):
        file.seek(i * (size - _TAIL) // _SAMPLES)
        piece = file.read(_PIECE).split(b"\n")
        yield from piece[0 if i == 0 else 1 : -1]
