"""The skeleton of a Stable Diffusion UNet as signs, under LDM's names and under diffusers'.

LDM numbers the blocks in one row, so a block's number follows from how many resolutions there are
and how many resnets each has; the families state what is at those numbers.

Source: CompVis latent-diffusion, ``openaimodel.py``; diffusers ``unet_2d_condition.py``.
"""

from __future__ import annotations

from typing import Final

from memcard.architectures._signs import Sign, any_of, count, lacks, narrow, rank, width

FIRST: Final = ("input_blocks.0.0.weight", "conv_in.weight")  # what the UNet is given
CONSISTENCY: Final = ("time_embed.cond_proj.weight", "time_embedding.cond_proj.weight")

_WORDS: Final = {3: "three", 4: "four"}


def ldm(levels: int, resnets: int = 2) -> tuple[Sign, ...]:
    """Signs of a whole UNet with so many resolutions and resnets at each, LDM's names.

    Shut out are those that move (SVD's ``time_stack``, ModelScope's layer beside the attention).
    """
    return (
        rank("input_blocks.0.0.weight", 4),
        rank("out.2.weight", 4),
        count("output_blocks.{}.0.in_layers.0.weight", levels * (resnets + 1)),
        count("input_blocks.{}.0.op.weight", levels - 1, says=f"{_WORDS[levels]} resolutions"),
        lacks("input_blocks.1.0.time_stack.", "input_blocks.1.2.", "input_blocks.0.1."),
    )


def diffusers(levels: int, resnets: int = 2) -> tuple[Sign, ...]:
    """Signs of a whole UNet under diffusers' names; shut out are ControlNets and those that move."""
    return (
        rank("conv_in.weight", 4),
        rank("conv_out.weight", 4),
        count(
            "down_blocks.{}.resnets.0.conv1.weight", levels, says=f"{_WORDS[levels]} resolutions"
        ),
        count(f"up_blocks.{{}}.resnets.{resnets}.conv1.weight", levels),
        lacks(f"up_blocks.0.resnets.{resnets + 1}.", "controlnet_cond_embedding."),
        lacks("down_blocks.0.temp_convs.", "transformer_in."),
    )


def text(attention: str, wide: int, says: str) -> Sign:
    """The text an attention reads is so wide, or narrower than in every published model."""
    key = f"{attention}.transformer_blocks.0.attn2.to_k.weight"
    twin = f"a narrow twin ({says} has {wide})"
    return any_of(width(key, 1, wide, says=says), narrow(key, 1, min(wide, 768), says=twin))


def depth(attention: str, layers: int, *more: int, says: str = "") -> Sign:
    """An attention is so many transformer layers deep."""
    pattern = f"{attention}.transformer_blocks.{{}}.attn2.to_k.weight"
    return count(pattern, layers, *more, says=says)
