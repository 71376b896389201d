"""Flux.1: one transformer over words and picture, told by T5, by CLIP's pooled state and by a guidance.

The arithmetic and its order are those of diffusers' FluxPipeline, so that both give the same bits from
the same weights (``tests/unit/generation/test_flux.py``). Latents are packed: [1, tokens, channels], a
token for 2 x 2 latents.

Dev was distilled from guided guesses: the guidance is an input (``Settings.guidance``), and ``cfg`` above 1
runs it twice on top of that. Schnell takes no guidance. Fill, Canny, Depth and Kontext see a picture beside
the noise (``_flux.py``).

Source: black-forest-labs/flux ``sampling.py``; diffusers ``pipeline_flux.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Generator, Tensor, nn

from memcard.generation.engine import Cond, Pipeline
from memcard.generation.engines import _flow, _flux, _models, _unet
from memcard.generation.engines._flux import packed, unpacked
from memcard.generation.latents import noise as unit_noise
from memcard.generation.settings import Settings
from memcard.generation.t5 import t5_states
from memcard.generation.words import Words

if TYPE_CHECKING:
    from memcard.generation.denoise import Start
    from memcard.generation.passes import Picture

TOKENS: Final = 512  # of a prompt, for dev
TOKENS_SCHNELL: Final = 256
STEPS_SCHNELL: Final = 4
GUIDANCE: Final = 3.5  # what dev is told if nobody says


class Flux:
    """Pictures from Flux.1 dev and schnell, and from Fill, Canny, Depth and Kontext."""

    title = "Flux.1"
    source = "https://github.com/black-forest-labs/flux"
    families: tuple[str, ...] = ("flux",)
    components: tuple[str, ...] = ("text_encoder", "text_encoder_2", "transformer", "vae")
    optional: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("dev", "schnell", "Kontext", "fill", "canny or depth")
    edits = True  # Kontext; a model of the layout of dev may be told to
    vae_encoder: tuple[str, ...] = ("encoder", "quant_conv")

    def empty(self, component: str, config: Mapping[str, Any]) -> nn.Module:
        """Build a component on the meta device; CLIP without a projection, whatever its file has."""
        if component == "text_encoder":
            return _models.clip(config, projected=False)
        kinds = {"text_encoder_2": _models.t5, "transformer": _models.flux, "vae": _models.vae}
        return kinds[component](config)

    def usual(self, pipeline: Pipeline) -> Mapping[str, Any]:
        """Return the settings of this very model that differ from its family's, which are those of dev."""
        few = {} if _guided(pipeline) else {"steps": STEPS_SCHNELL, "guidance": None}
        return {**_flux.usual(pipeline), **few}

    def strength(self, pipeline: Pipeline, settings: Settings) -> float | None:
        """Return how much of a picture is painted anew if nobody says: all by Fill and Kontext, else None."""
        return 1.0 if settings.edit or _flux.kind(pipeline) == "fill" else None

    def check(self, pipeline: Pipeline, settings: Settings, given: Collection[str]) -> None:
        """Refuse pictures that the model cannot use, and a run without those that it needs.

        Raises:
            UsageError: says what the model is and what to name.
        """
        _flux.check(pipeline, settings, given)

    def reads(
        self, pipeline: Pipeline, settings: Settings, size: tuple[int, int]
    ) -> tuple[int, int] | None:
        """Return the size in which Kontext looks at a picture of ``size``; None: that of the run."""
        return _flux.reads(pipeline, settings, size)

    def start(
        self,
        pipeline: Pipeline,
        picture: Picture | None,
        control: Tensor | None,
        settings: Settings,
    ) -> Callable[[Generator], Start] | None:
        """Return what gives the beginning of a run; None: as with any other model."""
        return _flux.start(pipeline, picture, control, settings)

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return the states of T5 and the pooled state of CLIP, which reads the first 77 tokens."""
        del settings, negative
        states, _ = t5_states(
            pipeline.modules["text_encoder_2"],
            pipeline.tokenizers["text_encoder_2"],
            words,
            TOKENS if _guided(pipeline) else TOKENS_SCHNELL,
            extras=pipeline.extras,
        )
        clip = pipeline.modules["text_encoder"]
        ids, _ = pipeline.tokenizers["text_encoder"].encode(
            words.text, int(clip.config.max_position_embeddings)
        )
        pooled = clip(torch.tensor([ids], device=pipeline.device)).pooler_output
        return {"states": states, "pooled": pooled}

    def noise(self, pipeline: Pipeline, settings: Settings, source: Generator) -> Tensor:
        """Return unit noise, [1, tokens, channels]; drawn as [channels / 4, height, width]."""
        rows, columns = _grid(pipeline, settings)
        size = _flux.latent_channels(pipeline), 2 * rows, 2 * columns
        return packed(unit_noise(size, source))

    def scheduler(self, pipeline: Pipeline, settings: Settings) -> Any:
        """Return the scheduler with its time steps set: even ones, shifted by the size for dev."""
        rows, columns = _grid(pipeline, settings)
        sigmas = np.linspace(1.0, 1 / settings.steps, settings.steps)
        return _flow.scheduler(pipeline, settings, tokens=rows * columns, sigmas=sigmas)

    def predict(
        self, pipeline: Pipeline, latents: Tensor, moment: Tensor, cond: Cond, settings: Settings
    ) -> Tensor:
        """Ask the transformer."""
        count, device = len(latents), latents.device
        guidance = None
        if _guided(pipeline):
            value = GUIDANCE if settings.guidance is None else settings.guidance
            guidance = torch.full([count], value, device=device, dtype=torch.float32)
        where = _flux.places(*_grid(pipeline, settings)).to(device)
        seen, where = _flux.joined(latents, where, cond)
        found: Tensor = pipeline.denoiser(
            hidden_states=seen,
            timestep=moment.expand(count).to(latents.dtype) / 1000,
            guidance=guidance,
            pooled_projections=cond["pooled"],
            encoder_hidden_states=cond["states"],
            txt_ids=torch.zeros(cond["states"].shape[1], 3, device=device),
            img_ids=where,
            return_dict=False,
        )[0]
        return found[:, : latents.shape[1]]

    def decode(self, pipeline: Pipeline, latents: Tensor, settings: Settings) -> Tensor:
        """Return one picture."""
        return _unet.decode(pipeline, unpacked(latents, *_grid(pipeline, settings)))

    def encode_pixels(
        self, pipeline: Pipeline, pixels: Tensor, settings: Settings, source: Generator
    ) -> Tensor:
        """Return the latents of a picture, [1, tokens, channels]."""
        del settings
        return packed(_unet.encode_pixels(pipeline, pixels, source))

    def mask(self, pipeline: Pipeline, mask: Tensor) -> Tensor:
        """Return a mask of pixels, [height, width] in 0..1, in the layout of the latents."""
        return _flux.corners(pipeline, mask).to(pipeline.device, pipeline.dtype)


def _guided(pipeline: Pipeline) -> bool:
    """Whether the guidance is an input: dev, not schnell."""
    return bool(pipeline.configs["transformer"]["guidance_embeds"])


def _grid(pipeline: Pipeline, settings: Settings) -> tuple[int, int]:
    """Return rows and columns of tokens."""
    side = pipeline.factor * 2
    return settings.height // side, settings.width // side


PLUGIN = Flux()
