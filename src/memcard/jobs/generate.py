"""Make pictures: the checkpoint, its LoRAs and its VAE, one prompt or several, one seed each."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard._version import __version__
from memcard.core.checkpoint import Checkpoint
from memcard.core.digest import digests_file
from memcard.core.extras import require
from memcard.core.progress import Listener, Notice, Progress, silent
from memcard.errors import UsageError
from memcard.formats import open_file
from memcard.generation.infotext import Infotext, hashes, write
from memcard.jobs._library_cards import with_card
from memcard.jobs._pictures import Picture, Result, save
from memcard.jobs.lora import open_with_loras
from memcard.jobs.resolve import digest, label, locate, resolve

__all__ = ["generate", "run", "save"]

if TYPE_CHECKING:
    from PIL.Image import Image

    from memcard.generation.pipeline import Pipeline
    from memcard.generation.settings import Settings

_MEASURED = 2  # the step an estimate stands on; the first one warms up
_LONG = 20.0  # seconds; below this nobody wants to be told how long it takes


def generate(
    prompt: str | Sequence[str],
    checkpoint: str | Path = "starter",
    loras: Sequence[tuple[str | Path, float]] = (),
    **settings: Any,
) -> list[Image]:
    """Return pictures; ``run`` with the same arguments also tells how they were made.

    Each picture's ``info["parameters"]`` holds its A1111 text, and saving it as PNG keeps it.
    """
    return [p.image for p in run(prompt, checkpoint, loras, **settings).pictures]


def run(
    prompt: str | Sequence[str],
    checkpoint: str | Path = "starter",
    loras: Sequence[tuple[str | Path, float]] = (),
    *,
    n: int = 1,
    seed: int | None = None,
    vae: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Listener = silent,
    **user: Any,
) -> Result:
    """Make ``n`` pictures of each prompt.

    Args:
        prompt: one or several; the models are loaded once.
        checkpoint: path or name.
        loras: (path or name, strength); the base is not changed.
        n: pictures of each prompt, with the seeds seed, seed + 1, …
        seed: 0..2**32-1; None or -1 draws one. The same seed gives the same picture on one kind of
            device, whatever else is in the run.
        vae: another VAE, or only its decoder.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        dtype: compute in ``auto``, ``F32``, ``BF16`` or ``F16``.
        progress: hears about loading, each step, and how long it will take.
        user: sampler, schedule, steps, cfg, width, height, negative; None means: as the
            checkpoint's card or its family says.

    Raises:
        UnsupportedError: no model family fits the checkpoint.
        MismatchError: parts are missing, or a LoRA or the VAE does not fit.
        UsageError: a setting is out of its range, or torch and diffusers are not installed.
        NotFoundError: no such file or sampler.
    """
    start = time.perf_counter()
    require("generate", what="Making pictures")
    from memcard.generation.pipeline import build, family_of
    from memcard.generation.settings import resolve as choose

    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    wanted = _wanted(prompts, n, seed, user)
    model = open_with_loras(checkpoint, loras)
    other = None if vae is None else resolve(vae)
    try:
        name = _shown(checkpoint)
        settings = choose(family_of(model, name)[1], with_card(checkpoint, model.metadata), user)
        pipeline = build(
            *(model,), label=name, vae=other, vae_label=str(vae), device=device, dtype=dtype, progress=progress
        )  # fmt: skip
        loaded = time.perf_counter() - start
        with pipeline.running():
            images = _paint(pipeline, settings, wanted, progress)
    finally:
        _close(model, other)
    lora_facts = [_lora_facts(ref, strength) for ref, strength in loras]
    vae_facts = None if vae is None else {"name": _shown(vae), "sha256": digest(locate(vae))}
    sha256 = digest(locate(checkpoint))
    return Result(
        _described(images, wanted, _texts(settings, name, sha256, lora_facts, vae_facts)),
        *(name, sha256, pipeline.architecture),
        loras=tuple({k: v for k, v in facts.items() if k != "autov3"} for facts in lora_facts),
        vae=vae_facts,
        settings=settings,
        load_seconds=loaded,
        seconds=time.perf_counter() - start,
    )


def _wanted(
    prompts: Sequence[str], n: int, seed: int | None, user: Mapping[str, Any]
) -> list[tuple[str, int]]:
    """Return prompt and seed of every picture; refuse what needs no file to be refused."""
    from memcard.generation.latents import SEEDS, seeds
    from memcard.generation.settings import NAMES, check_seed

    if unknown := sorted(set(user) - set(NAMES)):
        raise UsageError(f"no setting {', '.join(unknown)}. There are: {', '.join(NAMES)}.")
    if n < 1:
        raise UsageError(f"n is {n}; at least 1 picture.")
    first = secrets.randbelow(SEEDS) if seed is None or seed == -1 else check_seed(seed)
    return [(text, number) for text in prompts for number in seeds(first, n)]


def _paint(
    pipeline: Pipeline, settings: Settings, wanted: Sequence[tuple[str, int]], progress: Listener
) -> list[Image]:
    from memcard.generation.denoise import decode, denoise, encode
    from memcard.generation.picture import picture

    clock = _clock(len(wanted), progress)
    images: list[Image] = []
    states, last = None, None
    for text, seed in wanted:
        if states is None or text != last:
            states, last = encode(pipeline, text, settings.negative, progress), text
        pixels = decode(pipeline, denoise(pipeline, states, settings, seed, clock))
        images.append(picture(pixels))
    return images


def _clock(pictures: int, progress: Listener) -> Callable[[int, int], None]:
    """Return what counts steps over all pictures and, if it will be long, says how long."""
    marks: list[float] = []

    def step_done(done: int, total: int) -> None:
        marks.append(time.perf_counter())
        every = pictures * total
        progress(Progress("pictures", len(marks), every, "steps"))
        if len(marks) == _MEASURED:
            left = (marks[-1] - marks[-2]) * (every - len(marks))
            if left > _LONG:
                progress(Notice(f"This will take about {_duration(left)} on this machine."))

    return step_done


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _texts(
    settings: Settings,
    name: str,
    sha256: str,
    loras: Sequence[Mapping[str, Any]],
    vae: Mapping[str, str] | None,
) -> Callable[[str, int], str]:
    """Return what makes the A1111 text of a picture from its prompt and seed."""
    before = {
        "Steps": str(settings.steps),
        **_sampler(settings),
        "CFG scale": f"{settings.cfg:g}",
    }
    after = {
        "Size": f"{settings.width}x{settings.height}",
        "Model hash": sha256[:10],
        "Model": Path(name).stem,
    }
    if vae:
        after |= {"VAE hash": vae["sha256"][:10], "VAE": vae["name"]}
    if loras:
        after["Lora hashes"] = hashes([(Path(x["name"]).stem, x["autov3"]) for x in loras])
    after["Version"] = f"memcard {__version__}"

    def text(prompt: str, seed: int) -> str:
        return write(Infotext(prompt, settings.negative, {**before, "Seed": str(seed), **after}))

    return text


def _described(
    images: Sequence[Image], wanted: Sequence[tuple[str, int]], text: Callable[[str, int], str]
) -> tuple[Picture, ...]:
    pictures = []
    for image, (prompt, seed) in zip(images, wanted, strict=True):
        image.info["parameters"] = text(prompt, seed)
        pictures.append(Picture(image, prompt, seed, image.info["parameters"]))
    return tuple(pictures)


def _sampler(settings: Settings) -> dict[str, str]:
    from memcard.generation.sampler import SCHEDULES
    from memcard.generation.samplers import SAMPLERS

    return {
        "Sampler": SAMPLERS[settings.sampler].a1111,
        "Schedule type": SCHEDULES[settings.schedule][1],
    }


def _lora_facts(ref: str | Path, strength: float) -> dict[str, Any]:
    path = locate(ref)
    checkpoint = open_file(path)
    found = digests_file(path, data_offset=getattr(checkpoint, "data_offset", None))
    checkpoint.close()
    return {
        "name": _shown(ref),
        "strength": strength,
        "sha256": found["sha256"],
        # A1111 names a LoRA by what follows its header; a .ckpt has none, so the whole file counts.
        "autov3": found.get("autov3", found["sha256"][:12]),
    }


def _shown(ref: str | Path) -> str:
    return label(str(locate(ref)))


def _close(*checkpoints: Checkpoint | None) -> None:
    for checkpoint in checkpoints:
        if checkpoint is not None:
            checkpoint.close()
