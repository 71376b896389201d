"""How much memory a run takes, told from headers and settings: no weight is read.

Weights are counted. What networks compute with is estimated from their widest maps; measured beside it, on the
CPU, were the UNet and the autoencoder of Stable Diffusion 1 (``tests/unit/jobs/test_generate_plan.py`` runs the
starter's). Attention is never a whole matrix: torch computes it in blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from memcard.generation.engine import Pipeline
    from memcard.generation.parts import Assembly, Part
    from memcard.generation.settings import Settings

PROGRAM: Final = 450_000_000  # bytes of Python with torch and diffusers, measured
# Maps of the widest layer that are there at once. Measured: an autoencoder has its input, its normed and its
# activated input, its output, and what the convolution lays out anew.
_DECODER_MAPS: Final = 5
# A UNet also keeps the maps that its second half takes up again, and feeds eight times the width forward.
_UNET_MAPS: Final = 24
_TRANSFORMER_MAPS: Final = 16
_TILE: Final = 512  # pixels of a tile's side, of autoencoders of Stable Diffusion
_CHANNELS: Final = 256  # of the widest map over all pixels, where a config does not say it
_WIDTH: Final = 3072  # of a transformer, likewise


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a run.

    Attributes:
        weights: of all networks, in the dtype they run in.
        work: the most that a step or the decoder needs beside them.
        program: of the program itself.
        free: what the device has left now.
    """

    weights: int
    work: int
    program: int
    free: int

    @property
    def needed(self) -> int:
        """Bytes in all."""
        return self.weights + self.work + self.program

    @property
    def fits(self) -> bool:
        """Whether it is likely to fit."""
        return self.needed <= self.free


def elements_of(assembly: Assembly, part: Part, *, encoder: bool) -> int:
    """Return the number of values of a part that are loaded: without the encoder of a VAE nobody needs."""
    left_out = getattr(assembly.engine, "vae_encoder", ()) if part.name == "vae" else ()
    gone = tuple(f"{layer}." for layer in left_out) if not encoder else ()
    names = (name for key, name in part.names.items() if not key.startswith(gone or ("\0",)))
    return sum(part.view.specs[name].elements for name in names)


def work_of(pipeline: Pipeline, settings: Settings, itemsize: int, *, tiled: bool) -> int:
    """Estimate the bytes that computing one picture or clip takes beside the weights.

    Args:
        pipeline: an outline is enough.
        settings: of the run.
        itemsize: bytes of a value.
        tiled: the picture is decoded in tiles.
    """
    pair = 2 if settings.cfg > 1 and not getattr(pipeline.engine, "one_by_one", False) else 1
    area = settings.width * settings.height
    decoded = min(area, _TILE**2) if tiled else area
    vae = pipeline.configs["vae"]
    decoder = _DECODER_MAPS * _widest(vae) * decoded * _frames(vae, settings.frames) * itemsize
    latent = area // _factor(vae) ** 2 * _moments(settings.frames)
    return max(decoder, pair * _denoiser(pipeline.configs, latent) * itemsize)


def _denoiser(configs: Mapping[str, Mapping[str, Any]], latent: int) -> int:
    """Return the values that the denoiser holds for one guess over so many places of latents."""
    if "unet" in configs:
        return _UNET_MAPS * int(configs["unet"]["block_out_channels"][0]) * latent
    config = configs["transformer"]
    patch = config.get("patch_size", 2)
    size = int(patch[-1] if isinstance(patch, (list, tuple)) else patch)
    # Flux says 1, as its latents are packed before it sees them.
    packed = 2 if "guidance_embeds" in config else size
    width = int(config.get("num_attention_heads", 0)) * int(config.get("attention_head_dim", 0))
    return _TRANSFORMER_MAPS * (width or _WIDTH) * latent // packed**2


def _moments(frames: int) -> int:
    """Return the frames of latents: clips are shortened four times at least."""
    return frames if frames == 1 else frames // 4 + 1


def _frames(vae: Mapping[str, Any], frames: int) -> int:
    """Return the frames that a decoder holds at once: Wan's goes latent by latent."""
    if "temperal_downsample" not in vae:
        return frames
    return min(frames, int(2 ** sum(vae["temperal_downsample"])))


def _widest(vae: Mapping[str, Any]) -> int:
    """Return the channels of the decoder's widest map over all pixels: those of the level below the last."""
    if "dim_mult" in vae:
        return int(vae["base_dim"] * vae["dim_mult"][min(1, len(vae["dim_mult"]) - 1)])
    widths = vae.get("decoder_block_out_channels") or vae.get("block_out_channels") or (_CHANNELS,)
    return int(widths[min(1, len(widths) - 1)])


def _factor(vae: Mapping[str, Any]) -> int:
    """Return the pixels per place of the latents, along one side."""
    if "spatial_compression_ratio" in vae:
        return int(vae["spatial_compression_ratio"])
    levels = len(vae.get("block_out_channels") or (0,) * 4)
    patch = int(vae.get("patch_size") or 1)
    return int(2 ** (levels - 1)) * patch
