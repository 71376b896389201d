"""The refiner of a run: a second checkpoint that walks the last steps of every picture.

Both models are never needed at once: first the base does its share of all pictures, then the refiner is loaded
and goes on. Only latents are kept in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard.core.progress import Listener
from memcard.errors import MismatchError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from memcard.generation.denoise import StepDone
    from memcard.generation.engine import Pipeline
    from memcard.generation.prompt import Prompt
    from memcard.generation.settings import Settings
    from memcard.jobs._generate_models import Loaded, Models, Wanted

_FAMILIES = ("sdxl", "sdxl_refiner")  # they share latents and noise levels


@dataclass(frozen=True, slots=True)
class Refine:
    """What finishes the pictures.

    Attributes:
        ref: path or name of the refiner, or of another checkpoint of Stable Diffusion XL.
        at: 0..1, the share of the way that the base walks.
    """

    ref: str | Path
    at: float = 0.8

    def facts(self) -> dict[str, Any]:
        """Return what a picture says about it."""
        from memcard.jobs._generate_models import facts

        return {**facts(self.ref), "at": self.at}


def refine(refiner: str | Path | None, at: float | None, **others: object) -> Refine | None:
    """Return what finishes the pictures; None: nothing does.

    Args:
        refiner: path or name.
        at: 0..1; None: 0.8.
        others: by the names of their options, what does not go with it where it is not None.

    Raises:
        UsageError: the share is out of its range, or something does not go with a refiner.
    """
    from memcard.generation.relay import check

    if refiner is None:
        if at is not None:
            raise UsageError("--refiner-at says where a refiner begins; name it with --refiner.")
        return None
    found = Refine(refiner) if at is None else Refine(refiner, at)
    check(found.at)
    for name, value in others.items():
        if value is not None:
            raise UsageError(
                f"--{name} does not go with --refiner. Make the picture first, then give it to the refiner: "
                "-c REFINER --image PICTURE."
            )
    return found


@dataclass(frozen=True, slots=True)
class Finisher:
    """Loads the refiner when the base is done, and finishes pictures with it.

    Attributes:
        models: what loads it, in the place of the base.
        wanted: the refiner.
        at: the share of the way that the base walks.
        progress: hears what was cut off a prompt.
    """

    models: Models
    wanted: Wanted
    at: float
    progress: Listener

    def finish(
        self,
        begun: Sequence[tuple[Prompt, int, Tensor]],
        negative: Prompt,
        settings: Settings,
        step_done: StepDone,
    ) -> list[Tensor]:
        """Return the pixels of pictures that the base has begun, in their order."""
        from memcard.generation import passes
        from memcard.generation.denoise import conditions
        from memcard.generation.engine import LOW_MEMORY

        pipeline = self.models.get(self.wanted).pipeline
        used = replace(settings, prediction_type=pipeline.prediction, image_cfg=None)
        check_pair(pipeline, used, str(self.wanted.checkpoint))
        told = {
            prompt: conditions(pipeline, prompt, negative, used, self.progress)
            for prompt in dict.fromkeys(prompt for prompt, _, _ in begun)
        }
        let_go: Callable[[], None] | None = pipeline.extras.get(LOW_MEMORY)
        if let_go is not None:
            let_go()
        with pipeline.running():
            return [
                passes.finish(pipeline, told[prompt], used, seed, latents, self.at, step_done)[0]
                for prompt, seed, latents in begun
            ]


def check_pair(pipeline: Pipeline, settings: Settings, name: str) -> None:
    """Refuse a model that is no half of such a pair.

    Raises:
        MismatchError: it is of another family, or of other noise levels.
    """
    usual = settings.prediction_type in ("epsilon", "v_prediction")
    if pipeline.architecture in _FAMILIES and usual:
        return
    raise MismatchError(
        f"{name}: a base and its refiner have to be Stable Diffusion XL with its usual noise levels; this is "
        f"{pipeline.engine.title} and predicts {settings.prediction_type}. Leave --refiner out."
    )


def finisher(
    found: Refine | None, models: Models, loaded: Loaded, wanted: Wanted, settings: Settings,
    progress: Listener,
) -> Finisher | None:  # fmt: skip
    """Return what finishes the pictures of a base that is loaded.

    Raises:
        MismatchError: the base cannot have one.
    """
    from memcard.jobs._generate_models import Wanted

    if found is None:
        return None
    check_pair(loaded.pipeline, settings, loaded.name)
    second = Wanted(found.ref, vae=wanted.vae, text_encoders=())
    return Finisher(models, second, found.at, progress)
