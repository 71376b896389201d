"""The painting of a run: every prompt with every seed, once or twice, out of noise or out of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard.core.progress import Listener, Notice
from memcard.errors import UsageError
from memcard.jobs._generate_clock import Clock

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from memcard.generation.engine import Pipeline
    from memcard.generation.passes import Larger, Picture
    from memcard.generation.prompt import Prompt
    from memcard.generation.settings import Settings
    from memcard.jobs._generate_control import Steer
    from memcard.jobs._generate_refine import Finisher


@dataclass(frozen=True, slots=True)
class Painted:
    """One picture.

    Attributes:
        image: its first frame.
        frames: all of them, [frames, height, width, 3] in 0..1; None for a picture.
    """

    image: Image
    frames: Any = None


@dataclass(frozen=True, slots=True)
class Beside:
    """What a run begins from and follows.

    Attributes:
        picture: to begin from.
        steers: ControlNets and their pictures.
        drawing: what the checkpoint itself follows, without a ControlNet.
        larger: a second pass.
        multiple: of pixels, that sides must be.
        finisher: another model that walks the last steps.
        edges: what is followed are the edges of the pictures.
    """

    picture: Picture | None = None
    steers: tuple[Steer, ...] = ()
    drawing: str | Path | None = None
    larger: Larger | None = None
    multiple: int = 8
    finisher: Finisher | None = None
    edges: bool = False


def paint(
    pipeline: Pipeline,
    settings: Settings,
    wanted: Sequence[tuple[Prompt, int]],
    clock: Clock,
    progress: Listener,
    beside: Beside | None = None,
) -> list[Painted]:
    """Return one picture for each prompt and seed."""
    from memcard.generation.engine import LOW_MEMORY
    from memcard.generation.prompt import parse

    given = beside or Beside()
    run = _Painting(pipeline, settings, parse(settings.negative), clock, progress, given)
    made: list[Painted] = []
    told: dict[Prompt, tuple[Any, Any]] = {}
    if (let_go := pipeline.extras.get(LOW_MEMORY)) is not None:
        told = {prompt: run.tell(prompt) for prompt in dict.fromkeys(one for one, _ in wanted)}
        let_go()
    begun: list[tuple[Prompt, int, Any]] = []
    for prompt, seed in wanted:
        if prompt not in told:
            told = {prompt: run.tell(prompt)}
        if given.finisher is not None:
            begun.append((prompt, seed, run.half(told[prompt], seed, given.finisher.at)))
            continue
        made.append(run.one(told[prompt], seed))
        notes: list[str] = pipeline.extras.get("notes", [])
        while notes:
            progress(Notice(notes.pop(0)))
    return made if given.finisher is None else run.rest(given.finisher, begun)


class _Painting:
    """One run: the pictures it follows, read once, and what all its pictures share."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        negative: Prompt,
        clock: Clock,
        progress: Listener,
        beside: Beside,
    ) -> None:
        from memcard.jobs._generate_control import controls, drawn

        self.pipeline, self.settings, self.negative = pipeline, settings, negative
        self.clock, self.progress, self.beside = clock, progress, beside
        self.later = settings
        if beside.larger is not None:
            self.later = beside.larger.settings(settings, beside.multiple)
        passes = settings, self.later
        self.controls = [controls(beside.steers, one, edges=beside.edges) for one in passes]
        self.drawing = None
        if beside.drawing is not None:
            size = settings.width, settings.height
            self.drawing = drawn(beside.drawing, size, edges=beside.edges)

    def tell(self, prompt: Prompt) -> tuple[Any, Any]:
        """Return what the denoiser is told in both passes."""
        from memcard.generation.denoise import conditions

        first = conditions(self.pipeline, prompt, self.negative, self.settings, self.progress)
        if self.beside.larger is None:
            return first, first
        both = self.pipeline, prompt, self.negative
        return first, _again(*both, self.settings, self.later, self.progress)

    def half(self, told: tuple[Any, Any], seed: int, at: float) -> Tensor:
        """Begin one picture that another model finishes."""
        from memcard.generation import passes
        from memcard.generation.control import steered

        picture = self.beside.picture
        if picture is None:
            self.clock.begin()
        strength = 1.0 if picture is None else picture.strength
        pipeline, first = steered(
            self.pipeline, told[0], self.controls[0], self.settings, strength=strength
        )
        return passes.begun(
            *(pipeline, first, self.settings, seed, at), self._step_done, picture=picture
        )

    def rest(self, finisher: Finisher, begun: Sequence[tuple[Prompt, int, Any]]) -> list[Painted]:
        """Let the other model finish all pictures; this one's weights may be gone after that."""
        from memcard.generation.picture import picture as image_of

        self.clock.preview = None  # it looks through the base
        found = finisher.finish(begun, self.negative, self.settings, self._step_done)
        return [Painted(image_of(pixels[0])) for pixels in found]

    def _step_done(self, done: int, total: int, latents: Tensor) -> None:
        """Count a step of either model: together they have those of the settings."""
        self.clock.step_done(min(done, total), self.settings.steps, latents)

    def one(self, told: tuple[Any, Any], seed: int) -> Painted:
        """Paint one picture."""
        from memcard.generation import passes
        from memcard.generation.control import steered
        from memcard.generation.picture import picture as image_of

        first, again = told
        picture, larger = self.beside.picture, self.beside.larger
        done = self.clock.step_done
        if picture is None:
            self.clock.begin()
        strength = 1.0 if picture is None else picture.strength
        pipeline, first = steered(
            self.pipeline, first, self.controls[0], self.settings, strength=strength
        )
        found = passes.paint(
            *(pipeline, first, self.settings, seed, done), picture=picture, control=self.drawing
        )
        if larger is not None:
            pipeline, again = steered(
                self.pipeline, again, self.controls[1], self.later, strength=larger.strength
            )
            found = passes.enlarge(
                *(pipeline, again, found, self.later, larger, seed, done), control=self.drawing
            )
        frames = found[0]
        return Painted(image_of(frames[0]), frames if len(frames) > 1 else None)


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


def check(
    strength: float | None,
    image: object,
    mask: object,
    larger: Larger | None,
    last: object = None,
) -> None:
    """Refuse what needs no model to be refused.

    Raises:
        UsageError: a number is out of its range, or a mask has no picture.
    """
    from memcard.generation import passes

    if mask is not None and image is None:
        raise UsageError("a mask says where a picture may change; name the picture with --image.")
    if last is not None and image is None:
        raise UsageError("a clip with a last frame needs its first one; name it with --image.")
    if strength is not None and image is None:
        raise UsageError("strength is of a picture to begin from; name it with --image.")
    if strength is not None and not 0 <= strength <= 1:
        raise UsageError(
            f"strength {strength:g} is not in 0..1: near 0 keeps the picture, 1 forgets it."
        )
    passes.check(None, larger)
