"""The model as its own judge: how well it predicts the noise in a picture, given a prompt.

A diffusion model that is told what a picture shows takes noise away from it with less error than one
that is told something else, so the errors say for which prompt the picture is most likely.

Sources: Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier", arXiv:2303.16203
(one noise for all prompts); Clark and Jaini 2023, "Text-to-image diffusion models are zero-shot
classifiers", arXiv:2303.15233.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from memcard.errors import UsageError
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.guidance import guess_of, mixture
from memcard.generation.latents import generator
from memcard.generation.sampler import EDM
from memcard.generation.scorer import Bench, Shot
from memcard.generation.settings import Settings
from memcard.generation.words import plain

# Shares of the way from picture to noise at which it is asked. Both ends tell prompts apart badly: almost
# no noise needs no prompt, almost only noise shows no picture (arXiv:2303.16203, figure 3).
LOOKS: Final = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
_BATCH_SMALL, _BATCH_LARGE = 16, 1
_LEVELS: Final = (
    0.03,
    14.6,
)  # noise levels of Stable Diffusion, where a model has no last one of its own
_LAST: Final = "last errors"
_NOISE: Final = 20_230_316  # seed of the noise; the same for every picture and prompt


def log_errors(shot: Shot, bench: Bench) -> tuple[Tensor, Tensor]:
    """Return how large the errors are, as natural logarithms: [looks] for the prompt, [looks, rivals].

    Rivals that are the prompt itself are left out.

    Raises:
        UsageError: there is no model on the bench, or no rival.
    """
    pipeline, settings = judge(bench)
    rivals = tuple(dict.fromkeys(text for text in bench.rivals if text != shot.prompt))
    if not rivals:
        raise UsageError(
            f"{shot.prompt!r} has no other prompt to be told from; give a second one, or ''."
        )
    last, *known = bench.kept.get(_LAST, (None,))
    if last is shot:  # several scorers in turn ask about one picture
        return known[0], known[1]
    conds = [_told(bench, pipeline, settings, text) for text in (shot.prompt, *rivals)]
    with torch.inference_mode(), pipeline.running():
        found = torch.stack([_look(pipeline, settings, shot, conds, at) for at in LOOKS])
    found = found.double().clamp(min=1e-12).log()
    bench.kept[_LAST] = shot, found[:, 0], found[:, 1:]
    return found[:, 0], found[:, 1:]


def judge(bench: Bench) -> tuple[Pipeline, Settings]:
    """Return the model that judges and how it is asked.

    Raises:
        UsageError: there is none.
    """
    if bench.pipeline is None or bench.settings is None:
        raise UsageError("no model on the bench; a self-likelihood needs the one that painted.")
    return bench.pipeline, bench.settings


def _told(bench: Bench, pipeline: Pipeline, settings: Settings, text: str) -> Cond:
    """Encode a prompt once."""
    key = ("prompt", text)
    if key not in bench.kept:
        with torch.inference_mode():
            bench.kept[key] = pipeline.engine.encode(pipeline, plain(text), settings)
    found: Cond = bench.kept[key]
    return found


def _look(
    pipeline: Pipeline, settings: Settings, shot: Shot, conds: Sequence[Cond], at: float
) -> Tensor:
    """Return the mean squared error of the guess under each prompt, at one level of noise."""
    clean = shot.latents.to(pipeline.device, pipeline.dtype)
    noise = pipeline.engine.noise(pipeline, settings, generator(_NOISE + round(at * 100)))
    noise = noise.to(clean)
    noisy, target, moment = _noised(pipeline, settings, clean, noise, at)
    errors: list[Tensor] = []
    size = _BATCH_SMALL if pipeline.small else _BATCH_LARGE
    for group in _groups(conds, size):
        told = {key: torch.cat([cond[key] for cond in group]) for key in group[0]}
        batch = noisy.expand(len(group), *noisy.shape[1:])
        guess = pipeline.engine.predict(pipeline, batch, moment, told, settings)
        errors.append((guess.float() - target.float()).square().flatten(1).mean(dim=1))
    return torch.cat(errors).cpu()


def _groups(conds: Sequence[Cond], size: int) -> list[list[Cond]]:
    """Return neighbours of equal shapes together, at most ``size``; long prompts go on their own."""
    groups: list[list[Cond]] = []
    for cond in conds:
        last = groups[-1] if groups else []
        if last and len(last) < size and _shapes(last[0]) == _shapes(cond):
            last.append(cond)
        else:
            groups.append([cond])
    return groups


def _shapes(cond: Mapping[str, Tensor]) -> dict[str, Any]:
    return {key: value.shape for key, value in cond.items()}


def _noised(
    pipeline: Pipeline, settings: Settings, clean: Tensor, noise: Tensor, at: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the noisy latents, what the denoiser should say of them, and the moment."""
    if settings.prediction_type == "flow":
        last = int(pipeline.configs["scheduler"].get("num_train_timesteps", 1000))
        moment = torch.tensor(at * last, device=clean.device, dtype=torch.float32)
        return (1 - at) * clean + at * noise, noise - clean, moment
    if settings.prediction_type in EDM:
        return _noised_edm(pipeline, settings, clean, noise, at)
    scheduler = pipeline.engine.scheduler(
        pipeline, replace(settings, sampler="ddim", schedule="normal", steps=10)
    )
    step = round(at * (len(scheduler.alphas_cumprod) - 1))
    kept = scheduler.alphas_cumprod[step].to(clean)
    signal, rest = kept.sqrt(), (1 - kept).sqrt()
    noisy = signal * clean + rest * noise
    is_v = settings.prediction_type == "v_prediction"
    target = signal * noise - rest * clean if is_v else noise
    return noisy, target, torch.tensor(step, device=clean.device)


def _noised_edm(
    pipeline: Pipeline, settings: Settings, clean: Tensor, noise: Tensor, at: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_noised``, at a share of the levels of Stable Diffusion: beyond them nothing is told apart."""
    chosen = replace(settings, sampler="euler", schedule="karras", steps=2)
    scheduler = pipeline.engine.scheduler(pipeline, chosen)
    level = math.exp(math.log(_LEVELS[0]) + at * (math.log(_LEVELS[1]) - math.log(_LEVELS[0])))
    moment = torch.tensor(math.log(level) / 4, device=clean.device)
    mixed = mixture(scheduler, moment, settings.prediction_type)
    noisy = mixed.signal * clean + mixed.noise * noise
    return noisy, guess_of(clean, noisy, mixed, settings.prediction_type), moment
