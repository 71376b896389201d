"""Bases trained by flow matching, made ready to learn: told, asked and painted with by the engine that generates.

So what a LoRA learns is what it will be asked, whatever packing, guidance or text encoders a family has.

Sources: Esser et al. 2024, arXiv:2403.03206; diffusers ``train_dreambooth_lora_flux.py`` and
``train_dreambooth_lora_sd3.py`` for what they tell the transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from memcard.generation.denoise import Conditions, decode, denoise
from memcard.generation.engine import FULL_VAE, Pipeline
from memcard.generation.engines import flux, sd3
from memcard.generation.engines._flux import packed, unpacked
from memcard.generation.load import load
from memcard.generation.parts import assemble
from memcard.generation.picture import picture
from memcard.generation.settings import Settings
from memcard.generation.words import plain
from memcard.jobs._finetune_models import FLOWS, HALVES, Base, build, digest_of
from memcard.jobs._finetune_sheet import Painter
from memcard.jobs._generate_settings import settings_of
from memcard.training.finetune.model import FlowModel, Model, TextEncoder, Words

if TYPE_CHECKING:
    from PIL.Image import Image

# Flux dev was distilled at many strengths of guidance; at 1 it says what the data alone would, and that is what
# trainers of LoRAs tell it. Pictures are painted at the usual strength later.
GUIDANCE: Final = 1.0
_DTYPES: Final = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
_SMALLEST: Final = 64
_FULL: Final = 1000  # what schedulers call t = 1


def built(base: Base, *, device: str, precision: str, keep_wide: bool = False) -> Model:
    """Build the networks of any base and give them their weights; arguments as ``build`` has them."""
    if base.family in FLOWS:
        return build_flow(base, device=device, precision=precision)
    return build(base, device=device, precision=precision, keep_wide=keep_wide)


def build_flow(base: Base, *, device: str, precision: str) -> FlowModel:
    """Build the networks and give them their weights; nothing of them can learn yet.

    Args:
        base: from ``read_base``, of one of ``FLOWS``.
        device: ``auto``, ``cpu``, ``cuda``, ``mps`` or what torch calls it.
        precision: ``bf16`` holds the weights so.

    Raises:
        MismatchError: weights are missing or have another shape than the family's.
        UsageError: no such device.
    """
    half = HALVES.get(precision, torch.float32)
    pipeline = load(
        assemble(base.source, base.family), device=device, dtype=_DTYPES[half], encoder=True
    )
    if half != torch.float32:  # latents are computed once, and well
        pipeline = pipeline.with_modules(vae=pipeline.extras[FULL_VAE]())
    asked = _Asked(pipeline, _settings(base, pipeline, base.size))
    vae = base.configs["vae"]
    scaled = f"{vae['scaling_factor']} {vae.get('shift_factor') or 0.0}"
    return FlowModel(
        *(base.family, pipeline.denoiser, pipeline.vae, tuple(_texts(base, pipeline, asked))),
        *(dict(pipeline.configs["scheduler"]), base.prediction),
        sizes=False,
        size=base.size,
        factor=base.factor,
        step=base.step,
        vae_digest=f"{digest_of(base.view, 'vae.')} {scaled}",
        device=pipeline.device,
        dtype=half,
        tell=asked.tell,
        ask=asked.ask,
        pipeline=pipeline,
    )


def painter_of(base: Base, model: Model, size: tuple[int, int], precision: str) -> Painter:
    """Return what paints with a base while it learns."""
    kind = FlowPainter if isinstance(model, FlowModel) else Painter
    return kind(base, model, size, precision)


class FlowPainter(Painter):
    """Paints prompts with the weights of the moment, by the engine of the family."""

    def __init__(self, base: Base, model: Any, size: tuple[int, int], precision: str) -> None:
        """Prepare; arguments as ``Painter`` has them, ``model`` a ``FlowModel``."""
        self._model, self._precision = model, precision
        self.settings = _settings(base, model.pipeline, size)
        self._pipeline: Pipeline = replace(model.pipeline, dtype=torch.float32)

    def _one(self, prompt: str, seed: int) -> Image:
        with torch.no_grad():
            words = self._model.words((self.settings.negative, prompt))
        assert words.pooled is not None, "flows have one"  # noqa: S101
        states, pooled = words.states.float(), words.pooled.float()
        without = {"states": states[:1], "pooled": pooled[:1]} if self.settings.cfg > 1 else None
        wanted = {"states": states[1:], "pooled": pooled[1:]}
        told = Conditions(((self.settings.steps, wanted, without),))
        latents = denoise(self._pipeline, told, self.settings, seed)
        return picture(decode(self._pipeline, latents, self.settings)[0])


class _Asked:
    """The engine of a family, as the training loop speaks: latents unpacked, t in 0..1."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self._pipeline, self._packed = pipeline, pipeline.architecture == "flux"
        # Of the sizes only those of a batch count, and ``ask`` puts them in.
        self._settings = replace(settings, guidance=GUIDANCE, width=_SMALLEST, height=_SMALLEST)
        clip = pipeline.modules["text_encoder"].config
        self._chunk = int(clip.max_position_embeddings)
        # What one reading of CLIP holds, to the last token, as in the training of the base.
        self._reading = replace(pipeline, extras={"comma": 0})

    @property
    def length(self) -> int:
        """Tokens of T5."""
        if not self._packed:
            return sd3.TOKENS
        guided = self._pipeline.configs["transformer"]["guidance_embeds"]
        return flux.TOKENS if guided else flux.TOKENS_SCHNELL

    def tell(self, prompt: str) -> Words:
        """Return what the text encoders say of a prompt, states [1, tokens, width], pooled [1, width].

        Nothing in a caption is a command: brackets are brackets.
        """
        found = self._pipeline.engine.encode(self._reading, plain(prompt), self._settings)
        states = found["states"]
        if not self._packed and states.shape[1] > self._chunk + sd3.TOKENS:
            # SD 3 puts the states of CLIP before those of T5; what CLIP reads a second time is left out,
            # so that all prompts have the same length.
            states = torch.cat([states[:, : self._chunk], states[:, -sd3.TOKENS :]], dim=1)
        return Words(states, found["pooled"])

    def ask(self, noisy: Tensor, times: Tensor, words: Words) -> Tensor:
        """Return what the transformer says of latents [n, channels, height, width] at t in 0..1, [n]."""
        assert words.pooled is not None, "flows have one"  # noqa: S101
        pipeline, (height, width) = self._pipeline, noisy.shape[-2:]
        used = replace(
            self._settings, width=width * pipeline.factor, height=height * pipeline.factor
        )
        cond = {"states": words.states, "pooled": words.pooled}
        latents = packed(noisy) if self._packed else noisy
        said = pipeline.engine.predict(pipeline, latents, times * _FULL, cond, used)
        return unpacked(said, height // 2, width // 2) if self._packed else said


def _settings(base: Base, pipeline: Pipeline, size: Sequence[int]) -> Settings:
    user = {"width": size[0], "height": size[1], "prediction_type": base.prediction}
    return settings_of(pipeline, base.source.metadata, user)


def _texts(base: Base, pipeline: Pipeline, asked: _Asked) -> list[TextEncoder]:
    """Return the text encoders, T5 first: it reads the longest prompts.

    Their digests say how long and for which family, for the states of one prompt differ in both.
    """
    names = sorted((n for n in pipeline.modules if n.startswith("text_encoder")), reverse=True)
    more = f"{base.family} {asked.length}"
    return [
        TextEncoder(
            *(name, pipeline.modules[name], _tokens(pipeline, name, asked.length)),
            f"{digest_of(base.view, f'{name}.')} {more}",
        )
        for name in names
    ]


def _tokens(pipeline: Pipeline, name: str, length: int) -> Callable[[str], tuple[list[int], str]]:
    config, tokenizer = pipeline.modules[name].config, pipeline.tokenizers[name]
    most = int(getattr(config, "max_position_embeddings", None) or length)

    def tokens(prompt: str) -> tuple[list[int], str]:
        ids, cut = tokenizer.encode(prompt, most)
        return list(ids), str(cut)

    return tokens
