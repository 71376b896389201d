"""The settings of a checkpoint: one way for all that paint, and for what only says how it would."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memcard.generation.engine import Pipeline
    from memcard.generation.parts import Assembly
    from memcard.generation.settings import Settings


def settings_of(
    pipeline: Pipeline, metadata: Mapping[str, str], user: Mapping[str, Any]
) -> Settings:
    """Return the settings for a checkpoint: of the user, else of its card, else of the model and its family.

    Args:
        pipeline: loaded, or an ``outline``.
        metadata: of the checkpoint, its card among it.
        user: by the names of ``Settings``; None means not said.

    Raises:
        UsageError: a value is out of its range.
        NotFoundError: no sampler has this name.
    """
    from memcard.architectures import ARCHITECTURES
    from memcard.generation.image_info import own_clip_skip
    from memcard.generation.settings import resolve

    name = pipeline.architecture
    family = ARCHITECTURES[name]
    usual = usual_of(pipeline)
    return resolve(family, metadata, user, usual, clip_skip=lambda n: own_clip_skip(n, name))


def usual_of(pipeline: Pipeline) -> dict[str, Any]:
    """Return what this very model asks for where it may differ from its family."""
    of_model = getattr(pipeline.engine, "usual", None)
    more = {} if of_model is None else of_model(pipeline)
    return {"prediction_type": pipeline.prediction, **more}


def outline(assembly: Assembly) -> Pipeline:
    """Return a pipeline whose networks are their configs alone: all that settings depend on."""
    import torch

    from memcard.generation.engine import NAMED, Pipeline

    configs = {name: part.config for name, part in assembly.parts.items()}
    return Pipeline(
        *(assembly.family, assembly.engine),
        modules={n: SimpleNamespace(config=SimpleNamespace(**c)) for n, c in configs.items()},
        configs=configs | {"scheduler": assembly.scheduler},
        tokenizers={},
        prediction=assembly.prediction,
        dtype=torch.float32,
        device=torch.device("cpu"),
        extras={NAMED: assembly.named},
    )
