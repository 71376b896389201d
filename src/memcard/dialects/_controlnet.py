"""ControlNets of Stable Diffusion: the way down of a UNet, with a door beside every block.

The names of the way down are those of the UNet itself. No family of ``DIALECTS``: a ControlNet goes beside a
checkpoint and has no folder with other parts.

Source: lllyasviel ControlNet, ``cldm/cldm.py``; diffusers ``models/controlnets/controlnet.py`` and
``loaders/single_file_utils.py``; configs of ``control_v11p_sd15_canny`` and ``controlnet-canny-sdxl-1.0``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from memcard.architectures import _unet
from memcard.core.tensors import Specs
from memcard.dialects._dialect import Component, Dialect
from memcard.dialects._link import Link, Side, same
from memcard.errors import MismatchError

_MATRIX: Final = 2  # axes
_DOWN: Final = ("time_embed.", "input_blocks.", "middle_block.", "label_emb.")
_HINTS: Final = {  # convolutions on the picture, with activations between them
    0: "conv_in",
    **{2 * (i + 1): f"blocks.{i}" for i in range(6)},
    14: "conv_out",
}
_OF_UNET: Final = (  # what no shape tells is as in the UNet it goes with
    *("attention_head_dim", "num_attention_heads", "norm_num_groups", "upcast_attention"),
    *("cross_attention_dim", "addition_time_embed_dim", "norm_eps", "act_fn"),
)


def _links(specs: Specs, side: Side) -> Sequence[Link] | None:
    shapes = {name: tuple(spec.shape) for name, spec in specs.items()}
    door = "zero_convs.0.0.weight" if side == "ldm" else "controlnet_down_blocks.0.weight"
    found = _levels(shapes, side)
    if door not in shapes or found is None:
        return None
    layers, attention = found
    table = _unet.modules(layers, attention, labels="add_embedding")
    count = len(attention) * (layers + 1)
    links = [
        same(f"{a}.{{rest}}", f"{b}.{{rest}}") for a, b in table.items() if a.startswith(_DOWN)
    ]
    links += [
        same(f"input_hint_block.{i}.{{leaf}}", f"controlnet_cond_embedding.{name}.{{leaf}}")
        for i, name in _HINTS.items()
    ]
    links += [
        same(f"zero_convs.{i}.0.{{leaf}}", f"controlnet_down_blocks.{i}.{{leaf}}")
        for i in range(count)
    ]
    return [*links, same("middle_block_out.0.{leaf}", "controlnet_mid_block.{leaf}")]


def _levels(
    shapes: Mapping[str, tuple[int, ...]], side: Side
) -> tuple[int, tuple[bool, ...]] | None:
    """Return resnets per resolution, and which resolutions have attention."""
    levels = _unet._down_ldm(shapes) if side == "ldm" else _unet._down_diffusers(shapes)
    counts = {len(level) for level in levels}
    if not levels or len(counts) != 1 or 0 in counts:
        return None
    attention = tuple(f"{level[0][1]}.proj_in.weight" in shapes for level in levels)
    return counts.pop(), attention


DIALECT: Final = Dialect(
    title="ControlNet",
    source="https://github.com/huggingface/diffusers (0.42, loaders/single_file_utils.py)",
    components=(Component("controlnet", ("control_model.", ""), ("controlnet.", ""), _links),),
    configs=lambda parts, facts: {},
)


def config(specs: Specs, unet: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return arguments for diffusers' ControlNetModel.

    Args:
        specs: of the ControlNet, under diffusers' bare names.
        unet: the config of the UNet it goes with.
        label: what to call the file in errors.

    Raises:
        MismatchError: tensors that tell the outline are missing.
    """
    shapes = {name: tuple(spec.shape) for name, spec in specs.items()}
    levels = _unet._down_diffusers(shapes)
    tops = [level[0] for level in levels]
    attention = [f"{cross}.proj_in.weight" in shapes for _, cross in tops]
    first = next((cross for (_, cross), has in zip(tops, attention, strict=True) if has), None)
    linear = unet.get("use_linear_projection", False)
    if first is not None:
        linear = len(shapes[f"{first}.proj_in.weight"]) == _MATRIX
    middle = "mid_block.attentions.0.proj_in.weight" in shapes
    hint = "controlnet_cond_embedding"
    hints = ("conv_in", "blocks.1", "blocks.3", "blocks.5")
    found = {
        **{key: unet[key] for key in _OF_UNET if key in unet},
        "in_channels": _side(shapes, "conv_in", 1, label),
        "conditioning_channels": _side(shapes, f"{hint}.conv_in", 1, label),
        "conditioning_embedding_out_channels": [
            _side(shapes, f"{hint}.{name}", 0, label) for name in hints
        ],
        "block_out_channels": [_side(shapes, f"{name}.conv1", 0, label) for name, _ in tops],
        "layers_per_block": len(levels[0]) if levels else 0,
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "transformer_layers_per_block": [max(1, _unet._depth(shapes, c)) for _, c in tops],
        "use_linear_projection": linear,
    }
    if "add_embedding.linear_1.weight" in shapes:
        wide = _side(shapes, "add_embedding.linear_1", 1, label)
        found |= {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": wide}
    return found


def _side(shapes: Mapping[str, tuple[int, ...]], module: str, axis: int, label: str) -> int:
    """Return the rows (0) or columns (1) of a module's weight."""
    shape = shapes.get(f"{module}.weight", ())
    if len(shape) <= axis or not shape[axis]:
        raise MismatchError(
            f"{label}: this ControlNet lacks {module}.weight, or it is no matrix: {shape}. "
            "The file is incomplete; get it again."
        )
    return shape[axis]
