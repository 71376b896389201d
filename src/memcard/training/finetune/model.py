"""A base made ready to learn: UNet, autoencoder, text encoders, and how they work together.

Built elsewhere (``jobs``); this is what the loop needs to know of any family with a UNet.

Source: diffusers' ``train_text_to_image.py`` and ``train_text_to_image_sdxl.py`` for what each family's
UNet is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

Prediction: TypeAlias = Literal["epsilon", "v_prediction", "flow"]

_SIZES: Final = 6  # numbers SDXL is told: original size, crop, target size


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """One text encoder and the tokens it reads.

    Attributes:
        name: ``text_encoder`` or ``text_encoder_2``.
        module: transformers' CLIP text model.
        tokens: a prompt as ids, all of one length, and the end of it that did not fit.
        digest: of its weights, for the cache.
    """

    name: str
    module: Any
    tokens: Callable[[str], tuple[list[int], str]]
    digest: str


@dataclass(frozen=True, slots=True)
class Words:
    """What the UNet is told of prompts.

    Attributes:
        states: [n, tokens, width].
        pooled: [n, width], SDXL only.
    """

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A base with a UNet, its parts under diffusers' and transformers' classes.

    Attributes:
        family: public name of the architecture.
        unet: UNet2DConditionModel; of a flow (``FlowModel``) its transformer.
        vae: AutoencoderKL with its encoder.
        texts: in the order in which their states are put side by side.
        schedule: the part of its scheduler's config that says the noise levels.
        prediction: what the UNet was trained to say.
        sizes: the UNet is told original size, crop and target size (SDXL).
        size: width and height it was trained for, in pixels.
        factor: pixels per latent along one side.
        step: every side of a picture is a multiple of it.
        vae_digest: of the autoencoder's weights, for the cache.
        device: where it computes.
        dtype: of frozen weights; what learns is float32.
    """

    family: str
    unet: Any
    vae: Any
    texts: tuple[TextEncoder, ...]
    schedule: dict[str, Any]
    prediction: Prediction
    sizes: bool
    size: tuple[int, int]
    factor: int
    step: int
    vae_digest: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Return the most likely latents, float32, scaled as the UNet wants them.

        The spread that autoencoders state beside them is not used: it is next to nothing in those of Stable
        Diffusion, and was never trained in that of the starter.

        Args:
            pictures: [n, 3, height, width], float32, -1..1.
        """
        found = self.vae.encode(pictures.to(self.device, self.vae.dtype)).latent_dist.mean
        scale = float(self.vae.config.scaling_factor)
        shift = float(getattr(self.vae.config, "shift_factor", None) or 0.0)
        latents: Tensor = (found.float() - shift) * scale
        return latents

    def words(self, prompts: Sequence[str]) -> Words:
        """Return what the text encoders say of prompts; with gradients if they learn."""
        states, pooled = [], None
        for text in self.texts:
            ids = torch.tensor([text.tokens(prompt)[0] for prompt in prompts], device=self.device)
            if not self.sizes:
                states.append(text.module(ids)[0])
                continue
            found = text.module(ids, output_hidden_states=True)
            states.append(found.hidden_states[-2])  # SDXL was trained on the last but one
            pooled = getattr(found, "text_embeds", pooled)
        return Words(torch.cat(states, dim=-1), pooled)

    def predict(
        self, noisy: Tensor, times: Tensor, words: Words, sizes: Sequence[Sequence[int]]
    ) -> Tensor:
        """Return what the UNet says.

        Args:
            noisy: latents, [n, channels, height, width].
            times: [n], whole numbers.
            words: of the same ``n`` prompts.
            sizes: SDXL's six numbers per picture; not looked at for other families.
        """
        more: dict[str, Any] = {}
        if self.sizes:
            ids = torch.tensor([tuple(s)[:_SIZES] for s in sizes], device=self.device)
            more["added_cond_kwargs"] = {"text_embeds": words.pooled, "time_ids": ids.float()}
        said: Tensor = self.unet(
            noisy, times, encoder_hidden_states=words.states, return_dict=False, **more
        )[0]
        return said

    def modules(self) -> dict[str, nn.Module]:
        """Return what could learn, by component."""
        return {"unet": self.unet, **{text.name: text.module for text in self.texts}}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowModel(Model):
    """A base with a transformer that was trained by flow matching: Flux.1, Stable Diffusion 3.

    How it is told and asked is what the engine that paints with it does, so both are given.

    Attributes:
        tell: what the text encoders say of one prompt.
        ask: what the transformer says of latents [n, channels, height, width] at t [n], 0..1, told words.
        pipeline: what ``tell`` and ``ask`` run, for who paints with it.
    """

    tell: Callable[[str], Words]
    ask: Callable[[Tensor, Tensor, Words], Tensor]
    pipeline: Any

    def words(self, prompts: Sequence[str]) -> Words:
        """Return what the text encoders say of prompts."""
        told = [self.tell(prompt) for prompt in prompts]  # one by one: the same bits in any batch
        pooled = [words.pooled for words in told if words.pooled is not None]
        return Words(torch.cat([words.states for words in told]), torch.cat(pooled))

    def predict(
        self, noisy: Tensor, times: Tensor, words: Words, sizes: Sequence[Sequence[int]]
    ) -> Tensor:
        """Return what the transformer says: the way from the picture to the noise.

        Args:
            noisy: latents, [n, channels, height, width].
            times: t of each, [n], 0..1.
            words: of the same ``n`` prompts.
            sizes: not looked at.
        """
        del sizes
        return self.ask(noisy, times, words)

    def modules(self) -> dict[str, nn.Module]:
        """Return what could learn, by component."""
        return {"transformer": self.unet, **{text.name: text.module for text in self.texts}}
