"""The UNet of Latent Diffusion, under its single-file names and under those of diffusers.

Single files number the blocks in one row (``input_blocks.4.1``); diffusers counts per resolution
(``down_blocks.1.attentions.0``). Three numbers tell the whole table of names: how many resolutions,
how many resnets in each, and which of them have attention. They are read off the keys.

Source: CompVis latent-diffusion, ``openaimodel.py``; diffusers ``unet_2d_condition.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from memcard.core.tensors import Specs

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
DIFFUSERS_PREFIXES = ("unet.", "")

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TO_K = ".transformer_blocks.0.attn2.to_k.weight"


@dataclass(frozen=True, slots=True)
class UNet:
    """The outline of one UNet, from names and shapes."""

    prefix: str
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]  # per resolution, finest first
    layers: int  # resnets per resolution
    attention: tuple[bool, ...]  # per resolution, going down
    depths: tuple[int, ...]  # transformer layers per attention, per resolution; 0 without attention
    cross: int  # width of the text states
    linear: bool  # proj_in is a matrix, as in SD 2 and SDXL
    labels: bool  # has label_emb, as SDXL has
    label_width: int = 0  # what label_emb takes; 0 if there is none

    @property
    def depth(self) -> int:
        """Transformer layers of the first attention going down."""
        return next((depth for depth in self.depths if depth), 0)

    def config(
        self, *, heads: int | tuple[int, ...], groups: int, sample: int
    ) -> Mapping[str, Any]:
        """Return arguments for diffusers' UNet2DConditionModel.

        Args:
            heads: number of attention heads, everywhere or per resolution.
            groups: of the norms.
            sample: side of a latent picture.
        """
        down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in self.attention]
        up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(self.attention)]
        same = len(set(filter(None, self.depths))) == 1
        depths = self.depth if same else tuple(max(1, depth) for depth in self.depths)
        return {
            "sample_size": sample,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": self.widths,
            "layers_per_block": self.layers,
            "down_block_types": tuple(down),
            "up_block_types": tuple(up),
            "cross_attention_dim": self.cross,
            "attention_head_dim": heads,  # diffusers' old name for the number of heads
            "norm_num_groups": groups,
            "transformer_layers_per_block": depths,
            "use_linear_projection": self.linear,
        }


def outline(specs: Specs) -> UNet | None:
    """Read the outline of the UNet in a file of LDM names; None if there is no whole one."""
    for prefix in PREFIXES:
        if f"{prefix}input_blocks.0.0.weight" in specs and f"{prefix}out.2.weight" in specs:
            return _read(prefix, _under(prefix, specs), "ldm")
    return None


def outline_diffusers(specs: Specs) -> UNet | None:
    """Read the outline of the UNet in a file of diffusers names; None if there is no whole one."""
    for prefix in DIFFUSERS_PREFIXES:
        if f"{prefix}conv_in.weight" in specs and f"{prefix}conv_out.weight" in specs:
            return _read(prefix, _under(prefix, specs), "diffusers")
    return None


def modules(layers: int, attention: tuple[bool, ...], *, labels: str) -> dict[str, str]:
    """Return the table of names: LDM module to diffusers module.

    Args:
        layers: resnets per resolution.
        attention: per resolution, finest first.
        labels: diffusers' name of ``label_emb``: ``add_embedding`` or ``class_embedding``.
    """
    found = dict(_ENDS)
    found["label_emb.0.0"], found["label_emb.0.2"] = f"{labels}.linear_1", f"{labels}.linear_2"
    number, last = 1, len(attention) - 1
    for level, crossed in enumerate(attention):
        for layer in range(layers):
            old = f"input_blocks.{number}"
            _resnet(found, f"{old}.0", f"down_blocks.{level}.resnets.{layer}")
            if crossed:
                found[f"{old}.1"] = f"down_blocks.{level}.attentions.{layer}"
            number += 1
        if level < last:
            found[f"input_blocks.{number}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            number += 1
    for number in range(len(attention) * (layers + 1)):
        _up(found, number, layers, attention)
    _resnet(found, "middle_block.0", "mid_block.resnets.0")
    found["middle_block.1"] = "mid_block.attentions.0"
    _resnet(found, "middle_block.2", "mid_block.resnets.1")
    return found


def _up(found: dict[str, str], number: int, layers: int, attention: tuple[bool, ...]) -> None:
    """Add one block of the way up, which mirrors the way down."""
    level, layer = divmod(number, layers + 1)
    crossed = attention[len(attention) - 1 - level]
    _resnet(found, f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{layer}")
    if crossed:
        found[f"output_blocks.{number}.1"] = f"up_blocks.{level}.attentions.{layer}"
    if layer == layers and level < len(attention) - 1:
        place = 2 if crossed else 1  # the upsampler follows the attention, where there is one
        found[f"output_blocks.{number}.{place}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"


def _resnet(found: dict[str, str], old: str, new: str) -> None:
    found.update({f"{old}.{a}": f"{new}.{b}" for a, b in _RESNET.items()})


def _under(prefix: str, specs: Specs) -> dict[str, tuple[int, ...]]:
    return {n[len(prefix) :]: s.shape for n, s in specs.items() if n.startswith(prefix)}


def _read(prefix: str, shapes: Shapes, dialect: str) -> UNet | None:
    """Read the outline; None unless the keys are those its own table of names tells."""
    levels = _down_ldm(shapes) if dialect == "ldm" else _down_diffusers(shapes)
    counts = {len(level) for level in levels}
    if not levels or len(counts) != 1 or 0 in counts:
        return None
    layers, tops = counts.pop(), [level[0] for level in levels]
    # (resnet, attention) of the first layer of each resolution
    attention = tuple(f"{cross}.proj_in.weight" in shapes for _, cross in tops)
    label = "label_emb.0.0.weight" if dialect == "ldm" else "add_embedding.linear_1.weight"
    table = modules(layers, attention, labels="add_embedding")
    if not _complete(shapes, table, len(levels) * (layers + 1), dialect):
        return None
    conv_in, conv_out, conv = (
        ("input_blocks.0.0", "out.2", "in_layers.2")
        if dialect == "ldm"
        else ("conv_in", "conv_out", "conv1")
    )
    first, last = shapes[f"{conv_in}.weight"], shapes[f"{conv_out}.weight"]
    widths = [shapes.get(f"{resnet}.{conv}.weight", ())[:1] for resnet, _ in tops]
    depths = tuple(_depth(shapes, cross) for _, cross in tops)
    start = next((cross for _, cross in tops if f"{cross}{_TO_K}" in shapes), None)
    if start is None or len(first) != 4 or len(last) != 4 or not all(widths):
        return None
    return UNet(
        prefix=prefix,
        in_channels=first[1],
        out_channels=last[0],
        widths=tuple(w[0] for w in widths),
        layers=layers,
        attention=attention,
        depths=depths,
        cross=(0, *shapes[f"{start}{_TO_K}"])[-1],
        linear=len(shapes.get(f"{start}.proj_in.weight", ())) == 2,
        labels=any(n.startswith(("label_emb.", "add_embedding.")) for n in shapes),
        label_width=(0, *shapes.get(label, ()))[-1],
    )


def _down_ldm(shapes: Shapes) -> list[list[tuple[str, str]]]:
    """Return (resnet, attention) of each layer, per resolution; [] if there is no way down.

    A block whose module is ``op`` is a downsampler: there a resolution ends.
    """
    levels: list[list[tuple[str, str]]] = [[]]
    number = 1
    while True:
        old = f"input_blocks.{number}"
        if f"{old}.0.op.weight" in shapes:
            levels.append([])
        elif f"{old}.0.in_layers.0.weight" in shapes:
            levels[-1].append((f"{old}.0", f"{old}.1"))
        else:
            return levels
        number += 1


def _down_diffusers(shapes: Shapes) -> list[list[tuple[str, str]]]:
    levels: list[list[tuple[str, str]]] = []
    while f"down_blocks.{len(levels)}.resnets.0.conv1.weight" in shapes:
        stem, level = f"down_blocks.{len(levels)}", list[tuple[str, str]]()
        while f"{stem}.resnets.{len(level)}.conv1.weight" in shapes:
            level.append((f"{stem}.resnets.{len(level)}", f"{stem}.attentions.{len(level)}"))
        levels.append(level)
    return levels


def _depth(shapes: Shapes, attention: str) -> int:
    depth = 0
    while f"{attention}.transformer_blocks.{depth}.attn2.to_k.weight" in shapes:
        depth += 1
    return depth


def _complete(shapes: Shapes, table: Mapping[str, str], ups: int, dialect: str) -> bool:
    """Whether the way up mirrors the way down, no block less and none more."""
    resnets = [f"output_blocks.{number}.0.in_layers.0" for number in range(ups)]
    if dialect == "ldm":
        beyond = f"output_blocks.{ups}.0.in_layers.0.weight"
        return beyond not in shapes and all(f"{name}.weight" in shapes for name in resnets)
    return all(f"{table[name]}.weight" in shapes for name in resnets)
