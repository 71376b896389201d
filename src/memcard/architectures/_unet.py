"""The UNet of Latent Diffusion, under its single-file names.

The names number the blocks in one row (``input_blocks.4.1``); diffusers counts per resolution
(``down_blocks.1.attentions.0``). Where a resolution ends is read off the keys: a block whose module
is ``op`` is the downsampler.

Source: CompVis latent-diffusion, ``openaimodel.py``; diffusers ``unet_2d_condition.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memcard.core.tensors import Specs

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")

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


@dataclass(frozen=True, slots=True)
class UNet:
    """The outline of one UNet, from names and shapes."""

    prefix: str
    modules: Mapping[str, str]  # LDM module to diffusers module
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]  # per resolution, finest first
    layers: int  # resnets per resolution
    attention: tuple[bool, ...]  # per resolution, going down
    depth: int  # transformer layers per attention
    cross: int  # width of the text states
    linear: bool  # proj_in is a matrix, as in SD 2 and SDXL
    labels: bool  # has label_emb, as SDXL has

    def config(self, *, heads: int, groups: int, sample: int) -> Mapping[str, Any]:
        """Return arguments for diffusers' UNet2DConditionModel."""
        down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in self.attention]
        up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(self.attention)]
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
            "transformer_layers_per_block": self.depth,
            "use_linear_projection": self.linear,
        }

    def key(self, name: str) -> str | None:
        """Return the diffusers key of a tensor, or None if it is not part of this UNet."""
        if not name.startswith(self.prefix):
            return None
        module, _, leaf = name[len(self.prefix) :].rpartition(".")
        if module in self.modules:
            return f"{self.modules[module]}.{leaf}"
        parts = module.split(".")
        for cut in (3, 2):  # input_blocks.4.1 | middle_block.1, then the path inside an attention
            stem = ".".join(parts[:cut])
            if stem in self.modules and len(parts) > cut:
                return ".".join([self.modules[stem], *parts[cut:], leaf])
        return None


def outline(specs: Specs) -> UNet | None:
    """Read the outline of the UNet in a file; None if there is no whole one."""
    for prefix in PREFIXES:
        if f"{prefix}input_blocks.0.0.weight" in specs and f"{prefix}out.2.weight" in specs:
            shapes = {n[len(prefix) :]: s.shape for n, s in specs.items() if n.startswith(prefix)}
            return _read(prefix, shapes)
    return None


def _read(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> UNet | None:
    modules = dict(_ENDS)
    blocks = _down(shapes, modules)
    counts = {len(resnets) for resnets in blocks}
    if not blocks or len(counts) != 1 or not _up(shapes, modules, len(blocks), counts.copy().pop()):
        return None
    _middle(shapes, modules)
    first = [f"input_blocks.{resnets[0]}" for resnets in blocks]
    crossed = [n for n in shapes if n.endswith("transformer_blocks.0.attn2.to_k.weight")]
    convs = [shapes["input_blocks.0.0.weight"], shapes["out.2.weight"]]
    widths = [shapes.get(f"{b}.0.in_layers.2.weight", ())[:1] for b in first]
    if not crossed or any(len(c) != 4 for c in convs) or not all(widths):
        return None
    start = crossed[0].removesuffix("transformer_blocks.0.attn2.to_k.weight")
    return UNet(
        prefix=prefix,
        modules=modules,
        in_channels=convs[0][1],
        out_channels=convs[1][0],
        widths=tuple(w[0] for w in widths),
        layers=counts.pop(),
        attention=tuple(f"{b}.1.proj_in.weight" in shapes for b in first),
        depth=sum(n.startswith(start) and n.endswith("attn2.to_k.weight") for n in shapes),
        cross=(0, *shapes[crossed[0]])[-1],
        linear=len(shapes.get(f"{start}proj_in.weight", ())) == 2,
        labels=any(n.startswith("label_emb.") for n in shapes),
    )


def _resnet(modules: dict[str, str], old: str, new: str) -> None:
    modules.update({f"{old}.{a}": f"{new}.{b}" for a, b in _RESNET.items()})


def _down(shapes: Mapping[str, tuple[int, ...]], modules: dict[str, str]) -> list[list[int]]:
    """Add the way down; return the numbers of the resnets of each resolution."""
    blocks: list[list[int]] = [[]]
    number = 1
    while True:
        old, level = f"input_blocks.{number}", len(blocks) - 1
        if f"{old}.0.op.weight" in shapes:
            modules[f"{old}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            blocks.append([])
        elif f"{old}.0.in_layers.0.weight" in shapes:
            layer = len(blocks[-1])
            _resnet(modules, f"{old}.0", f"down_blocks.{level}.resnets.{layer}")
            modules[f"{old}.1"] = f"down_blocks.{level}.attentions.{layer}"
            blocks[-1].append(number)
        else:
            return blocks if all(blocks) else []
        number += 1


def _up(
    shapes: Mapping[str, tuple[int, ...]], modules: dict[str, str], levels: int, layers: int
) -> bool:
    """Add the way up; False unless it mirrors the way down."""
    rows = layers + 1
    for number in range(levels * rows):
        old = f"output_blocks.{number}"
        if f"{old}.0.in_layers.0.weight" not in shapes:
            return False
        level, layer = divmod(number, rows)
        _resnet(modules, f"{old}.0", f"up_blocks.{level}.resnets.{layer}")
        for place in (1, 2):  # the upsampler follows the attention, where there is one
            if f"{old}.{place}.conv.weight" in shapes:
                modules[f"{old}.{place}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
            elif place == 1:
                modules[f"{old}.1"] = f"up_blocks.{level}.attentions.{layer}"
    return f"output_blocks.{levels * rows}.0.in_layers.0.weight" not in shapes


def _middle(shapes: Mapping[str, tuple[int, ...]], modules: dict[str, str]) -> None:
    _resnet(modules, "middle_block.0", "mid_block.resnets.0")
    modules["middle_block.1"] = "mid_block.attentions.0"
    _resnet(modules, "middle_block.2", "mid_block.resnets.1")
