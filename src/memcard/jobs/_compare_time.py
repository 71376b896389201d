"""How long cells take: measured while they are made, and remembered for the next time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from memcard.jobs._compare_cells import Planned

_PIXELS: Final = 64 * 64  # of one unit of work: a step without guidance on so many pixels


def kind_of(cell: Planned, device: str, dtype: str) -> str:
    """Return what decides the speed: the family, its size, and where it is computed."""
    return f"{cell.model.family}/{cell.model.elements}/{device}/{dtype}"


def work(cell: Planned) -> float:
    """Return the units of work of a cell: steps x guidance x pixels."""
    from memcard.generation.samplers import SAMPLERS

    said = cell.settings
    if said is None:
        return 0.0
    evaluations = said.steps * SAMPLERS[said.sampler].evaluations * (2 if said.cfg > 1 else 1)
    return evaluations * said.width * said.height * said.frames / _PIXELS


class Timer:
    """Learns the speed of each kind of model: seconds for loading, for a picture, for a unit of work."""

    def __init__(self, known: Mapping[str, Mapping[str, float]], device: str, dtype: str) -> None:
        """Start with what is known from earlier runs."""
        self._known = known
        self._device, self._dtype = device, dtype
        self._seen: dict[str, list[tuple[float | None, float, float]]] = {}
        self._loaded: object = None

    def learn(self, cell: Planned, marks: Sequence[float], *, start: float, loading: float) -> None:
        """Take in one painted cell.

        Args:
            cell: that was painted.
            marks: when each step was done, in seconds.
            start: when it began.
            loading: seconds of it that went into loading models.
        """
        if not marks or not (units := work(cell)):
            return
        end = time.perf_counter()
        each = units / len(marks)  # a step of the loop; Heun's has two of them
        if len(marks) > 1:
            unit = (marks[-1] - marks[0]) / (len(marks) - 1) / each
        else:
            unit = (marks[0] - start - loading) / each
        fixed = max(0.0, end - start - loading - unit * units)
        kind = kind_of(cell, self._device, self._dtype)
        new = None if cell.group == self._loaded else loading  # else the models were there already
        self._loaded = cell.group
        self._seen.setdefault(kind, []).append((new, fixed, max(unit, 0.0)))

    def knows(self, cell: Planned) -> bool:
        """Tell whether its kind of model was ever measured."""
        kind = kind_of(cell, self._device, self._dtype)
        return kind in self._seen or kind in self._known

    def seconds(self, cells: Iterable[Planned]) -> float | None:
        """Return how long the cells take in this order; None if the speed of one is unknown.

        After one cell alone only the steps count: loading and decoding were those of a cold start.
        """
        rates, total, loaded = self.measured(), 0.0, None
        for cell in cells:
            kind = kind_of(cell, self._device, self._dtype)
            rate = rates.get(kind) or self._known.get(kind)
            if rate is None:
                return None
            total += rate["fixed"] + rate["unit"] * work(cell)
            if cell.group != loaded:
                total, loaded = total + rate["load"], cell.group
        return total

    def measured(self) -> dict[str, dict[str, float]]:
        """Return what was learnt here, by kind."""
        found = {}
        for kind, seen in self._seen.items():
            loads = [load for load, _, _ in seen if load is not None]
            warm = seen[1:]  # the first one also starts the engine
            found[kind] = {
                "load": median(loads[1:] or [0.0]),
                "fixed": median([fixed for _, fixed, _ in warm] or [0.0]),
                "unit": median(unit for _, _, unit in seen),
            }
        return found

    def lasting(self) -> dict[str, dict[str, float]]:
        """Return what is worth remembering: one cold start does not replace what is known."""
        found = self.measured()
        return {k: v for k, v in found.items() if len(self._seen[k]) > 1 or k not in self._known}


def about(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"
