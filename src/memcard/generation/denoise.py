"""From a prompt to pixels: encode, denoise under guidance, decode.

One loop for all engines. Its arithmetic and order are those of diffusers' pipelines, so that both give
the same bits from the same weights (``tests/unit/generation/test_same_as_diffusers.py``).

Source: Ho and Salimans 2022, arXiv:2207.12598 (guidance); Meng et al. 2021, arXiv:2108.01073 (from a
picture); diffusers ``pipeline_stable_diffusion.py``, ``pipeline_stable_diffusion_inpaint.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor

from memcard.core.progress import Listener, Notice, silent
from memcard.errors import UsageError
from memcard.generation import instruct, relay
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.finite import check_latents, decoded, tiles
from memcard.generation.guidance import combine, guided, mixture
from memcard.generation.latents import generator
from memcard.generation.placed import Placed
from memcard.generation.prompt import Prompt, parse
from memcard.generation.samplers import SAMPLERS
from memcard.generation.settings import Settings

# Told after each step: how many are done, of how many, and the latents so far.
StepDone: TypeAlias = Callable[[int, int, Tensor], None]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the denoiser is told, over the whole run.

    Attributes:
        spans: up to which step (not included), what the picture shall be, and what not; None where
            there is no guidance.
    """

    spans: tuple[tuple[int, Cond, Cond | None], ...]

    def at(self, step: int) -> tuple[Cond, Cond | None]:
        """Return what holds in a step, counted from 0."""
        _, wanted, unwanted = next((s for s in self.spans if step < s[0]), self.spans[-1])
        return wanted, unwanted

    def beside(self, more: Cond) -> Conditions:
        """Return the same with more that the denoiser is told, with the prompt and without."""
        return Conditions(
            tuple(
                (end, {**one, **more}, None if other is None else {**other, **more})
                for end, one, other in self.spans
            )
        )


@dataclass(frozen=True, slots=True)
class Start:
    """A picture to begin from instead of noise.

    Attributes:
        latents: of the picture, as ``Engine.encode_pixels`` gives them.
        strength: 0..1, how much of the way from noise is walked; 1 leaves nothing of the picture.
        mask: 1 where the picture may change, 0 where it stays, in the shape of the latents; None: all.
        pure: begin with nothing but noise.
        later: gives what the denoiser is told beside the words; drawn after the noise.
        place: puts pictures into the noise of a clip, which then begins as it is returned; the other values
            but ``later`` do not count.
        since: 0..1, the share of the way that another model walked: the latents have their noise already.
    """

    latents: Tensor
    strength: float
    mask: Tensor | None = None
    pure: bool = False
    later: Callable[[Generator], Cond] | None = None
    place: Callable[[Tensor, Generator], Placed] | None = None
    since: float | None = None


def conditions(
    pipeline: Pipeline,
    prompt: str | Prompt,
    negative: str | Prompt,
    settings: Settings,
    progress: Listener = silent,
) -> Conditions:
    """Return what the denoiser is told in every step.

    Says which words did not fit into the text encoder.
    """
    wanted = parse(prompt) if isinstance(prompt, str) else prompt
    unwanted = parse(negative) if isinstance(negative, str) else negative
    guided = settings.cfg > 1
    ends = sorted({end for p in (wanted, unwanted) for end, _ in p.spans(settings.steps)})
    told: dict[Any, Cond] = {}
    with torch.inference_mode():

        def cond(text: Prompt, end: int, *, is_negative: bool) -> Cond:
            words = text.at(end - 1, settings.steps)
            if (words, is_negative) not in told:
                found = pipeline.engine.encode(pipeline, words, settings, negative=is_negative)
                told[words, is_negative] = found
            return told[words, is_negative]

        spans = []
        for end in ends:
            one = cond(wanted, end, is_negative=False)
            other = cond(unwanted, end, is_negative=True) if guided else None
            spans.append((end, one, other))
    cut: list[str] = pipeline.extras.get("cut", [])
    while cut:
        progress(Notice(f"The prompt is too long; not read: {cut.pop(0)!r}."))
    return Conditions(tuple(spans))


def denoise(
    pipeline: Pipeline,
    told: Conditions,
    settings: Settings,
    seed: int,
    step_done: StepDone = lambda done, total, latents: None,
    *,
    start: Callable[[Generator], Start] | None = None,
    source: Generator | None = None,
    until: float | None = None,
) -> Tensor:
    """Return the clean latents of one picture or clip, as the engine's denoiser has them.

    Args:
        pipeline: the models.
        told: from ``conditions``.
        settings: sampler, schedule, steps, guidance, size.
        seed: of all noise in this picture.
        step_done: told after each run of the denoiser.
        start: gives a picture to begin from; may draw from the random numbers before the noise does.
        source: of the random numbers, which ``decode`` may go on with; None: one of the seed.
        until: 0..1, stop at this share of the way; another model goes on from there.
    """
    source = source or generator(seed)
    given = None if start is None else start(source)
    scheduler = pipeline.engine.scheduler(pipeline, settings)
    noise = _noise(pipeline, settings, source, given)
    moments, latents = _begin(scheduler, settings, noise, given)
    if given is not None and given.later is not None:
        told = told.beside(given.later(source))
    placed = _placed(pipeline, settings, noise, source, given)
    if placed is not None:
        latents, told = placed.latents, told.beside(placed.beside)
    own = _whole if placed is None else placed.own
    extra = {"generator": source} if SAMPLERS[settings.sampler].random else {}
    order = max(1, getattr(scheduler, "order", 1))
    skipped = len(scheduler.timesteps) - len(moments)
    if until is not None:
        moments = relay.until(scheduler, moments, until)

    def stepped(latents: Tensor, moment: Tensor, done: int) -> Tensor:
        cond = told.at((skipped + done - 1) // order)
        guess = _guess(pipeline, scheduler, latents, moment, cond, settings)
        after: Tensor = scheduler.step(guess, moment, latents, return_dict=False, **extra)[0]
        return after

    with torch.inference_mode():
        for done, moment in enumerate(moments, 1):
            if placed is None:
                latents = stepped(latents, moment, done)
            else:
                level = moment / scheduler.config.num_train_timesteps
                before = placed.stirred(latents, level, source)
                latents = placed.waited(before, stepped(before, moment, done), level)
            if given is not None and given.mask is not None:
                latents = _kept(scheduler, given, noise, latents, moments, done)
            check_latents(latents, done, len(moments), pipeline)
            step_done(done, len(moments), own(latents))
    return own(latents)


def _placed(
    pipeline: Pipeline, settings: Settings, noise: Tensor, source: Generator, given: Start | None
) -> Placed | None:
    """Return a clip with pictures in its noise; None where there are none."""
    if given is None or given.place is None:
        return None
    with torch.inference_mode(), tiles(pipeline, settings):
        return given.place(noise, source)


def _whole(latents: Tensor) -> Tensor:
    """Return the latents of a run in which every token is of the picture."""
    return latents


def _noise(
    pipeline: Pipeline, settings: Settings, source: Generator, given: Start | None
) -> Tensor:
    """Return the noise of a run; where another model began, what it left of its own."""
    kind = getattr(pipeline.engine, "latent_dtype", pipeline.dtype)
    if given is not None and given.since is not None:
        return given.latents.to(pipeline.device, kind)  # nothing is drawn
    return pipeline.engine.noise(pipeline, settings, source).to(pipeline.device, kind)


def _begin(
    scheduler: Any, settings: Settings, noise: Tensor, start: Start | None
) -> tuple[Sequence[Tensor], Tensor]:
    """Return the moments to walk through, and the latents at the first of them."""
    moments = scheduler.timesteps
    if start is None or start.place is not None:
        return moments, noise * getattr(scheduler, "init_noise_sigma", 1.0)
    if start.since is not None:
        first = relay.since(scheduler, start.since)
        scheduler.set_begin_index(first)
        return moments[first:], noise
    order = max(1, getattr(scheduler, "order", 1))
    steps = min(settings.steps * start.strength, settings.steps)
    if settings.prediction_type == "flow":  # diffusers' pipelines round in two ways
        first = int(settings.steps - steps) * order
    else:
        first = (settings.steps - int(steps)) * order
    if first >= len(moments):
        raise UsageError(
            f"a strength of {start.strength:g} leaves no step of {settings.steps}. Use "
            f"{1 / settings.steps:.2f} or more, or more steps."
        )
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    moments = moments[first:]
    if start.pure:
        return moments, noise * getattr(scheduler, "init_noise_sigma", 1.0)
    return moments, noised(scheduler, start.latents, noise, moments[:1])


def noised(scheduler: Any, latents: Tensor, noise: Tensor, moment: Tensor) -> Tensor:
    """Return latents with as much noise as the scheduler has at a moment, shape [1]."""
    if hasattr(scheduler, "scale_noise"):
        found: Tensor = scheduler.scale_noise(latents, moment, noise)
    else:
        found = scheduler.add_noise(latents, noise, moment)
    return found


def _kept(
    scheduler: Any,
    start: Start,
    noise: Tensor,
    latents: Tensor,
    moments: Sequence[Tensor],
    done: int,
) -> Tensor:
    """Put the picture back where it stays, with the noise of the next step."""
    mask = start.mask
    assert mask is not None, "the caller has one"  # noqa: S101
    known = start.latents
    if done < len(moments):
        known = noised(scheduler, known, noise, torch.stack([moments[done]]))
    return (1 - mask) * known + mask * latents


def _guess(
    pipeline: Pipeline,
    scheduler: Any,
    latents: Tensor,
    moment: Tensor,
    cond: tuple[Cond, Cond | None],
    settings: Settings,
) -> Tensor:
    """Ask the denoiser once, with the prompt and against the negative one."""
    wanted, unwanted = cond
    at = mixture(scheduler, moment, settings.prediction_type) if unwanted is not None else None
    if at is not None and not guided(settings, at.level):
        unwanted = None  # outside the interval of noise levels one look is enough
    pair = latents if unwanted is None else torch.cat([latents] * 2)
    if hasattr(scheduler, "scale_model_input"):
        pair = scheduler.scale_model_input(pair, moment)
    if unwanted is None:
        return pipeline.engine.predict(pipeline, pair, moment, wanted, settings)
    ask = pipeline.engine.predict
    seen = pair.chunk(2)[0]
    instructs = settings.image_cfg is not None and "beside" in wanted
    conds = instruct.looks(wanted, unwanted) if instructs else (unwanted, wanted)
    if all(cond[key].shape == value.shape for cond in conds for key, value in wanted.items()):
        count = len(conds)
        all_ = {key: torch.cat([cond[key] for cond in conds]) for key in wanted}
        every = pair if count == 2 else torch.cat([seen] * count)
        guesses = ask(pipeline, every, moment, all_, settings).chunk(count)
    else:  # prompts of different length: filling one up would change what it says
        guesses = tuple(ask(pipeline, seen, moment, cond, settings) for cond in conds)
    if instructs:
        return instruct.combine(guesses, settings, seen, at)
    without, with_prompt = guesses
    return combine(without, with_prompt, settings, seen, at)


def decode(
    pipeline: Pipeline, latents: Tensor, settings: Settings, source: Generator | None = None
) -> Tensor:
    """Return pixels in 0..1, float32, on the CPU: [frames, height, width, 3].

    Args:
        pipeline: the models.
        latents: from ``denoise``.
        settings: of the run.
        source: the random numbers that ``denoise`` drew from, for decoders that draw too.
    """
    with torch.inference_mode(), tiles(pipeline, settings):
        return decoded(pipeline, latents, settings, source)


def encode_pixels(
    pipeline: Pipeline, pixels: Tensor, settings: Settings, source: Generator
) -> Tensor:
    """Return the latents of a picture in 0..1, [height, width, 3], as the denoiser has them."""
    with torch.inference_mode(), tiles(pipeline, settings):
        return pipeline.engine.encode_pixels(pipeline, pixels, settings, source)
