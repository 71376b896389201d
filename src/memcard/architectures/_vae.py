"""The KL autoencoder of Latent Diffusion, under its single-file names.

Its names in diffusers' models are in ``dialects/_vae.py``.

Source: CompVis latent-diffusion, ``autoencoder.py``; diffusers ``autoencoder_kl.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memcard.core.tensors import Specs

PREFIXES = ("first_stage_model.", "vae.", "")


@dataclass(frozen=True, slots=True)
class VAE:
    """The outline of one autoencoder, from names and shapes. The encoder may be missing."""

    latent: int
    colours: int
    widths: tuple[int, ...]  # per resolution, finest first
    layers: int
    attention: bool
    post_quant: bool

    def config(self, *, groups: int, sample: int, scaling: float) -> Mapping[str, Any]:
        """Return arguments for diffusers' AutoencoderKL."""
        return {
            "in_channels": self.colours,
            "out_channels": self.colours,
            "latent_channels": self.latent,
            "block_out_channels": self.widths,
            "layers_per_block": self.layers,
            "down_block_types": ("DownEncoderBlock2D",) * len(self.widths),
            "up_block_types": ("UpDecoderBlock2D",) * len(self.widths),
            "norm_num_groups": groups,
            "sample_size": sample,
            "scaling_factor": scaling,
            "mid_block_add_attention": self.attention,
            "use_quant_conv": self.post_quant,
            "use_post_quant_conv": self.post_quant,
        }


def outline(specs: Specs) -> VAE | None:
    """Read the outline of the autoencoder in a file; None if it has no decoder."""
    for prefix in PREFIXES:
        if f"{prefix}decoder.up.0.block.0.conv1.weight" in specs:
            return _read(prefix, specs)
    return None


def _read(prefix: str, specs: Specs) -> VAE | None:
    def shape(name: str) -> tuple[int, ...]:
        return specs[f"{prefix}{name}"].shape if f"{prefix}{name}" in specs else ()

    def count(pattern: str) -> int:
        number = 0
        while f"{prefix}{pattern.format(number)}" in specs:
            number += 1
        return number

    levels = count("decoder.up.{}.block.0.conv1.weight")
    widths = [shape(f"decoder.up.{i}.block.0.conv1.weight")[:1] for i in range(levels)]
    first, last = shape("decoder.conv_in.weight"), shape("decoder.conv_out.weight")
    if len(first) != 4 or len(last) != 4 or not all(widths):
        return None
    return VAE(
        latent=first[1],
        colours=last[0],
        widths=tuple(w[0] for w in widths),
        layers=count("decoder.up.0.block.{}.conv1.weight") - 1,
        attention=bool(shape("decoder.mid.attn_1.q.weight")),
        post_quant=bool(shape("post_quant_conv.weight")),
    )
