"""A UNet told by CLIP: what Stable Diffusion 1 and 2, XL and the starter share.

The arithmetic and its order are those of diffusers' StableDiffusionPipeline, so that both give the
same bits from the same weights (``tests/unit/generation/test_same_as_diffusers.py``).

Source: Rombach et al. 2022, arXiv:2112.10752; diffusers ``pipeline_stable_diffusion.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from memcard.generation import instruct
from memcard.generation.clip_words import clip_states
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.engines import _models, _unet
from memcard.generation.settings import Settings
from memcard.generation.words import Words


class StableDiffusion(_unet.OnePicture):
    """One UNet, told by one text encoder."""

    title = "Stable Diffusion"
    source = "arXiv:2112.10752"
    families: tuple[str, ...] = ("starter", "sd1", "sd2")
    components: tuple[str, ...] = ("text_encoder", "unet", "vae")
    optional: tuple[str, ...] = ()
    variants: tuple[str, ...] = (
        *("v-prediction", "zero terminal SNR", "inpainting", "instruct-pix2pix", "depth"),
    )
    vae_encoder: tuple[str, ...] = ("encoder", "quant_conv")

    def empty(self, component: str, config: Mapping[str, Any]) -> nn.Module:
        """Build a component on the meta device."""
        kinds = {"unet": _models.unet, "vae": _models.vae, "controlnet": _models.controlnet}
        return kinds.get(component.partition(".")[0], _models.clip)(config)

    def usual(self, pipeline: Pipeline) -> Mapping[str, Any]:
        """Return the settings of models that differ from their family."""
        return dict(instruct.USUAL) if instruct.instructed(pipeline) else {}

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return the states of the prompt."""
        del negative
        states, _ = clip_states(
            pipeline.modules["text_encoder"],
            pipeline.tokenizers["text_encoder"],
            words,
            skip=settings.clip_skip,
            extras=pipeline.extras,
        )
        return {"states": states}

    def scheduler(self, pipeline: Pipeline, settings: Settings) -> Any:
        """Return the scheduler with its time steps set."""
        return _unet.scheduler(pipeline, settings)

    def predict(
        self, pipeline: Pipeline, latents: Tensor, moment: Tensor, cond: Cond, settings: Settings
    ) -> Tensor:
        """Ask the UNet."""
        del settings
        return _unet.ask(pipeline, latents, moment, cond)
