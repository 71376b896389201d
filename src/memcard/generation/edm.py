"""Models of continuous noise levels: Playground 2.5 and CosXL, both with the layout of Stable Diffusion XL.

Which noise they were trained on stands in tensors of the file or in a folder's scheduler. Playground's latents
have a mean and a spread of their own, which belong to its UNet: any VAE of SDXL decodes them.

Source: Karras et al. 2022, arXiv:2206.00364, table 1; diffusers ``scheduling_edm_euler.py`` and
``single_file_utils.py`` (``edm_mean``, ``edm_std``, scale 0.5); ComfyUI's markers ``edm_vpred.*``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from memcard.generation.sampler import EDM

if TYPE_CHECKING:
    from memcard.generation.engine import Pipeline

VARIANTS: Final = ("EDM as CosXL", "EDM as Playground 2.5")
MEAN: Final = "latents_mean"
STD: Final = "latents_std"
SCALE: Final = "latents_scale"


def spread(config: Mapping[str, Any], latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and spread of the latents, [1, channels, 1, 1]."""
    return (
        torch.tensor(config[MEAN]).view(1, -1, 1, 1).to(latents),
        torch.tensor(config[STD]).view(1, -1, 1, 1).to(latents),
    )


def usual(pipeline: Pipeline) -> Mapping[str, Any]:
    """Return the settings of such models where they differ from SDXL's."""
    if pipeline.prediction not in EDM:
        return {}
    if pipeline.prediction == "edm":  # Playground's own pipeline
        return {"sampler": "dpmpp_2m", "schedule": "karras", "cfg": 3.0}
    return {"sampler": "dpmpp_2m", "schedule": "exponential"}
