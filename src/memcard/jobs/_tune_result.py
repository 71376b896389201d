"""What a search for settings found, and on what evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard._version import __version__
from memcard.jobs._tune_prompts import Prompts

if TYPE_CHECKING:
    from memcard.jobs._tune_race import Margin
    from memcard.jobs._tune_search import Point


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search found, and on what evidence.

    Attributes:
        checkpoint: its name.
        sha256: of the checkpoint and its LoRAs.
        family: name of its architecture.
        found: cfg, steps, sampler, schedule.
        usual: the same of its family.
        recommended: whether ``found`` is worth using in place of ``usual``.
        verdict: why, in a sentence or two.
        evaluations, usual_evaluations: runs of the denoiser for a picture.
        check: on held-out prompts and seeds: score to (found, usual, difference).
        judging: the scores of ``check`` of which more is better; the others describe.
        curves: what was measured on the way.
        prompts: searched with, held out, and where they are from.
        pictures: that were painted and judged; those of an earlier run count.
        page: the report; sheets and ``tune.json`` lie beside it.
        written: where the settings were written; None if they were not.
        notes: what a careful user should know.
        seconds: wall time.
        command: how to repeat it.
    """

    checkpoint: str
    sha256: tuple[str, ...]
    family: str
    found: Mapping[str, Any]
    usual: Mapping[str, Any]
    recommended: bool
    verdict: str
    evaluations: int
    usual_evaluations: int
    check: Mapping[str, tuple[Margin, Margin, Margin]]
    judging: tuple[str, ...]
    curves: Mapping[str, Sequence[Point]]
    prompts: Prompts
    pictures: int
    page: Path
    notes: tuple[str, ...]
    seconds: float
    command: str
    written: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "memcard": __version__,
            "checkpoint": {"name": self.checkpoint, "sha256": list(self.sha256)},
            "family": self.family,
            "found": dict(self.found),
            "usual": dict(self.usual),
            "recommended": self.recommended,
            "verdict": self.verdict,
            "evaluations": {"found": self.evaluations, "usual": self.usual_evaluations},
            "held_out": {
                name: {"found": a.mean, "usual": b.mean, "difference": gain.to_dict()}
                for name, (a, b, gain) in self.check.items()
            },
            "curves": {name: [_point(p) for p in points] for name, points in self.curves.items()},
            "prompts": {
                "search": list(self.prompts.search),
                "held_out": list(self.prompts.held_out),
                "origin": self.prompts.origin,
            },
            "pictures": self.pictures,
            "notes": list(self.notes),
            "page": str(self.page),
            "written": None if self.written is None else str(self.written),
            "seconds": round(self.seconds, 1),
        }


def _point(point: Point) -> dict[str, Any]:
    scores = {name: found.to_dict() for name, found in point.scores.items()}
    for found in scores.values():
        del found["verdict"]  # of a difference; these are values
    return {"value": point.value, "dropped_after": point.dropped, "scores": scores}
