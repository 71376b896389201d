"""The links and the outline of LTX-Video's autoencoder, from its names on either side.

Its authors number all blocks of a half in one row: layers, a resampling, a change of width, layers…
diffusers groups them by resolution. The row is read off the names, so that every release (0.9.0, 0.9.1,
0.9.5 and later) and every length of it needs no table of its own.

Source: Lightricks LTX-Video, ``causal_video_autoencoder.py``; diffusers ``single_file_utils.py`` and
``autoencoder_kl_ltx.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal, TypeAlias

from memcard.core.tensors import Specs
from memcard.dialects._dialect import Component
from memcard.dialects._link import Link, Side, same

Kind: TypeAlias = Literal["layers", "resnet", "resample"]
Half: TypeAlias = Literal["encoder", "decoder"]

_STATISTICS = "per_channel_statistics."
# Two more of the four statistics in every original file; nothing reads them.
_IDLE = r"per_channel_statistics\.(?:channel|mean-of-stds.*)"
_COLOURS = 3
_RANK = 5  # of a kernel: out, in, frames, rows, columns
_CHANGES = {  # (frames, rows, columns) that one resampling folds into channels
    "spatial": (1, 2, 2),
    "temporal": (2, 1, 1),
    "spatiotemporal": (2, 2, 2),
}


@dataclass(frozen=True, slots=True)
class Block:
    """One entry of the row.

    Attributes:
        kind: several residual layers, one that changes the width, or a resampling.
        ldm: its name in files of the authors.
        diffusers: its name there.
    """

    kind: Kind
    ldm: str
    diffusers: str


def row(specs: Specs, side: Side, half: Half) -> list[Block]:
    """Return the blocks of one half in the order data goes through them; [] if it is not whole."""
    kinds = _kinds_ldm(specs, half) if side == "ldm" else _kinds_diffusers(specs, half)
    ends = [specs.get(f"{half}.{end}.conv.weight") for end in ("conv_in", "conv_out")]
    if any(end is None or len(end.shape) != _RANK for end in ends):
        return []
    if not kinds or kinds[0] != "layers" or kinds[-1] != "layers":
        return []
    step = "down" if half == "encoder" else "up"
    names = _places(kinds, half)
    return [
        Block(kind, f"{half}.{step}_blocks.{at}", f"{half}.{name}")
        for at, (kind, name) in enumerate(zip(kinds, names, strict=True))
    ]


def _kinds_ldm(specs: Specs, half: Half) -> list[Kind]:
    stem = f"{half}.{'down' if half == 'encoder' else 'up'}_blocks."
    found: list[Kind] = []
    while True:
        at = f"{stem}{len(found)}."
        if f"{at}res_blocks.0.conv1.conv.weight" in specs:
            found.append("layers")
        elif f"{at}conv1.conv.weight" in specs:
            found.append("resnet")
        elif f"{at}conv.weight" in specs or f"{at}conv.conv.weight" in specs:
            found.append("resample")
        else:
            return found


def _kinds_diffusers(specs: Specs, half: Half) -> list[Kind]:
    step = "down" if half == "encoder" else "up"
    groups: list[list[Kind]] = []
    while True:
        at = f"{half}.{step}_blocks.{len(groups)}."
        there: list[Kind] = []
        if f"{at}conv_in.conv1.conv.weight" in specs:
            there.append("resnet")
        moved = f"{at}{step}samplers.0.conv"
        scaled = f"{moved}.weight" in specs or f"{moved}.conv.weight" in specs
        if f"{at}resnets.0.conv1.conv.weight" in specs:
            there += ["layers", "resample"] if half == "encoder" and scaled else ["layers"]
        if half == "decoder" and scaled:
            there.insert(len(there) - 1, "resample")
        if f"{at}conv_out.conv1.conv.weight" in specs:
            there.append("resnet")
        if not there:
            break
        groups.append(there)
    middle: list[Kind] = (
        ["layers"] if f"{half}.mid_block.resnets.0.conv1.conv.weight" in specs else []
    )
    order = [middle, *groups] if half == "decoder" else [*groups, middle]
    return [kind for group in order for kind in group]


def _places(kinds: Sequence[Kind], half: Half) -> list[str]:
    """Return diffusers' name of each block of a row.

    A group of the encoder begins with its layers, one of the decoder ends with them; the layers next
    to the latents are the middle.
    """
    names: list[str] = []
    group = -1
    encoder = half == "encoder"
    last = max((i for i, kind in enumerate(kinds) if kind == "layers"), default=-1)
    for at, kind in enumerate(kinds):
        if at == (last if encoder else 0):
            names.append("mid_block")
            continue
        if encoder:
            group += kind == "layers"
            own = {"layers": "", "resample": ".downsamplers.0", "resnet": ".conv_out"}[kind]
            names.append(f"down_blocks.{group}{own}")
        else:
            group += kinds[at - 1] == "layers"
            own = {"layers": "", "resample": ".upsamplers.0", "resnet": ".conv_in"}[kind]
            names.append(f"up_blocks.{group}{own}")
    return names


def links(specs: Specs, side: Side) -> Sequence[Link] | None:
    """Return the links of the autoencoder; None if there is none on this side."""
    halves: tuple[Half, Half] = ("encoder", "decoder")
    rows = {half: row(specs, side, half) for half in halves}
    if not any(rows.values()) or not _is_ltx(specs, side):
        return None
    found = [
        same(f"{half}.{end}.conv.{{leaf}}", f"{half}.{end}.conv.{{leaf}}")
        for half in rows
        for end in ("conv_in", "conv_out")
    ]
    for blocks in rows.values():
        for block in blocks:
            found += _block(block)
    last = "decoder.last_"
    return [
        *found,
        same("decoder.timestep_scale_multiplier", "decoder.timestep_scale_multiplier"),
        same(f"{last}scale_shift_table", "decoder.scale_shift_table"),
        same(f"{last}time_embedder.{{rest}}", "decoder.time_embedder.{rest}"),
        same(f"{_STATISTICS}mean-of-means", "latents_mean"),
        same(f"{_STATISTICS}std-of-means", "latents_std"),
    ]


def _is_ltx(specs: Specs, side: Side) -> bool:
    """Whether the statistics of the latents are there, as no other autoencoder with such names has."""
    mark = f"{_STATISTICS}std-of-means" if side == "ldm" else "latents_std"
    return mark in specs and not any(name.startswith("audio_vae.") for name in specs)


def _block(block: Block) -> list[Link]:
    old, new = block.ldm, block.diffusers
    if block.kind == "resample":
        return [
            same(f"{old}.conv.{{leaf}}", f"{new}.conv.{{leaf}}"),
            same(f"{old}.conv.conv.{{leaf}}", f"{new}.conv.conv.{{leaf}}"),
        ]
    if block.kind == "resnet":
        return _resnet(old, new)
    time = same(f"{old}.time_embedder.{{rest}}", f"{new}.time_embedder.{{rest}}")
    return [*_resnet(f"{old}.res_blocks.{{n}}", f"{new}.resnets.{{n}}"), time]


def _resnet(old: str, new: str) -> list[Link]:
    own = ("conv1.conv.{leaf}", "conv2.conv.{leaf}", "scale_shift_table")
    scales = ("per_channel_scale1", "per_channel_scale2")  # of the noise that is added
    return [
        *(same(f"{old}.{name}", f"{new}.{name}") for name in (*own, *scales)),
        same(f"{old}.norm3.norm.{{leaf}}", f"{new}.norm3.{{leaf}}"),
        same(f"{old}.conv_shortcut.{{leaf}}", f"{new}.conv_shortcut.conv.{{leaf}}"),
    ]


def config(specs: Specs) -> Mapping[str, Any]:
    """Return the config of diffusers' AutoencoderKLLTXVideo, read off its tensors.

    Args:
        specs: under diffusers' bare names. A half that is missing gets the shape of the other.
    """
    down, up = row(specs, "diffusers", "encoder"), row(specs, "diffusers", "decoder")
    latents = specs["latents_std"].shape[0]
    found: dict[str, Any] = {
        "_class_name": "AutoencoderKLLTXVideo",
        "in_channels": _COLOURS,
        "out_channels": _COLOURS,
        "latent_channels": latents,
        "patch_size_t": 1,
        "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0,
        "encoder_causal": True,
        "decoder_causal": False,
    }
    if down:
        found |= _encoder(specs, down)
    if up:
        found |= _decoder(specs, up)
    return found


def _encoder(specs: Specs, blocks: Sequence[Block]) -> dict[str, Any]:
    groups = _groups([b for b in blocks if b.diffusers != "encoder.mid_block"], "encoder")
    widths = [_width(specs, group[0]) for group in groups]
    middle = _width(specs, blocks[-1])
    scales = [_resampling(specs, group) for group in groups]
    folded = any(scale not in (None, "conv") for scale in scales)  # 0.9.5 and later
    sides = sum(scale not in (None, "temporal") for scale in scales)
    times = sum(scale not in (None, "spatial") for scale in scales)
    patch = isqrt(specs["encoder.conv_in.conv.weight"].shape[1] // _COLOURS)
    return {
        "block_out_channels": [*widths, middle] if folded else widths,
        "down_block_types": [f"LTXVideo{'095' if folded else ''}DownBlock3D"] * len(groups),
        "layers_per_block": [*(_layers(specs, g) for g in groups), _layers(specs, [blocks[-1]])],
        "spatio_temporal_scaling": [scale is not None for scale in scales],
        "downsample_type": [scale or "conv" for scale in scales],
        "patch_size": patch,
        "spatial_compression_ratio": patch * 2**sides,
        "temporal_compression_ratio": 2**times,
    }


def _decoder(specs: Specs, blocks: Sequence[Block]) -> dict[str, Any]:
    """Read the decoder; diffusers lists its resolutions from the finest."""
    middle, groups = blocks[0], _groups(blocks[1:], "decoder")
    factors, widths = list[int](), list[int]()
    before = _width(specs, middle)
    for group in groups:
        width = _width(specs, group[-1])
        changed = any(block.kind == "resnet" for block in group)
        factor = 1 if changed else max(1, before // max(1, width))
        factors.append(factor)
        widths.append(width * factor)
        before = width
    every = [middle, *(group[-1] for group in groups)]
    noisy = [f"{b.diffusers}.resnets.0.per_channel_scale1" in specs for b in every]
    out = specs["decoder.conv_out.conv.weight"].shape[0]
    return {
        "decoder_block_out_channels": widths[::-1],
        "decoder_layers_per_block": [_layers(specs, [block]) for block in every][::-1],
        "decoder_spatio_temporal_scaling": [
            any(block.kind == "resample" for block in group) for group in groups
        ][::-1],
        "decoder_inject_noise": noisy[::-1],
        # 0.9.1 brought both at once: a shortcut around the resampling, and the factor.
        "upsample_residual": [factor > 1 for factor in factors][::-1],
        "upsample_factor": factors[::-1],
        "timestep_conditioning": "decoder.scale_shift_table" in specs,
        "patch_size": isqrt(out // _COLOURS),
    }


def _groups(blocks: Sequence[Block], half: Half) -> list[list[Block]]:
    """Split a row into resolutions."""
    found: list[list[Block]] = []
    begins = half == "encoder"
    fresh = True
    for block in blocks:
        if fresh if not begins else block.kind == "layers":
            found.append([])
        found[-1].append(block)
        fresh = block.kind == "layers"
    return found


def _width(specs: Specs, block: Block) -> int:
    return specs[f"{block.diffusers}.resnets.0.conv1.conv.weight"].shape[0]


def _layers(specs: Specs, group: Sequence[Block]) -> int:
    layers = next(block.diffusers for block in group if block.kind == "layers")
    count = 0
    while f"{layers}.resnets.{count}.conv1.conv.weight" in specs:
        count += 1
    return count


def _resampling(specs: Specs, group: Sequence[Block]) -> str | None:
    """Return diffusers' word for how a group of the encoder shrinks; None if it does not.

    Space and time folded into channels: the kernel gives a 1/4, 1/2 or 1/8 of the next width.
    """
    block = next((b for b in group if b.kind == "resample"), None)
    if block is None:
        return None
    return "conv" if f"{block.diffusers}.conv.weight" in specs else _folded(specs, block)


def _folded(specs: Specs, block: Block) -> str:
    made = specs[f"{block.diffusers}.conv.conv.weight"].shape[0]
    group = int(block.diffusers.split(".")[2])
    after = specs.get(f"encoder.down_blocks.{group + 1}.resnets.0.conv1.conv.weight")
    wide = (after or specs["encoder.mid_block.resnets.0.conv1.conv.weight"]).shape[0]
    folds = {a * b * c: name for name, (a, b, c) in _CHANGES.items()}
    return folds.get(wide // made if made else 0, "spatiotemporal")


def component() -> Component:
    """Return the component."""
    return Component("vae", ("vae.", ""), ("vae.", ""), links, idle=_IDLE)
