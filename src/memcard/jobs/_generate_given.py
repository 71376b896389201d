"""What the pictures that a user gives are to a model: to begin from, to change, to fill, to follow."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from memcard.core.progress import Listener, Notice

if TYPE_CHECKING:
    from memcard.generation.engine import Pipeline
    from memcard.generation.settings import Settings


def given(**said: object) -> frozenset[str]:
    """Return the names of what is not None."""
    return frozenset(name for name, one in said.items() if one is not None)


def strength_of(
    pipeline: Pipeline, settings: Settings, said: Collection[str], strength: float
) -> float:
    """Return how much of a picture is painted anew, once the model is known.

    Args:
        pipeline: the models.
        settings: of the run.
        said: of ``image``, ``mask``, ``control``, ``strength``, ``hires``: what the user gave.
        strength: his, or the usual one.

    Raises:
        UsageError: the model cannot use what he gave, or needs more.
    """
    from memcard.generation.passes import check_given

    check_given(pipeline, settings, said)
    if "strength" in said:
        return strength
    own = getattr(pipeline.engine, "strength", None)
    found = None if own is None else own(pipeline, settings)
    return strength if found is None else float(found)


def fitting(pipeline: Pipeline, settings: Settings, progress: Listener) -> Settings:
    """Return settings that the model can follow: a clip of the nearest length; says what changed."""
    own = getattr(pipeline.engine, "fitting", None)
    if own is None:
        return settings
    found: Settings
    found, notes = own(pipeline, settings)
    for note in notes:
        progress(Notice(note))
    return found


def looked_at(
    pipeline: Pipeline, settings: Settings, image: str | Path | None
) -> tuple[int, int] | None:
    """Return width and height in which a model looks at a picture, where they are not those of the run."""
    reads = getattr(pipeline.engine, "reads", None)
    if image is None or reads is None:
        return None
    from memcard.jobs._given_pictures import size_of

    found: tuple[int, int] | None = reads(pipeline, settings, size_of(image, 1))
    return found
