"""A generator that stays: what one run loaded is there for the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from memcard.core.extras import require
from memcard.errors import UsageError
from memcard.jobs._generate_models import Lora, Models
from memcard.jobs._pictures import Result

if TYPE_CHECKING:
    from PIL.Image import Image


class Generator:
    """Makes pictures again and again, with one checkpoint or many; a context manager.

    Weights are kept by their content as long as ``budget`` lasts, so that another checkpoint of the family, a
    LoRA, or a VAE costs what differs and no more. May be used from several threads; one run waits for the other.

    Examples:
        with memcard.Generator() as generator:
            for style in ("starter", "starter/raw"):
                (image,) = generator.generate("a red apple", style, seed=1)
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        dtype: str = "auto",
        budget: int | None = None,
        low_memory: bool = False,
    ) -> None:
        """Begin with nothing loaded.

        Args:
            device: ``auto``, ``cpu``, ``cuda``, ``mps``.
            dtype: compute in ``auto``, ``F32``, ``BF16`` or ``F16``.
            budget: bytes of weights to keep; those in use are kept whatever it is. None: half of the memory
                that is free on the device at the first run, or nothing with ``low_memory``.
            low_memory: let go of the text encoders once the prompts of a run are read, and decode in tiles:
                slower, and pixels near the seams of tiles differ a little.

        Raises:
            UsageError: the budget is below 0, or torch and diffusers are not installed.
        """
        require("generate", what="Making pictures")
        if budget is not None and budget < 0:
            raise UsageError(f"a budget of {budget} bytes; give 0 or more, or None for the usual.")
        self._models = Models(device, dtype, budget=budget, low_memory=low_memory)
        self._lock = Lock()
        self._closed = False

    def run(
        self,
        prompt: str | Sequence[str],
        checkpoint: str | Path = "starter",
        loras: Sequence[tuple[str | Path, float] | Lora] = (),
        **settings: Any,
    ) -> Result:
        """Make pictures; arguments, results and errors as of ``memcard.jobs.generate.run``.

        Raises:
            UsageError: the generator is closed, or a device or dtype is asked for, which are its own.
        """
        from memcard.jobs.generate import run

        if theirs := sorted({"device", "dtype", "low_memory", "models"} & set(settings)):
            raise UsageError(
                f"{', '.join(theirs)}: said when the generator is made, not with each run."
            )
        with self._lock:
            if self._closed:
                raise UsageError("the generator is closed; make a new one.")
            return run(prompt, checkpoint, loras, models=self._models, **settings)

    def generate(
        self,
        prompt: str | Sequence[str],
        checkpoint: str | Path = "starter",
        loras: Sequence[tuple[str | Path, float] | Lora] = (),
        **settings: Any,
    ) -> list[Image]:
        """Return pictures; as ``memcard.generate``."""
        return [p.image for p in self.run(prompt, checkpoint, loras, **settings).pictures]

    def close(self) -> None:
        """Let go of everything; waits for a run to end."""
        with self._lock:
            self._closed = True
            self._models.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
