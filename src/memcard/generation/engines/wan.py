"""Wan 2.1, text to video: one transformer over all frames, told by UMT5; latents of 4 frames and 8 x 8 pixels.

The arithmetic and its order are those of diffusers' WanPipeline, so that both give the same bits from the
same weights (``tests/unit/generation/test_wan.py``). With guidance the transformer is asked twice, one clip at
a time, as there: a batch of two would double the memory of its activations.

Source: Wan team 2025, arXiv:2503.20314; diffusers ``pipeline_wan.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Generator, Tensor, nn

from memcard.errors import UnsupportedError, UsageError
from memcard.generation._engine import quiet
from memcard.generation.denoise import Start, encode_pixels
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.engines import _flow, _models
from memcard.generation.latents import noise as unit_noise
from memcard.generation.samplers import SAMPLERS
from memcard.generation.settings import Settings
from memcard.generation.umt5 import Source, umt5_states, umt5_tokenizer
from memcard.generation.words import Words

if TYPE_CHECKING:
    from memcard.generation.passes import Picture

TOKENS: Final = 512  # of a prompt, as in training
# How far the noise levels are shifted, as the examples of its authors have it: for 480 rows, and for 720.
SHIFTS: Final = (3.0, 5.0)
_LARGE: Final = 600_000  # pixels of a frame; 832 x 480 has 399,360 and 1280 x 720 has 921,600
_UNIPC: Final = "UniPCMultistepScheduler"
_HALF: Final = re.compile(r"(high|low)[-_ ]?noise", re.IGNORECASE)
_REFUSED: Final[Mapping[str, str]] = {
    "mask": "takes no mask: a clip changes as a whole. Leave --mask out.",
    "control": "follows no drawing. Leave --control-image out.",
    "hires": "makes no second pass over a clip. Leave --hires out.",
}


class Wan:
    """Clips from Wan 2.1."""

    title = "Wan 2.1"
    source = "arXiv:2503.20314"
    families: tuple[str, ...] = ("wan21",)
    components: tuple[str, ...] = ("text_encoder", "transformer", "vae")
    optional: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("text to video", "1.3B", "14B")
    vae_encoder: tuple[str, ...] = ("encoder", "quant_conv")
    one_by_one = True  # ``predict`` asks for the clips of a batch one after another
    latent_dtype = torch.float32  # whatever the models compute in, as in WanPipeline

    def empty(self, component: str, config: Mapping[str, Any]) -> nn.Module:
        """Build a component on the meta device."""
        return _KINDS[component](config).eval().requires_grad_(requires_grad=False)

    def header(self, metadata: Mapping[str, str], label: str) -> Mapping[str, Mapping[str, Any]]:
        """Return nothing: a file of Wan says nothing about itself.

        Raises:
            UnsupportedError: its name says that it is one half of Wan 2.2, whose tensors are the same.
        """
        del metadata
        if (half := _HALF.search(label)) is not None:
            raise UnsupportedError(
                f"{label}: is by its name the {half[1].lower()}-noise half of a Wan 2.2 pair. memcard knows what "
                "it is but cannot generate with a pair yet, and one half makes no clip alone. Use Wan 2.1 text "
                "to video; if this file is one model after all, give it another name."
            )
        return {}

    def tokenizers(self, parts: Mapping[str, Source]) -> Mapping[str, Any]:
        """Return the tokenizer that came with the text encoder.

        Raises:
            MismatchError: none did.
            CorruptError, UnsupportedError: it cannot be read.
        """
        return {"text_encoder": umt5_tokenizer(parts["text_encoder"])}

    def fitting(self, pipeline: Pipeline, settings: Settings) -> tuple[Settings, tuple[str, ...]]:
        """Return settings with the nearest number of frames that can be made, and what changed."""
        time = _compression(pipeline)[0]
        return _flow.whole_frames(settings, time, self.title)

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return the states of 512 tokens; zeros where there are no words.

        Raises:
            UsageError: a clip of this length or size cannot be made.
        """
        del negative
        _shape(pipeline, settings)
        states = umt5_states(
            pipeline.modules["text_encoder"],
            pipeline.tokenizers["text_encoder"],
            words,
            TOKENS,
            extras=pipeline.extras,
        )
        return {"states": states.to(pipeline.dtype)}

    def noise(self, pipeline: Pipeline, settings: Settings, source: Generator) -> Tensor:
        """Return unit noise, [1, channels, frames, rows, columns] of the latents."""
        channels = int(pipeline.configs["transformer"]["in_channels"])
        return unit_noise((channels, *_shape(pipeline, settings)), source)

    def scheduler(self, pipeline: Pipeline, settings: Settings) -> Any:
        """Return the scheduler; more pixels get more of their steps at high noise.

        UniPC walks through its own levels and tells whole time steps, as in Wan's own code; the others walk
        through those of diffusers' Euler for flows.
        """
        family = dict(pipeline.configs["scheduler"])
        shift = shift_of(family, settings)
        sampler = SAMPLERS[settings.sampler]
        trained = {"num_train_timesteps": family.get("num_train_timesteps", 1000)}
        with quiet():
            if sampler.flow.endswith(_UNIPC) and settings.schedule == "normal":
                from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

                found: Any = UniPCMultistepScheduler(
                    **trained, **sampler.flow_options, flow_shift=shift
                )
            else:
                found = sampler.scheduler(
                    {**trained, "shift": shift}, schedule=settings.schedule, prediction_type="flow"
                )
            found.set_timesteps(settings.steps, device=pipeline.device)
        return found

    def predict(
        self, pipeline: Pipeline, latents: Tensor, moment: Tensor, cond: Cond, settings: Settings
    ) -> Tensor:
        """Ask the transformer, one clip at a time; the guess comes in the dtype of the latents."""
        del settings
        found = [
            pipeline.denoiser(
                hidden_states=one.to(pipeline.dtype),
                timestep=moment.expand(1),
                encoder_hidden_states=states,
                return_dict=False,
            )[0]
            for one, states in zip(latents[:, None], cond["states"][:, None], strict=True)
        ]
        return torch.cat(found).to(latents.dtype)

    def decode(self, pipeline: Pipeline, latents: Tensor, settings: Settings) -> Tensor:
        """Return the frames of a clip."""
        del settings
        shown: Tensor = (_video(pipeline, latents)[0] * 0.5 + 0.5).clamp(0, 1)
        return shown.permute(1, 2, 3, 0).float().cpu()

    def decode_patches(self, pipeline: Pipeline, patches: Tensor) -> Tensor:
        """Return what first frames of these latents, [n, channels, rows, columns], look like, in -1..1."""
        return _video(pipeline, patches[:, :, None].to(pipeline.device))[:, :, 0].float().cpu()

    def encode_pixels(
        self, pipeline: Pipeline, pixels: Tensor, settings: Settings, source: Generator
    ) -> Tensor:
        """Return the latents of a clip, [1, channels, frames, rows, columns]; nothing is drawn.

        Args:
            pipeline: the models.
            pixels: 0..1, [height, width, 3] for a clip that stands still, or [frames, height, width, 3].
            settings: size and frames.
            source: not used.
        """
        del source
        vae = pipeline.vae
        frames = pixels if pixels.ndim == 4 else pixels.expand(settings.frames, -1, -1, -1)
        video = (frames * 2 - 1).permute(3, 0, 1, 2)[None].to(pipeline.device, vae.dtype)
        read = vae.encode(video).latent_dist.mode().to(self.latent_dtype)
        mean, std = _statistics(pipeline, read)
        latents: Tensor = (read - mean) * std
        return latents

    def check(self, pipeline: Pipeline, settings: Settings, given: Collection[str]) -> None:
        """Refuse what a clip cannot be made of.

        Raises:
            UsageError: says what to leave out.
        """
        del pipeline, settings
        faults = [text for what, text in _REFUSED.items() if what in given]
        if faults:
            raise UsageError(" ".join(f"{self.title} {fault}" for fault in faults))

    def start(
        self,
        pipeline: Pipeline,
        picture: Picture | None,
        control: Tensor | None,
        settings: Settings,
    ) -> Callable[[Generator], Start] | None:
        """Return what begins with a clip that shows a picture and stands still; None without one."""
        del control
        if picture is None:
            return None
        given = picture

        def begin(source: Generator) -> Start:
            found = encode_pixels(pipeline, given.pixels, settings, source)
            return Start(found, given.strength)

        return begin

    def mask(self, pipeline: Pipeline, mask: Tensor) -> Tensor:
        """Refuse a mask.

        Raises:
            UsageError: always.
        """
        del pipeline, mask
        raise UsageError(f"{self.title} {_REFUSED['mask']}")


def shift_of(family: Mapping[str, Any], settings: Settings) -> float:
    """Return how far the noise levels are shifted: by size, unless a folder has a number of its own.

    Published folders say 3.0 for all sizes, and their cards 5.0 for 720 rows.
    """
    said = float(family.get("shift") or family.get("flow_shift") or SHIFTS[0])
    if said != SHIFTS[0]:
        return said
    return SHIFTS[settings.width * settings.height > _LARGE]


def _transformer(config: Mapping[str, Any]) -> nn.Module:
    from diffusers.models.transformers.transformer_wan import (
        WanRotaryPosEmbed,
        WanTransformer3DModel,
    )

    plain = _models.plain(config)
    with quiet(), torch.device("meta"):
        module: nn.Module = WanTransformer3DModel(**plain)
    # Its places are in no file: they are counted here, not on the meta device.
    module.rope = WanRotaryPosEmbed(
        plain["attention_head_dim"], plain["patch_size"], plain["rope_max_seq_len"]
    )
    return module


def _vae(config: Mapping[str, Any]) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    with quiet(), torch.device("meta"):
        module: nn.Module = AutoencoderKLWan(**_models.plain(config))
    return module


def _umt5(config: Mapping[str, Any]) -> nn.Module:
    from transformers.models.umt5.configuration_umt5 import UMT5Config
    from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel

    with quiet(), torch.device("meta"):
        module: nn.Module = UMT5EncoderModel(UMT5Config(**_models.plain(config)))
    return module


_KINDS: Final = {"text_encoder": _umt5, "transformer": _transformer, "vae": _vae}


def _video(pipeline: Pipeline, latents: Tensor) -> Tensor:
    vae = pipeline.vae
    latents = latents.to(vae.dtype)
    mean, std = _statistics(pipeline, latents)
    found: Tensor = vae.decode(latents / std + mean, return_dict=False)[0]
    return found


def _statistics(pipeline: Pipeline, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / deviation of each latent channel, as diffusers rounds them."""
    config = pipeline.vae.config
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1).to(like.device, like.dtype)
    std = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1).to(like.device, like.dtype)
    return mean, 1.0 / std


def _compression(pipeline: Pipeline) -> tuple[int, int]:
    """Return how many frames, and how many pixels along one side, a value of the latents stands for."""
    config = pipeline.configs["vae"]
    return 2 ** sum(config["temperal_downsample"]), 2 ** (len(config["dim_mult"]) - 1)


def _shape(pipeline: Pipeline, settings: Settings) -> tuple[int, int, int]:
    """Return frames, rows and columns of the latents."""
    time, side = _compression(pipeline)
    _, *patch = pipeline.configs["transformer"]["patch_size"]
    faults = []
    if (settings.frames - 1) % time:
        below = (settings.frames - 1) // time * time + 1
        faults.append(
            f"{settings.frames} frames are not one more than a multiple of {time}: "
            f"use {below} or {below + time}"
        )
    sizes = (("height", settings.height, patch[0]), ("width", settings.width, patch[1]))
    for name, size, share in sizes:
        if size % (step := side * share):
            below = max(step, size // step * step)
            faults.append(
                f"{name} {size} is not a multiple of {step}: use {below} or {below + step}"
            )
    if faults:
        raise UsageError(f"Wan 2.1 cannot make this clip: {'; '.join(faults)}.")
    return (settings.frames - 1) // time + 1, settings.height // side, settings.width // side


PLUGIN = Wan()
