"""The painting of a run: every prompt with every seed, once or twice, out of noise or out of a picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard.core.progress import Listener, Notice, Progress
from memcard.errors import CorruptError, NotFoundError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from memcard.generation.engine import Pipeline
    from memcard.generation.passes import Larger, Picture
    from memcard.generation.prompt import Prompt
    from memcard.generation.settings import Settings

_MEASURED = 2  # the step an estimate stands on; the first one warms up
_LONG = 20.0  # seconds; below this nobody wants to be told how long it takes
_OFTEN = 1.0  # seconds between two previews


@dataclass(slots=True)
class Clock:
    """Counts steps over all pictures and, if it will be long, says how long.

    Attributes:
        pictures: how many will be made.
        progress: hears it.
        preview: is given the latents now and then; None: nobody looks.
    """

    pictures: int
    progress: Listener
    preview: Callable[[Tensor], None] | None = None
    extra: float = 0.0  # steps of a second pass, for each step of the first
    _marks: list[float] = field(default_factory=list)
    _shown: float = 0.0

    def step_done(self, done: int, total: int, latents: Tensor) -> None:
        """Count one step."""
        now = time.perf_counter()
        self._marks.append(now)
        every = max(len(self._marks), round(self.pictures * total * (1 + self.extra)))
        self.progress(Progress("pictures", len(self._marks), every, "steps"))
        if len(self._marks) == _MEASURED:
            left = (self._marks[-1] - self._marks[-2]) * (every - len(self._marks))
            if left > _LONG:
                self.progress(Notice(f"This will take about {duration(left)} on this machine."))
        if self.preview is not None and (now - self._shown >= _OFTEN or done == total):
            self._shown = now
            self.preview(latents)


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


@dataclass(frozen=True, slots=True)
class Painted:
    """One picture.

    Attributes:
        image: its first frame.
        frames: all of them, [frames, height, width, 3] in 0..1; None for a picture.
    """

    image: Image
    frames: Any = None


def paint(
    pipeline: Pipeline,
    settings: Settings,
    wanted: Sequence[tuple[Prompt, int]],
    clock: Clock,
    progress: Listener,
    *,
    picture: Picture | None = None,
    larger: Larger | None = None,
    multiple: int = 8,
) -> list[Painted]:
    """Return one picture for each prompt and seed."""
    from memcard.generation import passes
    from memcard.generation.denoise import conditions
    from memcard.generation.engine import LOW_MEMORY
    from memcard.generation.picture import picture as image_of
    from memcard.generation.prompt import parse

    negative = parse(settings.negative)
    later = larger.settings(settings, multiple) if larger else settings
    made: list[Painted] = []
    told: dict[Prompt, tuple[Any, Any]] = {}

    def tell(prompt: Prompt) -> tuple[Any, Any]:
        first = conditions(pipeline, prompt, negative, settings, progress)
        if larger is None:
            return first, first
        return first, _again(pipeline, prompt, negative, settings, later, progress)

    if (let_go := pipeline.extras.get(LOW_MEMORY)) is not None:
        told = {prompt: tell(prompt) for prompt in dict.fromkeys(prompt for prompt, _ in wanted)}
        let_go()
    for prompt, seed in wanted:
        if prompt not in told:
            told = {prompt: tell(prompt)}
        first, again = told[prompt]
        found = passes.paint(pipeline, first, settings, seed, clock.step_done, picture=picture)
        if larger is not None:
            found = passes.enlarge(pipeline, again, found, later, larger, seed, clock.step_done)
        frames = found[0]
        made.append(Painted(image_of(frames[0]), frames if len(frames) > 1 else None))
        notes: list[str] = pipeline.extras.get("notes", [])
        while notes:
            progress(Notice(notes.pop(0)))
    return made


def _again(
    pipeline: Pipeline,
    prompt: Prompt,
    negative: Prompt,
    first: Settings,
    later: Settings,
    progress: Listener,
) -> Any:
    """Return what the denoiser is told in the second pass, in which changes of the prompt go on."""
    from memcard.generation.denoise import conditions

    both = (prompt.second_pass(first.steps), negative.second_pass(first.steps))
    return conditions(pipeline, *both, later, progress)


def read_picture(
    path: str | Path, settings: Settings, strength: float, mask: str | Path | None
) -> Picture:
    """Return a picture to begin from, and where it may change, in the size of the settings.

    A picture of another shape is scaled until it fills the size, and cut at its sides.

    Raises:
        NotFoundError: no such file.
        CorruptError: it is no picture.
    """
    from memcard.generation.passes import Picture

    size = (settings.width, settings.height)
    pixels = _fitted(path, size, "RGB")
    where = None if mask is None else _fitted(mask, size, "L")[..., 0]
    return Picture(pixels, strength, where)


def size_of(path: str | Path, multiple: int) -> tuple[int, int]:
    """Return width and height of a picture, rounded to what can be painted."""
    with _opened(path) as image:
        width, height = image.size
    wide, high = (max(multiple, round(side / multiple) * multiple) for side in (width, height))
    return wide, high


def _opened(path: str | Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(Path(path).expanduser())
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such picture. Check the name.") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptError(f"{path}: cannot be read as a picture: {error}.") from error


def _fitted(path: str | Path, size: tuple[int, int], mode: str) -> Tensor:
    import numpy as np
    import torch
    from PIL import ImageOps

    with _opened(path) as image:
        try:
            upright = ImageOps.exif_transpose(image).convert(mode)
        except (OSError, ValueError, SyntaxError) as error:
            raise CorruptError(f"{path}: cannot be read as a picture: {error}.") from error
    fitted = upright if upright.size == size else ImageOps.fit(upright, size)
    values = torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255)
    return values[..., None] if mode == "L" else values


def check(strength: float | None, image: object, mask: object, larger: Larger | None) -> None:
    """Refuse what needs no model to be refused.

    Raises:
        UsageError: a number is out of its range, or a mask has no picture.
    """
    from memcard.generation import passes

    if mask is not None and image is None:
        raise UsageError("a mask says where a picture may change; name the picture with --image.")
    if strength is not None and image is None:
        raise UsageError("strength is of a picture to begin from; name it with --image.")
    if strength is not None and not 0 < strength <= 1:
        raise UsageError(
            f"strength {strength:g} is not in 0..1: near 0 keeps the picture, 1 forgets it."
        )
    passes.check(None, larger)


def sized(settings: Settings, image: str | Path | None, multiple: int) -> Settings:
    """Return the settings with the size of a picture to begin from, unless somebody asked for another."""
    asked = {settings.origin.get(side) for side in ("width", "height")}
    if image is None or "user" in asked:
        return settings
    width, height = size_of(image, multiple)
    origin = {**settings.origin, "width": "user", "height": "user"}
    return replace(settings, width=width, height=height, origin=origin)
