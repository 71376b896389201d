"""Make pictures: the checkpoint, its LoRAs and its VAE, one prompt or several, one seed each."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memcard.core.collector import waiting
from memcard.core.extras import require
from memcard.core.progress import Listener, silent
from memcard.errors import UsageError
from memcard.jobs._generate_models import Loaded, Lora, Models, Wanted, named_lora, notice
from memcard.jobs._pictures import Picture, Result, refuse_out, save

__all__ = ["generate", "refuse_out", "run", "save"]

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from memcard.generation.passes import Larger
    from memcard.generation.prompt import Prompt
    from memcard.generation.settings import Settings
    from memcard.jobs._generate_control import Net, Steer
    from memcard.jobs._generate_paint import Painted
    from memcard.jobs._generate_refine import Finisher, Refine
    from memcard.jobs._given_pictures import Sides

_STRENGTH = 0.75  # of a picture to begin from, as the field has it


def generate(
    prompt: str | Sequence[str],
    checkpoint: str | Path = "starter",
    loras: Sequence[tuple[str | Path, float] | Lora] = (),
    **settings: Any,
) -> list[Image]:
    """Return pictures; ``run`` with the same arguments also tells how they were made.

    Each picture says how it was made: ``info["parameters"]`` is A1111's text, ``info["memcard"]`` our JSON,
    and its ``save`` writes both into PNG, JPEG and WebP. Who brings a ``pnginfo`` of his own adds them to it.
    """
    return [p.image for p in run(prompt, checkpoint, loras, **settings).pictures]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, checked as far as no model is needed."""

    wanted: Wanted
    prompts: tuple[tuple[str, Prompt], ...]
    seeds: tuple[int, ...]
    user: Mapping[str, Any]
    image: str | Path | None = None
    mask: str | Path | None = None
    last: str | Path | None = None
    strength: float = _STRENGTH
    larger: Larger | None = None
    steers: tuple[Steer, ...] = ()
    drawing: str | Path | None = None
    edges: bool = False
    outpaint: Sides | None = None
    refine: Refine | None = None
    given: frozenset[str] = frozenset()
    preview: Callable[[Image], None] | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    def groups(self) -> list[tuple[Wanted, list[int]]]:
        """Return the prompts, by their place, that need the same models."""
        found: dict[Wanted, list[int]] = {}
        for i, (_, prompt) in enumerate(self.prompts):
            named = tuple((named_lora(name), s, text) for name, s, text in prompt.loras)
            wanted = replace(
                self.wanted, loras=(*self.wanted.loras, *named), named=len(self.wanted.loras)
            )
            found.setdefault(wanted, []).append(i)
        return list(found.items())


def run(
    prompt: str | Sequence[str],
    checkpoint: str | Path = "starter",
    loras: Sequence[tuple[str | Path, float] | Lora] = (),
    *,
    n: int = 1,
    seed: int | None = None,
    vae: str | Path | None = None,
    text_encoders: Sequence[str | Path] = (),
    t5: bool = True,
    embeddings: Sequence[str | Path] = (),
    motion: str | Path | None = None,
    controls: Sequence[Net] = (),
    control_images: Sequence[str | Path] = (),
    canny: bool = False,
    refiner: str | Path | None = None,
    refiner_at: float | None = None,
    blocks: Sequence[tuple[str, float]] = (),
    image: str | Path | None = None,
    last_image: str | Path | None = None,
    mask: str | Path | None = None,
    outpaint: Sequence[int] | None = None,
    strength: float | None = None,
    hires: float | None = None,
    hires_strength: float = 0.5,
    hires_steps: int | None = None,
    hires_upscaler: Literal["lanczos", "latent"] = "lanczos",
    device: str = "auto",
    dtype: str = "auto",
    low_memory: bool = False,
    models: Models | None = None,
    preview: Callable[[Image], None] | None = None,
    progress: Listener = silent,
    **user: Any,
) -> Result:
    """Make ``n`` pictures of each prompt.

    Args:
        prompt: one or several, in A1111's language: ``(word:1.2)``, ``[from:to:0.5]``, ``<lora:name:0.8>``;
            the models are loaded once for all that name the same LoRAs.
        checkpoint: path or name.
        loras: (path or name, strength) or (path or name, strength, strength in the text encoders); the base
            is not changed.
        n: pictures of each prompt, with the seeds seed, seed + 1, …
        seed: 0..2**32-1; None or -1 draws one. The same seed gives the same picture on one kind of
            device, whatever else is in the run.
        vae: another VAE, or only its decoder.
        text_encoders: files of text encoders that stand in for those of the checkpoint, or that it lacks.
        t5: False: do without a T5 where the family can (Stable Diffusion 3), which saves much memory.
        embeddings: textual inversions; a prompt names one by its file's name.
        motion: a motion module (AnimateDiff) that makes clips of a Stable Diffusion 1 or XL checkpoint.
        controls: ControlNets, each (path or name, strength), or (path or name, strength, start, end) with the
            shares of the steps between which it counts.
        control_images: the pictures they follow, one for each or one for all; of a checkpoint that follows a
            drawing by itself, one without any of ``controls``.
        canny: ``control_images`` are photos: what is followed are their edges.
        refiner: another Stable Diffusion XL that walks the last steps, usually its refiner.
        refiner_at: 0..1, the share of the way where it begins; None: 0.8.
        blocks: (pattern, number), strengths of the LoRAs block by block, as ``lora_bake`` takes them.
        image: a picture to begin from; its size counts unless width and height are said. Models that change
            pictures by words (``edit``) look at it; of a clip it is the first frame.
        last_image: the last frame of a clip that begins with ``image``.
        mask: a picture of the same shape: white where ``image`` may change.
        outpaint: pixels to add to ``image`` left, above, right and below; ``strength`` is then 1 unless said.
        strength: 0..1, how much of ``image`` is painted anew; None: 0.75, or what the model asks for.
        hires: paint again, so many times larger ("hires fix"): over 1, at most 8.
        hires_strength: 0..1, how much of the larger picture is painted anew.
        hires_steps: of the second pass, whatever its strength; None: as many as of the first.
        hires_upscaler: ``lanczos`` on pixels or ``latent``.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        dtype: compute in ``auto``, ``F32``, ``BF16`` or ``F16``.
        low_memory: let go of the text encoders once the prompts are read, and decode in tiles.
        models: keeps what is loaded for the next run; ``device``, ``dtype`` and ``low_memory`` are its own then.
        preview: is shown the picture as far as it is, about once a second.
        progress: hears about loading, each step, and how long it will take.
        user: sampler, schedule, steps, cfg, width, height, negative, clip_skip, guidance, cfg_rescale, …;
            None means: as the checkpoint's card or its family says.

    Raises:
        UnsupportedError: no model family fits the checkpoint.
        MismatchError: parts are missing, or a LoRA, the VAE or an embedding does not fit.
        UsageError: a setting is out of its range, or torch and diffusers are not installed.
        NotFoundError: no such file or sampler.
        CorruptError: ``image`` or ``mask`` is no picture.
    """
    start = time.perf_counter()
    require("generate", what="Making pictures")
    asked = asked_for(
        prompt,
        checkpoint,
        loras,
        n=n,
        seed=seed,
        vae=vae,
        text_encoders=text_encoders,
        t5=t5,
        embeddings=embeddings,
        motion=motion,
        controls=controls,
        control_images=control_images,
        canny=canny,
        refiner=refiner,
        refiner_at=refiner_at,
        blocks=blocks,
        image=image,
        last_image=last_image,
        mask=mask,
        outpaint=outpaint,
        strength=strength,
        hires=hires,
        hires_strength=hires_strength,
        hires_steps=hires_steps,
        hires_upscaler=hires_upscaler,
        preview=preview,
        **user,
    )
    mine = models is None
    keeping = models or Models(device, dtype, low_memory=low_memory)
    keeping.progress = progress
    try:
        return _made(asked, keeping, progress, start)
    finally:
        if mine:
            keeping.close()


def asked_for(
    prompt: str | Sequence[str],
    checkpoint: str | Path = "starter",
    loras: Sequence[tuple[str | Path, float] | Lora] = (),
    *,
    n: int = 1,
    seed: int | None = None,
    vae: str | Path | None = None,
    text_encoders: Sequence[str | Path] = (),
    t5: bool = True,
    embeddings: Sequence[str | Path] = (),
    motion: str | Path | None = None,
    controls: Sequence[Net] = (),
    control_images: Sequence[str | Path] = (),
    canny: bool = False,
    refiner: str | Path | None = None,
    refiner_at: float | None = None,
    blocks: Sequence[tuple[str, float]] = (),
    image: str | Path | None = None,
    last_image: str | Path | None = None,
    mask: str | Path | None = None,
    outpaint: Sequence[int] | None = None,
    strength: float | None = None,
    hires: float | None = None,
    hires_strength: float = 0.5,
    hires_steps: int | None = None,
    hires_upscaler: Literal["lanczos", "latent"] = "lanczos",
    preview: Callable[[Image], None] | None = None,
    **user: Any,
) -> Asked:
    """Return what is asked for, checked as far as no file is needed; arguments and errors as of ``run``."""
    with waiting():  # this imports torch
        from memcard.jobs._generate_control import steers
        from memcard.jobs._generate_given import given
    from memcard.jobs._generate_paint import check
    from memcard.jobs._generate_refine import refine
    from memcard.jobs._given_pictures import check_sides

    larger = _larger(hires, hires_strength, hires_steps, hires_upscaler)
    check(strength, image, mask, larger, last_image)
    sides = check_sides(outpaint, image)
    usual = _STRENGTH if sides is None else 1.0
    steered = steers(controls, control_images, motion)
    drawing = control_images[0] if control_images and not controls else None
    looks = image, drawing, None if hires is None or hires_upscaler == "latent" else hires
    wanted = Wanted(
        checkpoint,
        tuple((x[0], x[1], x[2] if len(x) > 2 else None) for x in loras),
        vae=vae,
        text_encoders=tuple(text_encoders),
        embeddings=tuple(embeddings),
        motion=motion,
        encoder=any(look is not None for look in looks),
        blocks=tuple(blocks),
        controls=tuple(one.ref for one in steered),
        t5=t5,
    )
    where = mask if sides is None else sides
    seen = given(
        image=image, last=last_image, mask=where, strength=strength, hires=hires, control=drawing
    )
    return Asked(
        *(wanted, _prompts(prompt), _seeds(n, seed, user), user, image, mask, last_image),
        strength=usual if strength is None else strength,
        larger=larger,
        steers=steered,
        drawing=drawing,
        edges=_edges(canny, control_images),
        outpaint=sides,
        refine=refine(refiner, refiner_at, hires=hires, mask=mask, outpaint=sides, motion=motion),
        given=seen,
        preview=preview,
    )


def _larger(
    scale: float | None,
    strength: float,
    steps: int | None,
    upscaler: Literal["lanczos", "latent"],
) -> Larger | None:
    """Return the second pass, if there is one."""
    from memcard.generation.passes import Larger

    return None if scale is None else Larger(scale, strength, steps, upscaler)


def _edges(canny: bool, images: Sequence[str | Path]) -> bool:
    if canny and not images:
        raise UsageError(
            "--canny draws the edges of a picture to follow: name it with --control-image."
        )
    return canny


def _prompts(prompt: str | Sequence[str]) -> tuple[tuple[str, Prompt], ...]:
    from memcard.generation.prompt import parse

    texts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    return tuple((text, parse(text)) for text in texts)


def _seeds(n: int, seed: int | None, user: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the seeds of each prompt's pictures; refuse what needs no file to be refused."""
    from memcard.generation.latents import SEEDS, seeds
    from memcard.generation.settings import NAMES, check_seed

    if unknown := sorted(set(user) - set(NAMES)):
        raise UsageError(f"no setting {', '.join(unknown)}. There are: {', '.join(NAMES)}.")
    if n < 1:
        raise UsageError(f"n is {n}; at least 1 picture.")
    return seeds(secrets.randbelow(SEEDS) if seed is None or seed == -1 else check_seed(seed), n)


def _made(asked: Asked, models: Models, progress: Listener, start: float) -> Result:
    """Load, paint and describe, one group of prompts after another."""
    from memcard.jobs._generate_given import fitting, strength_of
    from memcard.jobs._generate_refine import finisher

    notice(progress, [note for _, prompt in asked.prompts for note in prompt.notes])
    pictures: dict[tuple[int, int], Picture] = {}
    loading = 0.0
    last: tuple[Loaded, Settings] | None = None
    for wanted, places in asked.groups():
        before = time.perf_counter()
        loaded = models.get(wanted)
        settings, multiple = settings_in(asked, loaded)
        settings = fitting(loaded.pipeline, settings, progress)
        strength = strength_of(loaded.pipeline, settings, asked.given, asked.strength)
        asked = replace(asked, strength=strength)
        loading += time.perf_counter() - before
        second = finisher(asked.refine, models, loaded, wanted, settings, progress)
        painted = _paint(asked, loaded, settings, multiple, places, progress, second)
        described = _described(asked, loaded, settings)
        keys = [(place, seed) for place in places for seed in asked.seeds]
        for (place, seed), one in zip(keys, painted, strict=True):
            text = asked.prompts[place][0]
            pictures[place, seed] = Picture(
                *(one.image, text, seed, described(text, seed), one.frames), loras=_own(loaded)
            )
        last = loaded, settings
    assert last is not None, "there is at least one prompt"  # noqa: S101
    order = sorted(pictures, key=lambda k: (k[0], asked.seeds.index(k[1])))
    result = _result(asked, *last, tuple(pictures[key] for key in order))
    result = replace(result, load_seconds=loading, seconds=time.perf_counter() - start)
    result.label()
    return result


def _result(
    asked: Asked, loaded: Loaded, settings: Settings, pictures: tuple[Picture, ...]
) -> Result:
    """Return pictures with what they say of themselves; the times are still missing."""
    return Result(
        pictures,
        *(loaded.name, loaded.sha256, loaded.pipeline.architecture),
        loras=_own(loaded),
        vae=loaded.vae,
        settings=settings,
        load_seconds=0.0,
        seconds=0.0,
        recipe=loaded.metadata.get("memcard.recipe_id"),
        embeddings=loaded.embeddings,
        more={**_more(asked), **loaded.parts()},
    )


def _own(loaded: Loaded) -> tuple[Mapping[str, Any], ...]:
    """Return what our JSON says of the LoRAs."""
    return tuple({k: v for k, v in facts.items() if k != "autov3"} for facts in loaded.loras)


def settings_in(asked: Asked, loaded: Loaded) -> tuple[Settings, int]:
    """Return the settings of the run, and what sides are multiples of."""
    from memcard.architectures import ARCHITECTURES
    from memcard.jobs._generate_given import looked_at
    from memcard.jobs._generate_settings import settings_of
    from memcard.jobs._given_pictures import shaped, sized

    settings = settings_of(loaded.pipeline, loaded.metadata, asked.user)
    multiple = ARCHITECTURES[loaded.pipeline.architecture].defaults.multiple
    looked = looked_at(loaded.pipeline, settings, asked.image)
    if asked.image is None:
        followed = asked.steers[0].image if asked.steers else asked.drawing
        return shaped(settings, followed, multiple), multiple
    return sized(settings, asked.image, multiple, looked, asked.outpaint), multiple


def _paint(
    asked: Asked,
    loaded: Loaded,
    settings: Settings,
    multiple: int,
    places: Sequence[int],
    progress: Listener,
    finisher: Finisher | None = None,
) -> list[Painted]:
    from memcard.jobs._generate_clock import Clock, shorter
    from memcard.jobs._generate_given import looked_at
    from memcard.jobs._generate_paint import Beside, paint
    from memcard.jobs._given_pictures import fitted, read_picture

    pipeline = loaded.pipeline
    picture = None
    if asked.image is not None:
        looked = looked_at(pipeline, settings, asked.image)
        given = asked.image, settings, asked.strength, asked.mask, looked, asked.outpaint
        picture = read_picture(*given)
    if picture is not None and asked.last is not None:
        last = fitted(asked.last, (settings.width, settings.height), "RGB")
        picture = replace(picture, last=last)
    clock = Clock(
        *(len(places) * len(asked.seeds), progress, _previewer(asked, loaded)),
        where="CPU" if pipeline.device.type == "cpu" else "machine",
        advice=shorter(settings, multiple),
    )
    if asked.larger is not None:
        clock.extra = (asked.larger.steps or settings.steps) / settings.steps
        clock.heavier = asked.larger.scale**2
    with pipeline.running():
        return paint(
            *(pipeline, settings),
            [(asked.prompts[place][1], seed) for place in places for seed in asked.seeds],
            *(clock, progress),
            Beside(
                *(picture, asked.steers, asked.drawing, asked.larger, multiple, finisher),
                edges=asked.edges,
            ),
        )


def _previewer(asked: Asked, loaded: Loaded) -> Callable[[Tensor], None] | None:
    if asked.preview is None:
        return None
    from memcard.generation.preview import preview

    show = asked.preview
    return lambda latents: show(preview(loaded.pipeline, latents))


def _more(asked: Asked) -> dict[str, Any]:
    """Return what else a picture says about itself."""
    found: dict[str, Any] = {}
    if asked.image is not None:
        found["denoise"] = asked.strength
        found["inpaint"] = asked.mask is not None
    if asked.last is not None:
        found["last_image"] = True
    if asked.steers:
        found["controls"] = [one.facts() for one in asked.steers]
    if asked.drawing is not None:
        found["drawing"] = Path(str(asked.drawing)).name
    if asked.edges:
        found["canny"] = True
    if asked.refine is not None:
        found["refiner"] = asked.refine.facts()
    if asked.outpaint is not None:
        found["outpaint"] = list(asked.outpaint)
    if (larger := asked.larger) is not None:
        found["second_pass"] = {
            "scale": larger.scale,
            "strength": larger.strength,
            "steps": larger.steps,
            "upscaler": larger.upscaler,
        }
    return found


def _described(asked: Asked, loaded: Loaded, settings: Settings) -> Callable[[str, int], str]:
    """Return what makes the A1111 text of a picture from its prompt and seed."""
    from memcard.jobs._picture_text import Described, SecondPass

    larger = asked.larger
    denoise = asked.strength if asked.image is not None else None
    second = None
    if larger is not None:
        denoise = larger.strength
        second = SecondPass(larger.scale, larger.steps or settings.steps, larger.upscaler.title())
    return Described(
        *(settings, loaded.name, loaded.sha256, loaded.pipeline.architecture),
        loras=loaded.loras,
        vae=loaded.vae,
        embeddings=loaded.embeddings,
        recipe=loaded.metadata.get("memcard.recipe_id"),
        denoise=denoise,
        second=second,
    ).text
