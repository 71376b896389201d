"""Where in a model a tensor sits: its component, its block, and what kind of layer it is.

Told from names alone, in the spellings of LDM, ComfyUI, diffusers and kohya. A name that no rule
knows is filed under its first word: shown, never hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

# Longest first. What stands behind a prefix is a name of that component.
PREFIXES: Final[Mapping[str, str]] = {
    "model.diffusion_model.": "denoiser",
    "diffusion_model.": "denoiser",
    "model_ema.": "ema",
    "model.model.": "denoiser",
    "net.": "denoiser",
    "unet.": "unet",
    "transformer_2.": "transformer_2",
    "first_stage_model.": "vae",
    "vae.": "vae",
    "cond_stage_model.transformer.": "text_encoder",
    "cond_stage_model.model.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
    "conditioner.embedders.0.model.": "text_encoder",
    "conditioner.embedders.1.model.": "text_encoder_2",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoders.t5xxl.transformer.": "text_encoder_3",
    "text_encoders.clip_l.": "text_encoder",
    "text_encoders.clip_g.": "text_encoder_2",
    "text_encoders.t5xxl.": "text_encoder_3",
    "te.": "text_encoder",
    "te1.": "text_encoder",
    "te2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "image_encoder.": "image_encoder",
    "controlnet.": "controlnet",
    "control_model.": "controlnet",
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
}
# A text encoder's own names may begin with ``transformer.``: only files without one mean diffusers'.
_DIFFUSERS_TRANSFORMER: Final = "transformer."

_UNET: Final = re.compile(
    r"(input_blocks|middle_block|output_blocks|time_embed|label_emb|out|down_blocks|up_blocks|mid_block"
    r"|time_embedding|add_embedding|conv_in|conv_norm_out|conv_out|encoder_hid_proj)\b"
    r"|(input_blocks|middle_block|output_blocks|down_blocks|up_blocks|mid_block)_"
)
_FIRST: Final = re.compile(
    r"((encoder|decoder)\.)?(time|label|add_|guidance|vector_in|timestep|[txy]_|pos|context|caption|cap_|img_in"
    r"|txt_in|embed|shared|token|conv_in|patch|condition)"
)
_LAST: Final = re.compile(
    r"((encoder|decoder)\.)?(out\b|conv_norm|norm_out|conv_out|final|ln_final|proj_out|head)"
)
_STAGES: Final = (
    (1, re.compile(r"((encoder|decoder)\.)?(input_blocks|down)")),
    (
        2,
        re.compile(
            r"((encoder|decoder)\.)?mid|double|joint|transformer_blocks|layers|blocks|resblocks|block\b"
        ),
    ),
    (3, re.compile(r"((encoder|decoder)\.)?(output_blocks|up)|single")),
)
_SIDES: Final = {"encoder": 0, "quant_conv": 1, "post_quant_conv": 2, "decoder": 3}
COMPONENTS: Final = (
    *("unet", "transformer", "transformer_2", "controlnet", "vae"),
    *("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder", "ema"),
)

_VAE: Final = re.compile(r"(encoder|decoder)\.(?!layers|block\.)|(post_)?quant_conv\b")
_TEXT: Final = re.compile(
    r"text_model\.|embeddings\.|encoder\.(layers|block)\.|final_layer_norm\.|shared\.|resblocks\."
    r"|transformer\.resblocks\.|token_embedding\.|positional_embedding|ln_final\.|text_projection"
    r"|model\.(layers|embed_tokens|norm)\b"
)
_CONTAINER: Final = re.compile(
    r"(?:^|[._])(?P<side>(?:encoder|decoder)[._])?(?:[a-z]+_model[._])*"
    r"(?P<stem>(?:(?!encoder_|decoder_)[a-z]+_)*(?:blocks?|layers|resblocks|double_layers|single_layers|down|up))[._](?P<n>\d+)"
)
_MIDDLE: Final = re.compile(
    r"^(?P<side>(?:encoder|decoder)\.)?(?P<stem>middle_block|mid_block|mid|middle)[._]"
)
_WORD: Final = re.compile(r"^(?:text_model[._])?(?:transformer\.)?((?:encoder|decoder)\.)?([^.]+)")

# Noise schedules and markers, which many old files carry beside their weights.
_SCHEDULE: Final = re.compile(
    r"(model\.model_sampling\.)?(alphas|betas|sqrt_|log_one_minus|posterior_|lvlb_|sigmas|logvar|edm_|v_pred"
    r"|ztsnr|scale_factor)"
)

# The first that fits decides. Layers that steer a norm come before norms, cross- before self-attention.
_LAYERS: Final = tuple(
    (kind, re.compile("|".join(patterns), re.IGNORECASE))
    for kind, patterns in {
        "steering": (
            *("adaln", "modulation", r"(^|[._])mod\b", "_mod_", r"norm\d?(_context)?\.linear"),
            "scale_shift_table",
        ),
        "time": (
            *("emb_layers", "time_emb", r"\btime_in", "timestep", r"\bt_embedder", r"\bt_block"),
            *("label_emb", "add_embedding", "vector_in", "guidance", r"\by_embedder"),
            *("time_text_embed", "time_proj"),
        ),
        "norm": ("norm", r"\bln_", r"in_layers\.0\.", r"out_layers\.0\.", r"(^|\.)out\.0\."),
        "cross-attention": ("attn2", "cross_attn", "encoder_attn", "cross_attention"),
        "attention": ("attn", "attention", "qkv", r"to_[qkv]\b", r"\b[qkv]_proj", "in_proj"),
        "fused": (
            *("linear1", "linear2", "proj_mlp"),
            r"single(_transformer)?_blocks\.\d+\.proj_out",
        ),
        "mlp": (
            *(r"\bff\b", "_ff_", "mlp", r"fc\d", "feed_forward", "ffn", r"\bw[123io]\b"),
            *("DenseReluDense", "c_fc", "c_proj"),
        ),
        "embedding": ("embed", "img_in", "txt_in", r"(^|\.)shared\b"),
        "projection": ("proj_in", "proj_out", r"proj\b", "projection", "final"),
        "convolution": (
            *("conv", "in_layers", "out_layers", "skip_connection", "shortcut", "resnets"),
            *("downsample", "upsample", r"\bop\b", r"input_blocks\.0\.", r"(^|\.)out\."),
        ),
    }.items()
)
KINDS: Final = (
    *("cross-attention", "attention", "mlp", "fused", "convolution", "projection"),
    *("norm", "steering", "time", "embedding", "other"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor sits."""

    component: str  # unet, transformer, vae, text_encoder, … or the first word of the name
    block: str  # such as input_blocks.4, decoder.up.2, layers.11, or the name of a single layer
    layer: str  # one of KINDS


def places(names: Iterable[str]) -> dict[str, Place]:
    """Return the place of each tensor of one checkpoint."""
    names = tuple(names)
    lone = not any(name.startswith("cond_stage_model.") for name in names)
    return {name: _place(name, diffusers=lone) for name in names}


def order(place: Place) -> tuple[int, int, int, str, int]:
    """Return where a place comes in the order in which a model computes; for ``sorted``."""
    block = place.block
    component = COMPONENTS.index(place.component) if place.component in COMPONENTS else 99
    side = _SIDES.get(block.split(".")[0], 0)
    stem, _, number = block.rpartition(".")
    if not number.isdigit():
        stem, number = block, "0"
    return component, side, _stage(block), stem, int(number)


def _stage(block: str) -> int:
    if _FIRST.match(block):
        return 0
    for stage, pattern in _STAGES:
        if pattern.match(block):
            return stage
    if not _LAST.match(block):
        return 6
    return 4 if "norm" in block else 5


def strip(name: str) -> str:
    """Return a name without what says which component it is of."""
    for prefix in (*PREFIXES, _DIFFUSERS_TRANSFORMER):
        if name.startswith(prefix) and not name.startswith("transformer.resblocks."):
            return name.removeprefix(prefix)
    return name


def _place(name: str, *, diffusers: bool) -> Place:
    if _SCHEDULE.match(name):
        return Place("other", "schedule", "other")
    component, rest = _component(name, diffusers=diffusers)
    return Place(component, _block(rest), _layer(rest))


def _component(name: str, *, diffusers: bool) -> tuple[str, str]:
    for prefix, component in PREFIXES.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            known = "unet" if _UNET.match(rest) else "transformer"
            return known if component == "denoiser" else component, rest
    if diffusers and name.startswith(_DIFFUSERS_TRANSFORMER) and not _TEXT.match(name):
        return "transformer", name.removeprefix(_DIFFUSERS_TRANSFORMER)
    for component, pattern in (("text_encoder", _TEXT), ("vae", _VAE), ("unet", _UNET)):
        if pattern.match(name):
            return component, name
    return ("transformer" if _CONTAINER.search(name) else "other"), name


def _block(rest: str) -> str:
    if found := _MIDDLE.match(rest):
        return f"{found['side'] or ''}{found['stem']}"
    if found := _CONTAINER.search(rest):
        side = (found["side"] or "").replace("_", ".")
        text = rest.startswith(("text_model", "encoder.layers", "encoder.block"))
        return f"{'' if text else side}{found['stem']}.{found['n']}"
    found = _WORD.match(rest)
    return f"{found[1] or ''}{found[2]}" if found else rest


def _layer(rest: str) -> str:
    return next((name for name, pattern in _LAYERS if pattern.search(rest)), "other")
