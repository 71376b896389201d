"""The KL autoencoder of Latent Diffusion, under its single-file names.

Two things differ from diffusers beside the names: the decoder counts its resolutions from the
finest (``up.0``), diffusers from the coarsest; and attention is a 1x1 convolution here, a matrix
there: the same bytes under another shape.

Source: CompVis latent-diffusion, ``autoencoder.py``; diffusers ``autoencoder_kl.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memcard.core.architecture import Target
from memcard.core.tensors import Specs

PREFIXES = ("first_stage_model.", "vae.", "")

_SAME = re.compile(r"(?:(?:en|de)coder\.conv_(?:in|out)|quant_conv|post_quant_conv)\.\w+")
_NORM = re.compile(r"((?:en|de)coder)\.norm_out\.(\w+)")
_LEVEL = re.compile(r"(en|de)coder\.(?:down|up)\.(\d+)\.(block\.\d+|(?:down|up)sample)\.(.+)")
_MIDDLE = re.compile(r"((?:en|de)coder)\.mid\.(block_[12]|attn_1)\.(.+)")
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


@dataclass(frozen=True, slots=True)
class VAE:
    """The outline of one autoencoder, from names and shapes. The encoder may be missing."""

    prefix: str
    latent: int
    colours: int
    widths: tuple[int, ...]  # per resolution, finest first
    layers: int
    attention: bool
    post_quant: bool
    encoder: bool

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

    def target(self, name: str, shape: tuple[int, ...]) -> Target | None:
        """Return where a tensor belongs, or None if it is not part of this autoencoder."""
        if not name.startswith(self.prefix):
            return None
        bare = name[len(self.prefix) :]
        if match := _MIDDLE.fullmatch(bare):
            return _middle(match, shape)
        if match := _LEVEL.fullmatch(bare):
            return Target("vae", self._level(match))
        if match := _NORM.fullmatch(bare):
            return Target("vae", f"{match[1]}.conv_norm_out.{match[2]}")
        return Target("vae", bare) if _SAME.fullmatch(bare) else None

    def _level(self, match: re.Match[str]) -> str:
        half, level, part, rest = match[1], int(match[2]), match[3], match[4]
        if half == "en":
            stem, sampler = f"encoder.down_blocks.{level}", "downsamplers.0"
        else:
            stem, sampler = f"decoder.up_blocks.{len(self.widths) - 1 - level}", "upsamplers.0"
        if part.endswith("sample"):
            return f"{stem}.{sampler}.{rest}"
        return f"{stem}.resnets.{part.removeprefix('block.')}.{_shortcut(rest)}"


def _shortcut(rest: str) -> str:
    return rest.replace("nin_shortcut", "conv_shortcut")


def _middle(match: re.Match[str], shape: tuple[int, ...]) -> Target | None:
    half, part, rest = match.groups()
    if part != "attn_1":
        resnet = int(part[-1]) - 1
        return Target("vae", f"{half}.mid_block.resnets.{resnet}.{_shortcut(rest)}")
    module, _, leaf = rest.partition(".")
    if module not in _ATTENTION:
        return None
    matrix = shape[:2] if shape[2:] == (1, 1) else None
    return Target("vae", f"{half}.mid_block.attentions.0.{_ATTENTION[module]}.{leaf}", matrix)


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
        prefix=prefix,
        latent=first[1],
        colours=last[0],
        widths=tuple(w[0] for w in widths),
        layers=count("decoder.up.0.block.{}.conv1.weight") - 1,
        attention=bool(shape("decoder.mid.attn_1.q.weight")),
        post_quant=bool(shape("post_quant_conv.weight")),
        encoder=bool(shape("encoder.conv_in.weight")),
    )
