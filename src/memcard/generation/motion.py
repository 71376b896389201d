"""A motion module between the layers of a Stable Diffusion 1 or XL that is loaded already.

The UNet and the module stay what they are: the network that runs holds the same tensors, not copies.

Source: Guo et al. 2023, arXiv:2307.04725; diffusers ``unet_motion_model.py``, ``from_unet2d``; the noise of the
modules: guoyww AnimateDiff, ``configs/inference/inference-v3.yaml``, and ``inference.yaml`` of its SDXL branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import nn

from memcard.core.checkpoint import Checkpoint
from memcard.errors import MismatchError
from memcard.generation._engine import quiet
from memcard.generation.engine import Pipeline
from memcard.generation.engines import engine_of
from memcard.generation.engines.animatediff import FPS, FRAMES, MODULE, AnimateDiff
from memcard.generation.parts import Part, parts_of
from memcard.generation.sampler import EDM
from memcard.generation.weights import fill

__all__ = ["USUAL", "animated", "motion_part"]

USUAL: Final[Mapping[str, Any]] = {
    "frames": FRAMES,
    "fps": FPS,
}  # settings where nobody says others
# What the modules were trained with, unlike the UNet.
_NOISE: Final[Mapping[str, Mapping[str, Any]]] = {
    "sd1": {"beta_schedule": "linear"},
    "sdxl": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.02},
}


def animated(pipeline: Pipeline, motion: Checkpoint, label: str) -> Pipeline:
    """Return a pipeline of Stable Diffusion that makes clips with a motion module.

    Its UNet shares the tensors of the other one: beside them only the module (0.8 to 0.9 GB in
    float16) takes memory. Do it again after the weights of the UNet were replaced.

    Args:
        pipeline: loaded; it can be used on for pictures.
        motion: the motion module, in a file of any layout; keep it open.
        label: what to call it in errors.

    Raises:
        MismatchError: this is no motion module, or none for this UNet.
    """
    part = motion_part(motion, label)
    unet = pipeline.denoiser
    _check_fit(pipeline, part)
    engine = AnimateDiff(engine_of(pipeline.architecture))
    adapter = engine.empty(MODULE, part.config)
    fill(part, adapter, dtype=pipeline.dtype, device=pipeline.device)
    return replace(
        pipeline,
        engine=engine,
        modules={**pipeline.modules, "unet": _joined(unet, adapter), MODULE: adapter},
        configs={**pipeline.configs, MODULE: part.config, "scheduler": _noise(pipeline)},
    )


def motion_part(motion: Checkpoint, label: str) -> Part:
    """Return the motion module a file holds.

    Raises:
        MismatchError: it holds none.
    """
    found = parts_of(motion, "animatediff", label).get(MODULE)
    if found is None:
        raise MismatchError(
            f"{label}: is no motion module of AnimateDiff; its first tensor is "
            f"{next(iter(motion.specs), 'missing')!r}. Such a file has down_blocks.0.motion_modules.0.*, "
            "as mm_sd_v15_v2.ckpt, v3_sd15_mm.ckpt or mm_sdxl_v10_beta.ckpt."
        )
    return found


def _check_fit(pipeline: Pipeline, part: Part) -> None:
    if pipeline.architecture not in _NOISE or pipeline.prediction in EDM:
        raise MismatchError(
            f"{part.label}: a motion module goes with Stable Diffusion 1.x or XL; this checkpoint is "
            f"{pipeline.engine.title} ({pipeline.architecture}, {pipeline.prediction}). Choose one with -c."
        )
    for key, name, what in (
        ("block_out_channels", "block_out_channels", "widths"),
        ("motion_layers_per_block", "layers_per_block", "layers per block"),
    ):
        ours, theirs = _plain(part.config[key]), _plain(pipeline.denoiser.config[name])
        if ours != theirs:
            raise MismatchError(
                f"{part.label}: this motion module is for a UNet with {what} {ours}, that of the "
                f"checkpoint has {theirs}. Modules for SDXL have three widths, for SD 1.x four."
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _joined(unet: Any, adapter: Any) -> nn.Module:
    """Return one network over the tensors of both."""
    from diffusers.models.unets.unet_motion_model import UNetMotionModel

    with quiet(), torch.device("meta"):
        found = UNetMotionModel.from_unet2d(unet, adapter, load_weights=False)
    own = unet.state_dict(keep_vars=True).items()
    state = {name: value for name, value in own if ".motion_modules." not in name}
    state |= adapter.state_dict(keep_vars=True)
    found.load_state_dict(state, strict=True, assign=True)
    module: nn.Module = found.eval().requires_grad_(requires_grad=False)
    return module


def _noise(pipeline: Pipeline) -> Mapping[str, Any]:
    return {**pipeline.configs["scheduler"], **_NOISE[pipeline.architecture]}
