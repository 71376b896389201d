"""The links of the KL autoencoder of Latent Diffusion, from its names on either side.

The decoder counts its resolutions from the finest here, from the coarsest in diffusers; attention
is a 1x1 convolution here, a matrix there.

Source: CompVis latent-diffusion, ``autoencoder.py``; diffusers ``autoencoder_kl.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from memcard.core.tensors import Specs
from memcard.dialects._dialect import Component
from memcard.dialects._link import Link, Side, same

_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2",
           "nin_shortcut": "conv_shortcut"}  # fmt: skip
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_SAME = ("conv_in", "conv_out")
# Folders of 2022 have these; diffusers itself renames them while it loads.
_OLD = tuple(
    (rf"(attentions\.0)\.{old}\.", rf"\1.{new}.")
    for old, new in (
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    )
)


def links(specs: Specs, side: Side) -> Sequence[Link] | None:
    """Return the links of an autoencoder; None if there is none on this side."""
    decoder, encoder = _levels(specs, side, "decoder"), _levels(specs, side, "encoder")
    if not decoder and not encoder:
        return None
    found = [
        same(f"{half}.{name}.{{leaf}}", f"{half}.{name}.{{leaf}}")
        for half in ("encoder", "decoder")
        for name in _SAME
    ]
    found += [same(f"{n}.{{leaf}}", f"{n}.{{leaf}}") for n in ("quant_conv", "post_quant_conv")]
    for half, levels, step in (("encoder", encoder, "down"), ("decoder", decoder, "up")):
        found += _half(half, levels, step)
    return found


def _levels(specs: Specs, side: Side, half: str) -> int:
    step = "down" if half == "encoder" else "up"
    block = (
        f"{half}.{step}.{{}}.block.0" if side == "ldm" else f"{half}.{step}_blocks.{{}}.resnets.0"
    )
    count = 0
    while f"{block.format(count)}.conv1.weight" in specs:
        count += 1
    return count


def _half(half: str, levels: int, step: str) -> list[Link]:
    found = [same(f"{half}.norm_out.{{leaf}}", f"{half}.conv_norm_out.{{leaf}}")]
    for level in range(levels):
        other = level if step == "down" else levels - 1 - level
        old, new = f"{half}.{step}.{level}", f"{half}.{step}_blocks.{other}"
        found += _resnet(f"{old}.block.{{n}}", f"{new}.resnets.{{n}}")
        old, new = f"{old}.{step}sample.conv", f"{new}.{step}samplers.0.conv"
        found.append(same(f"{old}.{{leaf}}", f"{new}.{{leaf}}"))
    middle = f"{half}.mid_block"
    found += _resnet(f"{half}.mid.block_1", f"{middle}.resnets.0")
    found += _resnet(f"{half}.mid.block_2", f"{middle}.resnets.1")
    old, new = f"{half}.mid.attn_1", f"{middle}.attentions.0"
    found.append(same(f"{old}.norm.{{leaf}}", f"{new}.group_norm.{{leaf}}"))
    found += [
        same(f"{old}.{a}.{{leaf}}", f"{new}.{b}.{{leaf}}", "matrix") for a, b in _ATTENTION.items()
    ]
    return found


def _resnet(old: str, new: str) -> list[Link]:
    return [same(f"{old}.{a}.{{leaf}}", f"{new}.{b}.{{leaf}}") for a, b in _RESNET.items()]


def component(first: str = "first_stage_model.") -> Component:
    """Return the component; ``first`` is the prefix to write in single files."""
    ldm = dict.fromkeys((first, "first_stage_model.", "vae.", ""))
    return Component("vae", tuple(ldm), ("vae.", ""), links, {"diffusers": _OLD})
