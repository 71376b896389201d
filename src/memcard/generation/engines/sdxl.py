"""Stable Diffusion XL: two text encoders side by side, a pooled text, and six sizes.

Source: Podell et al. 2023, arXiv:2307.01952; diffusers ``pipeline_stable_diffusion_xl.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from memcard.generation import edm
from memcard.generation.clip_words import clip_states
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.engines._stable_diffusion import StableDiffusion
from memcard.generation.settings import Settings
from memcard.generation.words import Words


class StableDiffusionXL(StableDiffusion):
    """One UNet, told by two text encoders and by the size of the picture."""

    title = "Stable Diffusion XL"
    source = "arXiv:2307.01952"
    families = ("sdxl",)
    components = ("text_encoder", "text_encoder_2", "unet", "vae")
    variants = (*StableDiffusion.variants, *edm.VARIANTS)

    def usual(self, pipeline: Pipeline) -> Mapping[str, Any]:
        """Return the settings of models that differ from their family."""
        return {**super().usual(pipeline), **edm.usual(pipeline)}

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return the states of both encoders, the pooled state of the second, and the sizes."""
        found, pooled = [], None
        for name in self.components[:2]:
            states, summary = clip_states(
                *(pipeline.modules[name], pipeline.tokenizers[name], words),
                skip=settings.clip_skip,
                penultimate=True,
                extras=pipeline.extras,
                component=name,
            )
            found.append(states)
            pooled = summary if summary is not None else pooled
        assert pooled is not None, "the second text encoder has a projection"  # noqa: S101
        side = torch.cat(found, dim=-1)
        size = (settings.height, settings.width)
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=side.dtype, device=side.device)
        cond = {"states": side, "pooled": pooled, "sizes": sizes}
        if negative and not words.text:  # as it was trained: nothing is zeros, not an empty text
            cond |= {"states": torch.zeros_like(side), "pooled": torch.zeros_like(pooled)}
        return cond


PLUGIN = StableDiffusionXL()
