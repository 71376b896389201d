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
from memcard.jobs._pictures import Picture, Result, save
from memcard.jobs.lora import open_with_loras
from memcard.jobs.resolve import digest, label, locate, resolve

__all__ = ["generate", "run", "save"]

if TYPE_CHECKING:
    from PIL.Image import Image

    from memcard.generation.pipeline import Pipeline
    from memcard.generation.settings import Settings

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
    from memcard.generation.latents import seeds
    from memcard.generation.pipeline import build, family_of
    from memcard.generation.settings import NAMES, check_seed
    from memcard.generation.settings import resolve as choose

    if unknown := sorted(set(user) - set(NAMES)):
        raise UsageError(f"no setting {', '.join(unknown)}. There are: {', '.join(NAMES)}.")
    if n < 1:
        raise UsageError(f"n is {n}; at least 1 picture.")
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    first = check_seed(secrets.randbelow(2**32) if seed in (None, -1) else int(seed or 0))
    model = open_with_loras(checkpoint, loras)
    other = None if vae is None else resolve(vae)
    try:
        name = _shown(checkpoint)
        settings = choose(family_of(model, name)[1], model.metadata, user)
        pipeline = build(
            *(model,), label=name, vae=other, vae_label=str(vae), device=device, dtype=dtype, progress=progress
        )  # fmt: skip
        loaded = time.perf_counter() - start
        wanted = [(text, s) for text in prompts for s in seeds(first, n)]
        with pipeline.running():
            images = _paint(pipeline, settings, wanted, progress)
    finally:
        _close(model, other)
    return _result(
        images, wanted, settings, pipeline.architecture,
        *(checkpoint, loras, vae), loaded, time.perf_counter() - start,
    )  # fmt: skip


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
        if len(marks) == 3 or (len(marks) == every and every < 3):  # the first warms up
            left = (marks[-1] - marks[-2]) * (every - len(marks)) if len(marks) > 1 else 0
            if left > _LONG:
                progress(Notice(f"This will take about {_duration(left)} on this machine."))

    return step_done


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _result(
    images: Sequence[Image],
    wanted: Sequence[tuple[str, int]],
    settings: Settings,
    architecture: str,
    checkpoint: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    vae: str | Path | None,
    loaded: float,
    seconds: float,
) -> Result:
    sums = [(_shown(ref), strength, _digests(ref)) for ref, strength in loras]
    sha256 = digest(locate(checkpoint))
    vae_facts = None if vae is None else {"name": _shown(vae), "sha256": digest(locate(vae))}
    common = {
        "Steps": str(settings.steps),
        **_sampler(settings),
        "CFG scale": f"{settings.cfg:g}",
    }
    after = {
        "Size": f"{settings.width}x{settings.height}",
        "Model hash": sha256[:10],
        "Model": Path(_shown(checkpoint)).stem,
        **({"VAE hash": vae_facts["sha256"][:10], "VAE": vae_facts["name"]} if vae_facts else {}),
        **(
            {"Lora hashes": hashes([(Path(n).stem, d["autov3"]) for n, _, d in sums])}
            if sums
            else {}
        ),
        "Version": f"memcard {__version__}",
    }
    pictures = []
    for image, (prompt, seed) in zip(images, wanted, strict=True):
        text = write(Infotext(prompt, settings.negative, {**common, "Seed": str(seed), **after}))
        image.info["parameters"] = text
        pictures.append(Picture(image, prompt, seed, text))
    return Result(
        *(tuple(pictures), _shown(checkpoint), sha256, architecture),
        loras=tuple({"name": n, "strength": s, "sha256": d["sha256"]} for n, s, d in sums),
        vae=vae_facts,
        settings=settings,
        load_seconds=loaded,
        seconds=seconds,
    )


def _sampler(settings: Settings) -> dict[str, str]:
    from memcard.generation.sampler import SCHEDULES
    from memcard.generation.samplers import SAMPLERS

    return {
        "Sampler": SAMPLERS[settings.sampler].a1111,
        "Schedule type": SCHEDULES[settings.schedule][1],
    }


def _digests(ref: str | Path) -> Mapping[str, str]:
    path = locate(ref)
    checkpoint = open_file(path)
    found = digests_file(path, data_offset=getattr(checkpoint, "data_offset", None))
    checkpoint.close()
    return {"autov3": found["sha256"][:12], **found}  # no header to leave out: of the whole file


def _shown(ref: str | Path) -> str:
    return label(str(locate(ref)))


def _close(*checkpoints: Checkpoint | None) -> None:
    for checkpoint in checkpoints:
        if checkpoint is not None:
            checkpoint.close()
