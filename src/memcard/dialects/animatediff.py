"""AnimateDiff's motion modules: layers over time, for a UNet that lies elsewhere.

The original keeps the table of positions twice per block, once for each attention; diffusers once. The
second copy is left out: both are the same sines and cosines.

Source: guoyww AnimateDiff, ``animatediff/models/motion_module.py``; diffusers ``single_file_utils.py``,
``unet_motion_model.py`` (class MotionAdapter), and the configs of ``animatediff-motion-adapter-v1-5``,
``-v1-5-2`` and ``-v1-5-3``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from memcard.core.tensors import Specs
from memcard.dialects._configs import MODEL_INDEX, Config, _layers, _list_models
from memcard.dialects._dialect import Component, Dialect, Facts, Parts
from memcard.dialects._link import Link, Side, same

_PLACE = re.compile(r"((?:(?:down|up)_blocks\.\d+|mid_block)\.motion_modules\.\d+)\.")
_IDLE = r".*\.attention_blocks\.1\.pos_encoder\.pe"
_BLOCK = "transformer_blocks.{n}."
_ATTENTION = ("to_q.{leaf}", "to_k.{leaf}", "to_v.{leaf}", "to_out.0.{leaf}")
_INSIDE = {
    **{f"{end}.{{leaf}}": f"{end}.{{leaf}}" for end in ("norm", "proj_in", "proj_out")},
    **{
        f"{_BLOCK}attention_blocks.{n}.{part}": f"{_BLOCK}attn{n + 1}.{part}"
        for n in (0, 1)
        for part in _ATTENTION
    },
    f"{_BLOCK}attention_blocks.0.pos_encoder.pe": f"{_BLOCK}pos_embed.pe",
    f"{_BLOCK}norms.0.{{leaf}}": f"{_BLOCK}norm1.{{leaf}}",
    f"{_BLOCK}norms.1.{{leaf}}": f"{_BLOCK}norm2.{{leaf}}",
    f"{_BLOCK}ff_norm.{{leaf}}": f"{_BLOCK}norm3.{{leaf}}",
    **{
        f"{_BLOCK}ff.{part}.{{leaf}}": f"{_BLOCK}ff.{part}.{{leaf}}"
        for part in ("net.0.proj", "net.2")
    },
}
_HEADS, _GROUPS = 8, 32  # of all published modules; no shape tells
_LONGEST = 32  # frames, where a file has no table of positions
_POSITIONS = "transformer_blocks.0.pos_embed.pe"
_TABLE = 3  # axes of that table


def _links(specs: Specs, side: Side) -> Sequence[Link] | None:
    inside = "temporal_transformer." if side == "ldm" else ""
    if f"down_blocks.0.motion_modules.0.{inside}proj_in.weight" not in specs:
        return None
    places = dict.fromkeys(m[1] for name in specs if (m := _PLACE.match(name)))
    return [
        same(f"{place}.temporal_transformer.{old}", f"{place}.{new}")
        for place in places
        for old, new in _INSIDE.items()
    ]


def _configs(parts: Parts, facts: Facts) -> Mapping[str, Config]:
    """Return the config of a MotionAdapter."""
    del facts
    found: dict[str, Config] = {}
    if "motion_adapter" in parts:
        found["motion_adapter/config.json"] = _adapter(parts["motion_adapter"]["diffusers"])
    index: Config = {"_class_name": "AnimateDiffPipeline"}
    _list_models(index, found)
    return {MODEL_INDEX: index, **found}


def _adapter(specs: Specs) -> Config:
    first = "down_blocks.0.motion_modules"
    levels = _layers(specs, "down_blocks.{}.motion_modules.0.proj_in.weight")
    widths = [
        specs[f"down_blocks.{i}.motion_modules.0.proj_in.weight"].shape[0] for i in range(levels)
    ]
    table = specs.get(f"{first}.0.{_POSITIONS}")
    deep = "{}.0.transformer_blocks.{{}}.attn1.to_q.weight"
    middle = "mid_block.motion_modules"
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": widths,
        "motion_layers_per_block": _layers(specs, f"{first}.{{}}.proj_in.weight"),
        "motion_transformer_layers_per_block": _layers(specs, deep.format(first)),
        "motion_mid_block_layers_per_block": _layers(specs, f"{middle}.{{}}.proj_in.weight") or 1,
        "motion_transformer_layers_per_mid_block": _layers(specs, deep.format(middle)) or 1,
        "motion_num_attention_heads": _HEADS,
        "motion_norm_num_groups": _GROUPS,
        "motion_max_seq_length": (
            table.shape[1] if table and len(table.shape) == _TABLE else _LONGEST
        ),
        "use_motion_mid_block": f"{middle}.0.proj_in.weight" in specs,
        "conv_in_channels": None,
    }


PLUGIN = Dialect(
    title="AnimateDiff motion module",
    source="https://github.com/huggingface/diffusers (0.42, loaders/single_file_utils.py)",
    components=(
        Component("motion_adapter", ("", "module."), ("motion_adapter.", ""), _links, idle=_IDLE),
    ),
    configs=_configs,
)
