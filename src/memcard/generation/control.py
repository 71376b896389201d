"""ControlNets: pictures that a Stable Diffusion follows, such as edges, depths or poses.

A ControlNet is one more component, loaded with the others and kept by the same cache. Its picture and for how
much of the run it counts belong to what the denoiser is told.

Source: Zhang et al. 2023, arXiv:2302.05543; diffusers ``pipeline_controlnet.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from torch import Tensor

from memcard.architectures import ARCHITECTURES, identify
from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import Specs
from memcard.core.views import Rearranged
from memcard.dialects import _controlnet
from memcard.dialects._dialect import read
from memcard.errors import MismatchError, UnsupportedError, UsageError
from memcard.generation.denoise import Conditions
from memcard.generation.engine import Pipeline
from memcard.generation.engines._control import NET, STRENGTHS
from memcard.generation.parts import Assembly, Part
from memcard.generation.settings import Settings
from memcard.generation.unpacked import unpacked

__all__ = ["Control", "check", "steered", "with_control"]

_FAMILIES: Final = ("sd1", "sd2", "sdxl", "starter")
_MOST: Final = 10.0  # strength; published ones are used at 0 to 2


@dataclass(frozen=True, slots=True)
class Control:
    """What one ControlNet does in a run.

    Attributes:
        pixels: the picture it follows, 0..1, [height, width, 3], of the size that is painted.
        strength: what it adds is multiplied by this; 0 is nothing, 1 as it was trained.
        start, end: 0..1, between which shares of the steps it counts.
    """

    pixels: Tensor
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


def check(strength: float, start: float, end: float) -> None:
    """Refuse what is out of its range.

    Raises:
        UsageError: says which and what is possible.
    """
    if not 0 <= strength <= _MOST:
        raise UsageError(
            f"control strength {strength:g} is not in 0..{_MOST:g}; 1 is as the ControlNet was trained."
        )
    if not 0 <= start < end <= 1:
        raise UsageError(
            f"a control from {start:g} to {end:g} of the steps: give two shares in 0..1, the first "
            "smaller."
        )


def with_control(assembly: Assembly, checkpoint: Checkpoint, label: str) -> Assembly:
    """Return the assembly with one more ControlNet.

    Args:
        assembly: of a Stable Diffusion 1, 2 or XL.
        checkpoint: the ControlNet, under its authors' names or under diffusers'; keep it open.
        label: what to call it in errors.

    Raises:
        MismatchError: it is none, or one for another family.
        UnsupportedError: it is of a kind that does not run here.
    """
    if assembly.family not in _FAMILIES or "unet" not in assembly.parts:
        raise MismatchError(
            f"{label}: ControlNets run with Stable Diffusion 1, 2 and XL here; this checkpoint is "
            f"{ARCHITECTURES[assembly.family].title}. Leave --control out, or choose another with -c."
        )
    view = unpacked(checkpoint, label)
    reading = read(_controlnet.DIALECT, view.specs, "diffusers")
    if not reading.places:
        _refuse(view, label)
    start = "" if reading.places[0].prefix == "" else NET
    names = {n.removeprefix(start): n for n in reading.arrangements if n.startswith(start)}
    if not start and reading.faults:
        _refuse(view, label, reading.faults[0])
    renamed = Rearranged(view, reading.arrangements)
    unet = assembly.parts["unet"].config
    specs = {bare: renamed.specs[name] for bare, name in names.items()}
    config = _controlnet.config(specs, unet, label)
    _check_fit(specs, config, assembly, label)
    count = sum(name.startswith(NET) for name in assembly.parts)
    part = Part(f"{NET}{count}", renamed, names, config, label)
    return replace(assembly, parts={**assembly.parts, part.name: part})


def _refuse(view: Checkpoint, label: str, fault: str = "") -> NoReturn:
    """Say what the file is instead."""
    found = identify(view.specs, view.metadata)
    what = f"{found.kind.replace('_', ' ')}{f', {found.variant}' if found.variant else ''}"
    if found.kind == "controlnet":
        why = f" ({fault})" if fault else ""
        raise UnsupportedError(
            f"{label}: is a {what}{why}. memcard knows what it is but runs only plain ControlNets of "
            "Stable Diffusion 1, 2 and XL, in their authors' layout or in diffusers'."
        )
    what = "" if found.kind == "unknown" else f" but: {what}"
    first = next(iter(view.specs), "missing")
    raise MismatchError(
        f"{label}: is no ControlNet{what}; its first tensor is {first!r}. A ControlNet has "
        "input_hint_block.* or controlnet_cond_embedding.*."
    )


def _check_fit(specs: Specs, config: Mapping[str, Any], assembly: Assembly, label: str) -> None:
    """Refuse a ControlNet that is made for a UNet of another shape."""
    unet = assembly.parts["unet"].config
    cross = next(
        (s.shape[-1] for n, s in specs.items() if n.endswith("attn2.to_k.weight")),
        unet.get("cross_attention_dim"),
    )
    pairs = [
        ("widths", list(config["block_out_channels"]), list(unet["block_out_channels"])),
        ("layers per block", config["layers_per_block"], unet["layers_per_block"]),
        ("text states of width", cross, unet.get("cross_attention_dim")),
    ]
    odd = [f"{what} {theirs}, not {ours}" for what, theirs, ours in pairs if theirs != ours]
    if odd:
        raise MismatchError(
            f"{label}: this ControlNet is for another model than {ARCHITECTURES[assembly.family].title}: "
            f"it has {'; '.join(odd)}. Use one made for the family of the checkpoint."
        )


def steered(
    pipeline: Pipeline,
    told: Conditions,
    controls: Sequence[Control],
    settings: Settings,
    *,
    strength: float = 1.0,
) -> tuple[Pipeline, Conditions]:
    """Return the pipeline and what its denoiser is told, with the pictures to follow.

    Args:
        pipeline: loaded with as many ControlNets.
        told: from ``conditions``.
        controls: one for each ControlNet, in their order.
        settings: of the run.
        strength: how much of the way from noise is walked, as of ``Picture``: shares are of these steps.
    """
    if not controls:
        return pipeline, told
    seen = [c.pixels.permute(2, 0, 1)[None].to(pipeline.device, pipeline.dtype) for c in controls]
    walked = max(1, min(int(settings.steps * strength), settings.steps))
    skipped = settings.steps - walked
    spans = []
    for step in range(settings.steps):
        share, after = (step - skipped) / walked, (step - skipped + 1) / walked
        more: dict[str, Tensor] = {
            f"{NET}{i}": pixels
            for i, (one, pixels) in enumerate(zip(controls, seen, strict=True))
            if not (share < one.start or after > one.end)
        }
        wanted, unwanted = told.at(step)
        other = None if unwanted is None else {**unwanted, **more}
        spans.append((step + 1, {**wanted, **more}, other))
    strengths = tuple(c.strength for c in controls)
    extras = {**pipeline.extras, STRENGTHS: strengths}
    return replace(pipeline, extras=extras), Conditions(tuple(spans))
