"""What a run will do: settings by family where the user says nothing, sizes, and what it takes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from memcard.architectures import ARCHITECTURES
from memcard.errors import UsageError
from memcard.jobs._finetune_models import FLOWS, Base
from memcard.training.finetune.adapters import Adapter, fits
from memcard.training.finetune.captions import Captions
from memcard.training.finetune.folder import Folder
from memcard.training.finetune.settings import Settings

NAMES: Final = tuple(f.name for f in fields(Settings))
# What suits a family: (LoRA, whole networks). Found on the starter by docs/finetune.md's own runs; of the
# others what their published trainers use (diffusers' examples, kohya's documentation).
_STARTER: Final = {"batch": 16, "warmup": 10, "targets": "all", "accumulate": 1}
_DEFAULTS: Final[Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]] = {
    "starter": ({**_STARTER, "lr": 4e-3, "steps": 400}, {**_STARTER, "lr": 5e-4, "steps": 400}),
    "sd1": ({"lr": 1e-4}, {"lr": 1e-5}),
    "sd2": ({"lr": 1e-4}, {"lr": 1e-5}),
    "sdxl": ({"lr": 1e-4}, {"lr": 1e-6}),
    "flux": ({"lr": 1e-4}, {"lr": 1e-4}),
    "sd3": ({"lr": 1e-4}, {"lr": 1e-4}),
}
_LARGE: Final = {"batch": 1, "warmup": 50, "targets": "attention"}
_VISITS: Final = 100  # of each picture, for a LoRA of a large family
_FEWEST, _MOST = 500, 3000  # steps, unless the user says so
_SHEETS: Final = 5
_PROMPTS: Final = 4
_ADAM: Final = 4 + 4 + 8  # bytes of weight, gradient and memory of each value that learns


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``finetune`` is about to do.

    Attributes:
        base: its name.
        family: of the base.
        prediction: what its UNet says.
        kind: lora or finetune.
        data: the folder.
        fingerprint: of the data.
        pictures: number of examples.
        captions: where they stand: number of each.
        buckets: ``WxH`` to number of pictures.
        settings: all of them.
        batches: in an epoch.
        epochs: of the run, as a fraction.
        learning: number of values that learn.
        memory: bytes of weights, gradients and optimizer; activations come on top.
        disk: bytes of a save, of the result and of the cache.
        run: folder of the run.
        out: file of the result.
        start: steps done by earlier calls.
        device: where it computes.
        notes: what a careful user should know.
    """

    base: str
    family: str
    prediction: str
    kind: str
    data: str
    fingerprint: str
    pictures: int
    captions: Mapping[str, int]
    buckets: Mapping[str, int]
    settings: Settings
    batches: int
    epochs: float
    learning: int
    memory: int
    disk: Mapping[str, int]
    run: Path
    out: Path
    start: int
    device: str
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            **asdict(self),
            "settings": self.settings.to_dict(),
            "run": str(self.run),
            "out": str(self.out),
            "notes": list(self.notes),
        }


def settings_for(
    base: Base, folder: Folder, user: Mapping[str, Any], *, epochs: float | None, device: str
) -> Settings:
    """Return all settings: what the user says, else what suits the family.

    Args:
        base: tells family and size.
        folder: tells captions, for prompts.
        user: by the names of ``Settings``; None means not said.
        epochs: in place of ``steps``; needs the number of batches, which ``with_epochs`` puts in later.
        device: type of the device.

    Raises:
        UsageError: a value is out of its range, or unknown.
    """
    said = {name: value for name, value in user.items() if value is not None}
    if unknown := sorted(set(said) - set(NAMES)):
        raise UsageError(f"no setting {', '.join(unknown)}. There are: {', '.join(NAMES)}.")
    if epochs is not None and "steps" in said:
        raise UsageError("give --steps or --epochs, not both.")
    rank = int(said.get("rank", 0))
    width, height = base.size
    large = base.family != "starter"
    found: dict[str, Any] = {
        **(_LARGE if large else {}),
        **_DEFAULTS[base.family][0 if rank else 1],
        "alpha": float(rank or 1),
        "precision": "bf16" if large and device in ("cuda", "xpu") else "fp32",
        "checkpointing": large,
        "width": width,
        "height": height,
        **said,
    }
    batch = int(found["batch"]) * int(found.get("accumulate", 1))
    if "steps" not in found:
        seen = sum(e.repeats for e in folder.examples) * _VISITS
        found["steps"] = min(_MOST, max(_FEWEST, math.ceil(seen / batch)))
    found["warmup"] = min(int(found["warmup"]), int(found["steps"]) // 10)
    if "sheet_every" not in found:
        found["sheet_every"] = max(1, round(int(found["steps"]) / _SHEETS))
    settings = Settings(**found)
    if base.family in FLOWS and (faults := list(_flow_faults(base, settings))):
        raise UsageError(" ".join(faults))
    return (
        settings if settings.prompts else replace(settings, prompts=usual_prompts(folder, settings))
    )


def _flow_faults(base: Base, settings: Settings) -> Iterator[str]:
    """Tell what was asked for that makes no sense for a flow, or cannot be done."""
    title = ARCHITECTURES[base.family].title
    if not settings.rank:
        yield f"{title} learns as a LoRA only: give --lora RANK."
    if settings.min_snr is not None:
        yield (
            "min-SNR weighs the noise levels of a diffusion; "
            f"{title} was trained by flow matching. Leave --min-snr out."
        )
    if settings.noise_offset:
        yield (
            "noise offset mends a diffusion that never saw pure noise; "
            f"{title} was trained by flow matching and did. Leave --noise-offset out."
        )
    if settings.text_encoder:
        yield f"the text encoders of {title} do not learn here. Leave --train-text-encoder out."
    if settings.precision == "fp16":
        yield f"fp16 is too narrow for the T5 of {title}. Use --precision bf16 or fp32."
    config = base.configs["transformer"]
    places = int(config.get("pos_embed_max_size") or 0) * int(config.get("patch_size") or 1)
    side = max(settings.width, settings.height)
    if places and side > places * base.factor:
        yield f"size {side}: this transformer has places for {places * base.factor} pixels a side."


def with_epochs(
    settings: Settings, epochs: float, batches: float, user: Mapping[str, Any]
) -> Settings:
    """Return the settings with as many steps as ``epochs`` have.

    Raises:
        UsageError: that is less than one step.
    """
    steps = round(epochs * batches / settings.accumulate)
    if steps < 1:
        raise UsageError(f"{epochs:g} epochs of {batches:g} batches are no step at all.")
    every = user.get("sheet_every")
    warmup = min(settings.warmup, steps // 10) if user.get("warmup") is None else settings.warmup
    return replace(
        settings,
        steps=steps,
        warmup=warmup,
        sheet_every=max(1, round(steps / _SHEETS)) if every is None else every,
    )


def usual_prompts(folder: Folder, settings: Settings) -> tuple[str, ...]:
    """Return some captions of the folder, far from each other, as they are learnt."""
    said = sorted({e.caption for e in folder.examples if e.caption})
    if not said:
        return (settings.trigger,) if settings.trigger else ("",)
    every = max(1, len(said) // _PROMPTS)
    captions = Captions(settings.trigger)
    return tuple(captions.fixed(text) for text in said[every // 2 :: every][:_PROMPTS])


def memory(base: Base, settings: Settings, learning: int) -> int:
    """Return the bytes of weights, gradients and the optimizer's memory; activations come on top."""
    half = 2 if settings.precision != "fp32" else 4
    texts = sum(base.parameters(p) for p in base.configs if p.startswith("text_encoder"))
    frozen = base.parameters("vae") * 4 + texts * half
    unet = base.parameters(base.denoiser) * (half if settings.rank else 0)
    if settings.parts:
        unet = (base.parameters(base.denoiser) - learning) * 4  # what stays is float32 as well
    per = 4 + 4 + (2 if settings.optimizer == "adamw8bit" else _ADAM - 8)
    average = 4 if settings.ema is not None else 0
    return frozen + unet + learning * (per + average)


def adapter_size(base: Base, settings: Settings) -> int:
    """Return how many values will learn, from shapes alone."""
    parts = [base.denoiser, *(p for p in base.configs if p.startswith("text_encoder"))]
    chosen = parts if settings.text_encoder else parts[:1]
    if not settings.rank:
        frozen = sum(
            spec.elements
            for name, spec in base.view.specs.items()
            if name.startswith("unet.") and not fits(settings.parts, name.removeprefix("unet."))
        )
        return sum(base.parameters(part) for part in chosen) - frozen
    adapter = Adapter(settings.rank, settings.alpha, settings.targets, settings.dora)
    total = 0
    for part in chosen:
        pattern = re.compile(adapter.pattern(part))
        for name, spec in base.view.specs.items():
            layer = name.removeprefix(f"{part}.").removesuffix(".weight")
            if not name.startswith(f"{part}.") or len(spec.shape) not in (2, 4):
                continue
            if pattern.fullmatch(layer):
                rows, columns = spec.shape[0], math.prod(spec.shape[1:])
                total += settings.rank * (rows + columns) + (rows if settings.dora else 0)
    return total
