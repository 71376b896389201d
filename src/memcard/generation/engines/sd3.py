"""Stable Diffusion 3 and 3.5: one transformer over words and picture, told by two CLIPs and by T5.

The arithmetic and its order are those of diffusers' StableDiffusion3Pipeline, so that both give the same
bits from the same weights (``tests/unit/generation/test_sd3.py``). T5 may be missing: then its states are
zeros, as in training, where it was dropped now and then; long descriptions and lettering suffer.

Source: Esser et al. 2024, arXiv:2403.03206; diffusers ``pipeline_stable_diffusion_3.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from memcard.errors import MismatchError, UsageError
from memcard.generation.clip_words import clip_states
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.engines import _flow, _models, _unet
from memcard.generation.settings import Settings
from memcard.generation.t5 import t5_states
from memcard.generation.words import Words

TOKENS: Final = 256  # of a prompt for T5, as in training
_SHIFT: Final = 1.16  # the largest, where sizes shift and the config does not say it


class StableDiffusion3(_unet.OnePicture):
    """Pictures from Stable Diffusion 3 and 3.5."""

    title = "Stable Diffusion 3"
    source = "arXiv:2403.03206"
    families: tuple[str, ...] = ("sd3",)
    components: tuple[str, ...] = (
        *("text_encoder", "text_encoder_2", "text_encoder_3"),
        *("transformer", "vae"),
    )
    optional: tuple[str, ...] = ("text_encoder_3",)
    variants: tuple[str, ...] = ("3.0 medium", "3.5 medium", "3.5 large")
    vae_encoder: tuple[str, ...] = ("encoder", "quant_conv")

    def empty(self, component: str, config: Mapping[str, Any]) -> nn.Module:
        """Build a component on the meta device.

        Raises:
            MismatchError: CLIP-G without its projection.
        """
        if component == "text_encoder_2" and not _projected(config):
            raise MismatchError(
                "the CLIP-G text encoder has no text_projection.weight, which Stable Diffusion 3 needs. "
                "Name a whole one with --text-encoder; its file is usually called clip_g.safetensors."
            )
        if component in ("text_encoder", "text_encoder_2"):
            # Files of CLIP-L often leave out the projection; here it is the identity.
            return _models.clip(config, projected=True)
        kinds = {"text_encoder_3": _models.t5, "transformer": _models.sd3, "vae": _models.vae}
        return kinds[component](config)

    def usual(self, pipeline: Pipeline) -> Mapping[str, Any]:
        """Return the settings of this very model that differ from its family's, as its makers say.

        Large turbo, made for 4 steps without guidance, cannot be told from large.
        """
        config = pipeline.configs["transformer"]
        if config.get("dual_attention_layers"):
            return {"steps": 40, "cfg": 4.5}  # 3.5 medium
        return {"cfg": 3.5 if config.get("qk_norm") else 7.0}  # 3.5 large; 3 medium

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return the states of CLIP, then of T5, all as wide as T5's, and the pooled states of CLIP.

        Raises:
            UsageError: the picture is larger than the transformer has places for.
        """
        del negative
        _check_size(pipeline, settings)
        found = [
            clip_states(
                *(pipeline.modules[name], pipeline.tokenizers[name], words),
                skip=settings.clip_skip,
                penultimate=True,
                extras=pipeline.extras,
            )
            for name in ("text_encoder", "text_encoder_2")
        ]
        side = torch.cat([states for states, _ in found], dim=-1)
        wide = int(pipeline.configs["transformer"]["joint_attention_dim"])
        pooled = [summary for _, summary in found if summary is not None]
        t5 = self._t5(pipeline, words, wide).to(side.dtype)
        return {
            "states": torch.cat([pad(side, (0, wide - side.shape[-1])), t5], dim=-2),
            "pooled": torch.cat(pooled, dim=-1),
        }

    def _t5(self, pipeline: Pipeline, words: Words, wide: int) -> Tensor:
        if "text_encoder_3" not in pipeline.modules:
            return torch.zeros(1, TOKENS, wide, device=pipeline.device)
        module = pipeline.modules["text_encoder_3"]
        tokenizer = pipeline.tokenizers["text_encoder_3"]
        return t5_states(module, tokenizer, words, TOKENS, extras=pipeline.extras)[0]

    def scheduler(self, pipeline: Pipeline, settings: Settings) -> Any:
        """Return the scheduler with its time steps set."""
        patch = pipeline.factor * int(pipeline.configs["transformer"]["patch_size"])
        tokens = settings.height // patch * (settings.width // patch)
        return _flow.scheduler(pipeline, settings, tokens=tokens, most=_SHIFT)

    def predict(
        self, pipeline: Pipeline, latents: Tensor, moment: Tensor, cond: Cond, settings: Settings
    ) -> Tensor:
        """Ask the transformer."""
        del settings
        found: Tensor = pipeline.denoiser(
            hidden_states=latents,
            timestep=moment.expand(len(latents)),
            encoder_hidden_states=cond["states"],
            pooled_projections=cond["pooled"],
            return_dict=False,
        )[0]
        return found


def _projected(config: Mapping[str, Any]) -> bool:
    return "CLIPTextModelWithProjection" in (config.get("architectures") or ())


def _check_size(pipeline: Pipeline, settings: Settings) -> None:
    config = pipeline.configs["transformer"]
    most = int(config["pos_embed_max_size"]) * int(config["patch_size"]) * pipeline.factor
    if max(settings.width, settings.height) > most:
        raise UsageError(
            f"size {settings.width}x{settings.height}: this transformer has places for {most} pixels "
            f"a side. Use {most} or less."
        )


PLUGIN = StableDiffusion3()
