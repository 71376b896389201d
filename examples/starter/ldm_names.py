"""Rename tensors from diffusers modules to the single-file names of Stable Diffusion (LDM).

The tables below are the inverse of what diffusers reads with ``convert_ldm_unet_checkpoint``,
``convert_ldm_vae_checkpoint`` and its CLIP twin. Only names change, except that the VAE's attention
weights are 1x1 convolutions in LDM: ``[c, c]`` becomes ``[c, c, 1, 1]``.
"""

from __future__ import annotations

import re

from torch import Tensor

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."

UNET_ENDS = (
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
)
UNET_RESNET = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("time_emb_proj.", "emb_layers.1."),
    ("conv_shortcut.", "skip_connection."),
)
VAE_PARTS = (
    ("conv_norm_out.", "norm_out."),
    ("conv_shortcut.", "nin_shortcut."),
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
    ("mid_block.attentions.0.to_q.", "mid.attn_1.q."),
    ("mid_block.attentions.0.to_k.", "mid.attn_1.k."),
    ("mid_block.attentions.0.to_v.", "mid.attn_1.v."),
    ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
)


def unet_name(name: str, *, layers: int = 1) -> str:
    """Return the LDM name of a UNet tensor; ``layers`` is the config's ``layers_per_block``."""
    for ours, theirs in UNET_ENDS:
        if name.startswith(ours):
            return UNET + theirs + name.removeprefix(ours)
    side, *path = name.split(".")
    if side == "mid_block":
        kind, index, rest = path[0], int(path[1]), ".".join(path[2:])
        place = 2 * index if kind == "resnets" else 2 * index + 1
        return f"{UNET}middle_block.{place}.{_inner(kind, rest)}"
    block, kind, index, rest = int(path[0]), path[1], int(path[2]), ".".join(path[3:])
    if side == "down_blocks":
        if kind == "downsamplers":
            place = 1 + block * (layers + 1) + layers
            return f"{UNET}input_blocks.{place}.0.op.{rest.removeprefix('conv.')}"
        place, slot = 1 + block * (layers + 1) + index, int(kind == "attentions")
        return f"{UNET}input_blocks.{place}.{slot}.{_inner(kind, rest)}"
    if kind == "upsamplers":  # every block that upsamples here has attention, so the slot is 2
        return f"{UNET}output_blocks.{block * (layers + 1) + layers}.2.{rest}"
    place, slot = block * (layers + 1) + index, int(kind == "attentions")
    return f"{UNET}output_blocks.{place}.{slot}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind == "resnets":
        for ours, theirs in UNET_RESNET:
            if rest.startswith(ours):
                return theirs + rest.removeprefix(ours)
    return rest


def vae_name(name: str, *, levels: int = 3) -> str:
    """Return the LDM name of a VAE tensor; LDM counts decoder levels from the bottom."""
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    turn = re.match(r"decoder\.up_blocks\.(\d)\.", name)
    if turn:
        name = name.replace(turn[0], f"decoder.up.{levels - 1 - int(turn[1])}.")
        name = name.replace("resnets.", "block.").replace("upsamplers.0.", "upsample.")
    for ours, theirs in VAE_PARTS:
        name = name.replace(ours, theirs)
    return VAE + name


def text_name(name: str) -> str:
    """Return the LDM name of a text encoder tensor (transformers >= 5.6 drops ``text_model.``)."""
    return TEXT + name.removeprefix("text_model.")


def vae_tensor(name: str, tensor: Tensor) -> Tensor:
    """Give the VAE's attention weights the shape LDM stores."""
    return tensor[:, :, None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor
