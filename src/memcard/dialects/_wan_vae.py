"""The links and the config of Wan 2.1's autoencoder, from its names on either side.

Its authors number all blocks of the decoder in one row: layers, then a resampling, and again. diffusers groups
them by resolution. The row is read off the names, so that smaller twins need no table of their own. In
the encoder both number alike.

Source: Wan-Video Wan2.1, ``wan/modules/vae.py``; diffusers ``autoencoder_kl_wan.py``, whose defaults are
the published config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from memcard.core.tensors import Specs
from memcard.dialects._dialect import Component
from memcard.dialects._link import Link, Side, same

_CHANNELS: Final = 16  # of the latents; the statistics below are theirs
# Mean and deviation of each latent channel over the data it was trained on.
_MEAN: Final = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_STD: Final = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
_LAYER: Final = {  # of one residual layer
    "residual.0.gamma": "norm1.gamma",
    "residual.2.{leaf}": "conv1.{leaf}",
    "residual.3.gamma": "norm2.gamma",
    "residual.6.{leaf}": "conv2.{leaf}",
    "shortcut.{leaf}": "conv_shortcut.{leaf}",
}
_RESAMPLING: Final = ("resample.1.{leaf}", "time_conv.{leaf}")
_MIDDLE: Final = {
    **{f"middle.0.{old}": f"mid_block.resnets.0.{new}" for old, new in _LAYER.items()},
    **{f"middle.2.{old}": f"mid_block.resnets.1.{new}" for old, new in _LAYER.items()},
    **{
        f"middle.1.{name}": f"mid_block.attentions.0.{name}"
        for name in ("norm.gamma", "to_qkv.{leaf}", "proj.{leaf}")
    },
    "conv1.{leaf}": "conv_in.{leaf}",
    "head.0.gamma": "norm_out.gamma",
    "head.2.{leaf}": "conv_out.{leaf}",
}
_ENDS: Final = {
    **{f"{half}.{o}": f"{half}.{n}" for half in ("encoder", "decoder") for o, n in _MIDDLE.items()},
    "conv1.{leaf}": "quant_conv.{leaf}",
    "conv2.{leaf}": "post_quant_conv.{leaf}",
    **{
        f"encoder.downsamples.{{n}}.{old}": f"encoder.down_blocks.{{n}}.{new}"
        for old, new in (*_LAYER.items(), *((name, name) for name in _RESAMPLING))
    },
}
_RANK: Final = 5  # of a kernel: out, in, frames, rows, columns
# The latents' end of the decoder, and the first and last of what its config is read off.
_MARKS: Final[Mapping[Side, tuple[str, ...]]] = {
    "ldm": ("decoder.conv1.weight", "decoder.head.2.weight", "decoder.upsamples.0.residual.2.weight"),
    "diffusers": (
        *("decoder.conv_in.weight", "decoder.conv_out.weight"),
        "decoder.up_blocks.0.resnets.0.conv1.weight",
    ),
}  # fmt: skip


def links(specs: Specs, side: Side) -> Sequence[Link] | None:
    """Return the links of the autoencoder; None if there is none on this side."""
    marks = [specs.get(name) for name in _MARKS[side]]
    if any(mark is None or len(mark.shape) != _RANK for mark in marks):
        return None
    if marks[0] is None or marks[0].shape[1] != _CHANNELS:
        return None
    found = [same(old, new) for old, new in _ENDS.items()]
    for old, new, kind in _row(specs, side):
        parts = _LAYER.items() if kind == "layer" else ((name, name) for name in _RESAMPLING)
        found += [same(f"{old}.{one}", f"{new}.{other}") for one, other in parts]
    return found


def _row(specs: Specs, side: Side) -> list[tuple[str, str, str]]:
    """Return the blocks of the decoder in the order data goes through them: both names, and the kind."""
    found: list[tuple[str, str, str]] = []
    group = layer = 0
    while True:
        old = f"decoder.upsamples.{len(found)}"
        block = f"decoder.up_blocks.{group}"
        here = (
            (old, old) if side == "ldm" else (f"{block}.resnets.{layer}", f"{block}.upsamplers.0")
        )
        first = "residual.2.weight" if side == "ldm" else "conv1.weight"
        if f"{here[0]}.{first}" in specs:
            found.append((old, f"{block}.resnets.{layer}", "layer"))
            layer += 1
        elif f"{here[1]}.resample.1.weight" in specs:
            found.append((old, f"{block}.upsamplers.0", "resampling"))
            group, layer = group + 1, 0
        else:
            return found


def config(specs: Specs) -> Mapping[str, Any]:
    """Return the config of an AutoencoderKLWan, read off diffusers' names."""
    groups: list[str] = []
    while f"decoder.up_blocks.{len(groups)}.resnets.0.conv1.weight" in specs:
        groups.append(f"decoder.up_blocks.{len(groups)}")
    widths = [specs[f"{group}.resnets.0.conv1.weight"].shape[0] for group in groups][::-1]
    layers = 0
    while f"{groups[0]}.resnets.{layers}.conv1.weight" in specs:
        layers += 1
    base = widths[0]
    over_time = [f"{group}.upsamplers.0.time_conv.weight" in specs for group in groups[:-1]][::-1]
    colours = specs["decoder.conv_out.weight"].shape[0]
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": base,
        "z_dim": specs["decoder.conv_in.weight"].shape[1],
        "dim_mult": [width // base for width in widths],
        "num_res_blocks": layers - 1,
        "attn_scales": [],
        "temperal_downsample": over_time,  # diffusers spells it so
        "dropout": 0.0,
        "latents_mean": list(_MEAN),
        "latents_std": list(_STD),
        "in_channels": colours,
        "out_channels": colours,
        "scale_factor_temporal": 2 ** sum(over_time),
        "scale_factor_spatial": 2 ** (len(groups) - 1),
    }


def component() -> Component:
    """Return the component."""
    return Component("vae", ("vae.", "first_stage_model.", ""), ("vae.", ""), links)
