"""What a log says of a run: the last lines whole, and samples of a curve from a file of any length.

A log of a long training has millions of lines, and to parse one takes microseconds. To list runs, no more
than its end and some lines from between are read. To show one run, every line is looked at, and parsed are
events, lines with other metrics than their neighbours have, and some of the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from memcard.training.run_log import LOG, Point
from memcard.training.saves import from_json

_WHOLE: Final = 1 << 20  # bytes; a log of up to this size is read whole
_TAIL: Final = 1 << 18
_SAMPLES: Final = 64  # places in a longer one
_PIECE: Final = 1 << 12
_BLOCK: Final = 1 << 14  # bytes that are looked at together where all of it is
_HEADS: Final = 256  # blocks whose first lines are parsed
_HEAD: Final = 1 << 10  # bytes of those lines
_ODD: Final = 4  # lines of a block that are unlike those, and are parsed too
_EVENT: Final = b'"event"'


@dataclass(frozen=True, slots=True)
class Log:
    """What was read of a log.

    Attributes:
        points: logged steps in order, each once; of a long log the latest ones and samples of the others.
        recent: the latest ones without gaps.
        events: the latest events, the oldest first.
        changed: when the last line was written, in seconds since 1970; 0 if there is none.
        sampled: whether there are more logged steps than ``points`` has.
    """

    points: tuple[Point, ...] = ()
    recent: tuple[Point, ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    changed: float = 0.0
    sampled: bool = False

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
        whole: look at all of a long one: then no event is left out, and no metric that is seldom measured.
            About 0.2 s of CPU for 100 MB; without it 0.03 s for any length.
    """
    lines, before, recent = _Lines(), 0, 0
    sampled = False
    with suppress(OSError), (folder / LOG).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        sampled = size > _WHOLE
        if sampled:
            _all(lines, _parts(file, size - _TAIL) if whole else _samples(file, size))
            before = len(lines.points)
            if not whole:
                lines.events.clear()  # those of the end tell how it stands
                file.seek(size - _TAIL)
                file.readline()  # the rest of a line that begins before
        _all(lines, file)
        recent = min(before, len(lines.points)) if sampled else 0
    points = tuple(lines.points)
    return Log(points, points[recent:], tuple(lines.events), lines.changed, sampled)


def _all(lines: _Lines, rows: Iterable[bytes]) -> None:
    for raw in rows:
        lines.take(raw)


def _samples(file: Any, size: int) -> Iterator[bytes]:
    """Yield whole lines from all over a file, up to its end that is read whole."""
    for i in range(_SAMPLES):
        file.seek(i * (size - _TAIL) // _SAMPLES)
        piece = file.read(_PIECE).split(b"\n")
        yield from piece[0 if i == 0 else 1 : -1]


def _parts(file: Any, end: int) -> Iterator[bytes]:
    """Yield what tells most of the lines that begin before ``end``; the file is left at the first one behind."""
    every, usual = max(1, end // _BLOCK // _HEADS), set[int]()
    for number in count():
        room = end - file.tell()
        if room <= 0:
            return
        block = file.read(min(_BLOCK, room)) + file.readline()
        if number % every == 0:
            cut = block.find(b"\n", _HEAD) + 1 or len(block)
            first, block = block[:cut].splitlines(), block[cut:]
            yield from first
            usual = {row.count(b'"') for row in first}
        yield from _odd(block, usual)


def _odd(block: bytes, usual: AbstractSet[int]) -> Iterator[bytes]:
    """Yield events, and some of the lines that have other keys than usual ones.

    A line with one key more has two quotation marks more. To count those of a block takes 5 us, to parse one
    line 6 us.
    """
    if usual == {block.count(b'"') / max(1, block.count(b"\n"))} and _EVENT not in block:
        return
    odd = [r for r in block.splitlines() if r.count(b'"') not in usual or _EVENT in r]
    every = max(1, len(odd) // _ODD)
    for i, row in enumerate(odd):
        if i % every == 0 or _EVENT in row:
            yield row
