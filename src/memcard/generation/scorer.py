"""What a scorer is: one number for one picture, which says how good it is in one respect.

A scorer is a function of pictures and of what they are held against: another picture of the same seed, the
pictures of other seeds, or the model itself as a judge. Which way is better stands beside it, so that no
caller has to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from memcard.generation.engine import Pipeline
from memcard.generation.settings import Settings

Need: TypeAlias = Literal["reference", "unguided", "seeds", "model", "clip"]
# "higher": more is better. "none": a property that describes; too little and too much are both bad.
Better: TypeAlias = Literal["higher", "none"]
Key: TypeAlias = tuple[str, int]  # prompt and seed


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture that is to be judged.

    Attributes:
        prompt: what it shall show.
        seed: of its noise.
        latents: as the denoiser left them, [1, ...], float32.
        pixels: what they decode to, [frames, height, width, 3], 0..1.
    """

    prompt: str
    seed: int
    latents: Tensor
    pixels: Tensor

    @property
    def key(self) -> Key:
        """What pictures of the same prompt and seed have in common."""
        return self.prompt, self.seed


@dataclass(frozen=True, slots=True)
class Bench:
    """What pictures are held against; a scorer takes what its ``needs`` name.

    Attributes:
        pipeline: the model that judges (``model``).
        settings: in which size and with which layer of the text encoder it is asked.
        rivals: prompts a picture might be taken for instead of its own; "" is no prompt at all.
        references: converged pictures by prompt and seed (``reference``).
        unguided: pictures without guidance by prompt and seed (``unguided``).
        clip: folder of a CLIP model of transformers (``clip``).
        kept: what a scorer has worked out and may use again.
    """

    pipeline: Pipeline | None = None
    settings: Settings | None = None
    rivals: tuple[str, ...] = ("",)
    references: Mapping[Key, Shot] = field(default_factory=dict)
    unguided: Mapping[Key, Shot] = field(default_factory=dict)
    clip: Path | None = None
    kept: dict[Any, Any] = field(default_factory=dict)


@runtime_checkable
class Scorer(Protocol):
    """One respect in which pictures are judged. The file name in ``generation/scorers`` is its name."""

    title: str
    source: str  # the paper, or what defines it
    range: tuple[float, float]
    unit: str  # "" for a plain number
    better: Better
    needs: tuple[Need, ...]  # what of the bench must be there

    def score(self, shots: Sequence[Shot], bench: Bench) -> tuple[float, ...]:
        """Return one number for each picture.

        Raises:
            UsageError: the bench lacks what this scorer needs.
        """
        ...
