"""Make pictures: the checkpoint, its LoRAs and its VAE, one prompt or several, one seed each."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memcard.core.extras import require
from memcard.core.progress import Listener, silent
from memcard.errors import UsageError
from memcard.jobs._generate_models import Loaded, Lora, Models, Wanted, named_lora, notice
from memcard.jobs._pictures import Picture, Result, save

__all__ = ["generate", "run", "save"]

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from memcard.generation.passes import Larger
    from memcard.generation.prompt import Prompt
    from memcard.generation.settings import Settings
    from memcard.jobs._generate_paint import Painted

_STRENGTH = 0.75  # of a picture to begin from, as the field has it


def generate(
    prompt: str | Sequence[str],
    checkpoint: str | Path = "starter",
    loras: Sequence[tuple[str | Path, float] | Lora] = (),
    **settings: Any,
) -> list[Image]:
    """Return pictures; ``run`` with the same arguments also tells how they were made.

    Each picture's ``info["parameters"]`` holds its A1111 text, and saving it as PNG keeps it.
    """
    return [p.image for p in run(prompt, checkpoint, loras, **settings).pictures]


@dataclass(frozen=True, slots=True)
class _Run:
    """What was asked for, checked as far as no model is needed."""

    wanted: Wanted
    prompts: tuple[tuple[str, Prompt], ...]
    seeds: tuple[int, ...]
    user: Mapping[str, Any]
    image: str | Path | None = None
    mask: str | Path | None = None
    strength: float = _STRENGTH
    larger: Larger | None = None
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
    embeddings: Sequence[str | Path] = (),
    motion: str | Path | None = None,
    blocks: Sequence[tuple[str, float]] = (),
    image: str | Path | None = None,
    mask: str | Path | None = None,
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
        embeddings: textual inversions; a prompt names one by its file's name.
        motion: a motion module (AnimateDiff) that makes clips of a Stable Diffusion 1 checkpoint.
        blocks: (pattern, number), strengths of the LoRAs block by block, as ``lora_bake`` takes them.
        image: a picture to begin from; its size counts unless width and height are said.
        mask: a picture of the same shape: white where ``image`` may change.
        strength: 0..1, how much of ``image`` is painted anew; None: 0.75.
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
    from memcard.generation.passes import Larger
    from memcard.jobs._generate_paint import check

    larger = None
    if hires is not None:
        larger = Larger(hires, hires_strength, hires_steps, hires_upscaler)
    check(strength, image, mask, larger)
    encoder = image is not None or (larger is not None and larger.upscaler == "lanczos")
    wanted = Wanted(
        checkpoint,
        tuple((x[0], x[1], x[2] if len(x) > 2 else None) for x in loras),
        vae=vae,
        text_encoders=tuple(text_encoders),
        embeddings=tuple(embeddings),
        motion=motion,
        encoder=encoder,
        blocks=tuple(blocks),
    )
    asked = _Run(
        *(wanted, _prompts(prompt), _seeds(n, seed, user), user, image, mask),
        strength=_STRENGTH if strength is None else strength,
        larger=larger,
        preview=preview,
    )
    mine = models is None
    keeping = models or Models(device, dtype, low_memory=low_memory)
    keeping.progress = progress
    try:
        return _made(asked, keeping, progress, start)
    finally:
        if mine:
            keeping.close()


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


def _made(asked: _Run, models: Models, progress: Listener, start: float) -> Result:
    """Load, paint and describe, one group of prompts after another."""
    notice(progress, [note for _, prompt in asked.prompts for note in prompt.notes])
    pictures: dict[tuple[int, int], Picture] = {}
    loading = 0.0
    last: tuple[Loaded, Settings] | None = None
    for wanted, places in asked.groups():
        before = time.perf_counter()
        loaded = models.get(wanted)
        settings, multiple = _settings(asked, loaded)
        loading += time.perf_counter() - before
        painted = _paint(asked, loaded, settings, multiple, places, progress)
        described = _described(asked, loaded, settings)
        keys = [(place, seed) for place in places for seed in asked.seeds]
        for (place, seed), one in zip(keys, painted, strict=True):
            text = asked.prompts[place][0]
            infotext = described(text, seed)
            one.image.info["parameters"] = infotext
            pictures[place, seed] = Picture(one.image, text, seed, infotext, one.frames)
        last = loaded, settings
    assert last is not None, "there is at least one prompt"  # noqa: S101
    loaded, settings = last
    return Result(
        tuple(
            pictures[key] for key in sorted(pictures, key=lambda k: (k[0], asked.seeds.index(k[1])))
        ),
        *(loaded.name, loaded.sha256, loaded.pipeline.architecture),
        loras=tuple({k: v for k, v in facts.items() if k != "autov3"} for facts in loaded.loras),
        vae=loaded.vae,
        settings=settings,
        load_seconds=loading,
        seconds=time.perf_counter() - start,
        recipe=loaded.metadata.get("memcard.recipe_id"),
        embeddings=loaded.embeddings,
        more=_more(asked),
    )


def _settings(asked: _Run, loaded: Loaded) -> tuple[Settings, int]:
    """Return the settings of the run, and what sides are multiples of."""
    from memcard.architectures import ARCHITECTURES
    from memcard.generation.image_info import own_clip_skip
    from memcard.generation.settings import resolve as choose
    from memcard.jobs._generate_paint import sized

    name = loaded.pipeline.architecture
    family = ARCHITECTURES[name]
    usual = {"prediction_type": loaded.pipeline.prediction}
    of_model = getattr(
        loaded.pipeline.engine, "usual", None
    )  # where a model differs from its family
    if of_model is not None:
        usual |= of_model(loaded.pipeline)
    settings = choose(
        family, loaded.metadata, asked.user, usual, clip_skip=lambda n: own_clip_skip(n, name)
    )
    multiple = family.defaults.multiple
    return sized(settings, asked.image, multiple), multiple


def _paint(
    asked: _Run,
    loaded: Loaded,
    settings: Settings,
    multiple: int,
    places: Sequence[int],
    progress: Listener,
) -> list[Painted]:
    from memcard.jobs._generate_paint import Clock, paint, read_picture

    pipeline = loaded.pipeline
    picture = None
    if asked.image is not None:
        picture = read_picture(asked.image, settings, asked.strength, asked.mask)
    clock = Clock(len(places) * len(asked.seeds), progress, _previewer(asked, loaded))
    if asked.larger is not None:
        clock.extra = (asked.larger.steps or settings.steps) / settings.steps
    with pipeline.running():
        return paint(
            *(pipeline, settings),
            [(asked.prompts[place][1], seed) for place in places for seed in asked.seeds],
            *(clock, progress),
            picture=picture,
            larger=asked.larger,
            multiple=multiple,
        )


def _previewer(asked: _Run, loaded: Loaded) -> Callable[[Tensor], None] | None:
    if asked.preview is None:
        return None
    from memcard.generation.preview import preview

    show = asked.preview
    return lambda latents: show(preview(loaded.pipeline, latents))


def _more(asked: _Run) -> dict[str, Any]:
    """Return what else a picture says about itself."""
    found: dict[str, Any] = {}
    if asked.image is not None:
        found["denoise"] = asked.strength
        found["inpaint"] = asked.mask is not None
    if (larger := asked.larger) is not None:
        found["second_pass"] = {
            "scale": larger.scale,
            "strength": larger.strength,
            "steps": larger.steps,
            "upscaler": larger.upscaler,
        }
    return found


def _described(asked: _Run, loaded: Loaded, settings: Settings) -> Callable[[str, int], str]:
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
