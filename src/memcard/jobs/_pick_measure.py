"""Try checkpoints for a purpose: each paints it, and says how clearly it sees it in its own pictures."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Final

from memcard.core.extras import require
from memcard.core.progress import Listener, Notice, Progress
from memcard.errors import MemcardError
from memcard.jobs._pick_ranking import Candidate, Ranking, ranked_by_pictures
from memcard.jobs._tune_prompts import GENERAL, STARTER_OBJECTS
from memcard.jobs._tune_race import margin

_RIVALS: Final = 5
_NOTE: Final = (
    "Each checkpoint judged its own pictures: adherence says how clearly it can paint this, not how "
    "beautiful the pictures are. Ranks are shared where the intervals overlap."
)


def measured(ranking: Ranking, count: int, most: int, progress: Listener) -> Ranking:
    """Return the ranking after ``count`` pictures with each of the first ``most``.

    If nothing fits by what is said, those of which nothing is known are tried.
    """
    require("generate", what="Measuring")
    unknown = [Candidate(ref, 0, 0.0, ("Nothing is said of it.",)) for ref in ranking.silent]
    wanted = [*ranking.candidates, *unknown][:most]
    tried = []
    for number, one in enumerate(wanted):
        progress(Progress("checkpoints", number, len(wanted), "files"))
        tried.append(_tried(one, ranking.purpose, count, progress))
    left = len(ranking.candidates) + len(unknown) - len(wanted)
    notes = [
        _NOTE,
        *([f"{left} more were not tried; --most {left + most} tries all."] if left else []),
    ]
    return ranked_by_pictures(ranking, tried, notes)


def _tried(one: Candidate, purpose: str, count: int, progress: Listener) -> Candidate:
    from memcard.jobs._generate_models import Models, Wanted
    from memcard.jobs._tune_cells import Cell
    from memcard.jobs._tune_painter import Painter

    try:
        models = Models(progress=progress)
        with Painter(Wanted(one.ref), models, {}, with_card=True) as painter:
            others = STARTER_OBJECTS if painter.family == "starter" else GENERAL
            rivals = (*[p for p in others if p != purpose][:_RIVALS], "")
            used = painter.usual
            scores = [
                painter.scores(
                    Cell(used.cfg, used.steps, used.sampler, used.schedule, purpose, seed),
                    ("adherence",),
                    rivals,
                )[0]["adherence"]
                for seed in range(1, count + 1)
            ]
    except MemcardError as error:
        progress(Notice(f"{one.ref} could not be tried: {error}"))
        return replace(one, fault=str(error))
    found = margin(scores)
    spread = (found.low, found.high) if isfinite(found.low) else None
    return replace(one, adherence=found.mean, spread=spread)
